"""Starts the programs that a shim executes.

A child gets exactly the descriptors it is given (0, 1 and 2 are /dev/null by default), default
signal handlers, an empty signal mask, and a signal when the shim dies.  It inherits umask, limits,
priority, cgroup and session.  A runtime passes all of this on to the container: Python ignores
SIGPIPE, and without a reset every program in every container would ignore it, too.

A C function does the work (_spawn.c: vfork, 0.6 ms).  If it was not compiled, the same steps are
made in Python after `os.fork` (1.2 to 2.1 ms).  Both block all signals until the child has reset
them.  PATH is not searched.  This module does not pass the pid to the reaper: the caller has to
claim it in the same iteration of the loop, or within a launch window.
"""

import ctypes
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from ctypes import POINTER, c_char_p, c_int
from dataclasses import dataclass
from threading import get_ident, main_thread
from typing import Final, NoReturn

from shimv2 import COMPILED_DIR
from shimv2.kernel import linux

NULL_DEVICE: Final = "/dev/null"
_FROM_NULL: Final = -1  # in `Plan.sources`

# Where a child failed; the numbers of _spawn.c.
_STEP_FORK, _STEP_SETUP, _STEP_CWD, _STEP_FDS, _STEP_NULL, _STEP_EXEC = range(1, 7)

_LIBRARY: Final = os.path.join(COMPILED_DIR, "libspawn.so")
_HIDDEN_SIGNALS: Final = (32, 33)  # reserved by the C library: `signal` cannot reset them
_SIGSET_BYTES: Final = 8
_RT_SIGACTION: Final = {
    "x86_64": 13, "aarch64": 134, "riscv64": 134, "loongarch64": 134, "ppc64le": 173, "s390x": 174
}.get(os.uname().machine)  # fmt: skip
_DEFAULT_ACTION: Final = bytes(128)  # SIG_DFL, no flags, empty mask: all zero, whatever the layout


@dataclass(frozen=True, slots=True)
class Plan:
    """The arguments of one child, in the form that the kernel takes."""

    executable: bytes
    argv: list[bytes]
    env: list[bytes]  # NAME=value
    cwd: bytes | None
    wanted: list[int]  # the child's fd numbers, ascending, 0, 1 and 2 always among them
    sources: list[int]  # fds of the shim, in the same order; -1 = /dev/null
    death_signal: int
    process_group: bool


class _Failed(Exception):
    def __init__(self, step: int, number: int) -> None:
        super().__init__(step, number)
        self.step = step
        self.errno = number


def spawn(
    argv: Sequence[str],
    *,
    executable: str | None = None,
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
    fds: Mapping[int, int] = {},
    death_signal: int | None = signal.SIGKILL,
    process_group: bool = False,
) -> int:
    """Start a program; return its pid once execve(2) has succeeded.

    `fds` maps descriptor numbers of the child to descriptors of the caller, which stay open.  With
    `env` None, the child gets the current environment.  The kernel sends `death_signal` to the
    child when the calling thread ends, which has to be the main thread.

    Raises:
        OSError: execve failed, with the executable as the filename; the working directory or a
            descriptor is invalid, with its name; an argument contains NUL (EINVAL); or the process
            could not be made (EAGAIN, ENOMEM).  Then there is no child.
    """
    if death_signal and get_ident() != main_thread().ident:
        raise RuntimeError("only the main thread may spawn: its death would end the child")
    if not argv:
        raise ValueError("argv is empty")
    path = argv[0] if executable is None else executable
    wanted = sorted({0, 1, 2, *fds})
    if wanted[0] < 0 or min(fds.values(), default=0) < 0:
        raise ValueError("a negative file descriptor")
    plan = Plan(
        executable=linux.c_string(path),
        argv=[linux.c_string(arg) for arg in argv],
        env=_environment(os.environ if env is None else env),
        cwd=None if cwd is None else linux.c_string(cwd),
        wanted=wanted,
        sources=[fds.get(number, _FROM_NULL) for number in wanted],
        death_signal=death_signal or 0,
        process_group=process_group,
    )
    try:
        return method(plan)
    except _Failed as exc:
        what = {_STEP_CWD: cwd, _STEP_FDS: f"fds {dict(fds)}", _STEP_NULL: NULL_DEVICE}
        text = os.strerror(exc.errno)
        raise OSError(exc.errno, text, what.get(exc.step, path)) from None


def _environment(env: Mapping[str, str]) -> list[bytes]:
    for name in env:
        if not name or "=" in name:
            raise ValueError(f"not the name of an environment variable: {name!r}")
    return [linux.c_string(f"{name}={value}") for name, value in env.items()]


# --- with the library --------------------------------------------------------------------------


def _load() -> "ctypes._NamedFuncPointer | None":
    # PyDLL keeps the interpreter lock: no other thread runs while the child uses this stack.  The
    # name of the function has the version of its arguments: another build's library is not called.
    try:
        function = ctypes.PyDLL(_LIBRARY).pyrunc_spawn_1
    except (OSError, AttributeError):
        return None
    strings, numbers = POINTER(c_char_p), POINTER(c_int)
    function.argtypes = (
        c_char_p, strings, strings, c_char_p, numbers, numbers, c_int, c_int, c_int, numbers
    )  # fmt: skip
    return function


_library: Final = _load()
HAS_LIBRARY: Final = _library is not None


def with_library(plan: Plan) -> int:
    """Start the child with the C function; return its pid."""
    assert _library is not None
    failed = c_int(0)
    count = len(plan.wanted)
    result: int = _library(
        plan.executable,
        (c_char_p * (len(plan.argv) + 1))(*plan.argv, None),
        (c_char_p * (len(plan.env) + 1))(*plan.env, None),
        plan.cwd,
        (c_int * count)(*plan.wanted),
        (c_int * count)(*plan.sources),
        count,
        plan.death_signal,
        plan.process_group,
        failed,
    )
    if result < 0:
        raise _Failed(failed.value, -result)
    return result


# --- without -----------------------------------------------------------------------------------


def with_fork(plan: Plan) -> int:
    """Start the child with `os.fork`; return its pid."""
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    parent = os.getpid()
    try:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            try:
                pid = os.fork()  # noqa: TID251 - where the C function is missing
            except OSError as exc:
                raise _Failed(_STEP_FORK, exc.errno or 0) from None
            if pid == 0:
                _child(plan, parent, write_end)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.close(write_end)
        write_end = -1
        report = os.read(read_end, 64)  # empty: execve has closed the other end
    finally:
        os.close(read_end)
        if write_end >= 0:
            os.close(write_end)
    if report:
        os.waitpid(pid, 0)  # noqa: TID251 - no caller knows the pid
        step, error = report.split()
        raise _Failed(int(step), int(error))
    return pid


def _child(plan: Plan, parent: int, report_fd: int) -> NoReturn:
    """Run in the child: only system calls, no import and no lock; does not return."""
    step = _STEP_SETUP
    try:
        reset_signals()
        if plan.death_signal:
            linux.set_parent_death_signal(plan.death_signal)
            if os.getppid() != parent:  # the parent died before the line above: no signal comes
                os._exit(127)
        if plan.process_group:
            os.setpgid(0, 0)
        step = _STEP_CWD
        if plan.cwd is not None:
            os.chdir(plan.cwd)
        step = _STEP_NULL
        sources = plan.sources
        if _FROM_NULL in sources:
            null = os.open(NULL_DEVICE, os.O_RDWR)
            sources = [null if source == _FROM_NULL else source for source in sources]
        step = _STEP_FDS
        report_fd = linux.duplicate(report_fd, plan.wanted[-1] + 1)
        _place_fds(plan.wanted, sources)
        linux.close_on_exec_except(plan.wanted)
        step = _STEP_EXEC
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.execve(plan.executable, plan.argv, _pairs(plan.env))  # noqa: S606 - no shell is meant
    except OSError as exc:
        os.write(report_fd, b"%d %d" % (step, exc.errno or 0))
    finally:
        os._exit(127)


def _pairs(env: list[bytes]) -> dict[bytes, bytes]:
    return dict(entry.split(b"=", 1) for entry in env)


def reset_signals() -> None:
    """Set all signals to their default, the C library's own (32, 33) included, as _spawn.c does."""
    for number in signal.valid_signals():
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(number, signal.SIG_DFL)
    if _RT_SIGACTION is not None:
        for raw_number in _HIDDEN_SIGNALS:
            linux.syscall(_RT_SIGACTION, raw_number, _DEFAULT_ACTION, None, _SIGSET_BYTES)


def _place_fds(wanted: list[int], sources: list[int]) -> None:
    """Give the sources their numbers in the child; both sets of numbers may overlap."""
    # First move all sources above the wanted numbers, so that none is overwritten before its turn.
    placed = [linux.duplicate(source, wanted[-1] + 1) for source in sources]
    for source, number in zip(placed, wanted, strict=True):
        os.dup2(source, number)  # inheritable: close-on-exec is off


# --- a child that is only a namespace ----------------------------------------------------------


def hold_user_namespace() -> tuple[int, int]:
    """Start a child in a user namespace of its own; return its pid and a pipe.

    The namespace has no id mappings yet.  The child writes one byte to the pipe once the namespace
    exists: 0, or an errno.  The caller closes the pipe and kills the child; the kernel kills it
    when the shim dies.

    Raises:
        OSError: the process could not be made.
    """
    if get_ident() != main_thread().ident:
        raise RuntimeError("only the main thread may spawn: its death would end the child")
    read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
    parent = os.getpid()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pid = os.fork()  # noqa: TID251 - the kernel makes no user namespace after a vfork
        if pid == 0:
            _hold_user_namespace(parent, write_fd)
    except OSError:
        os.close(read_fd)
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.close(write_fd)
    return pid, read_fd


def _hold_user_namespace(parent: int, report_fd: int) -> NoReturn:
    """Run in the child, with all signals blocked: wait for SIGKILL, or for the parent's death."""
    try:
        linux.set_parent_death_signal(signal.SIGKILL)
        number = 0
        try:
            linux.unshare(linux.CLONE_NEWUSER)
        except OSError as exc:
            number = exc.errno or 0
        os.write(report_fd, bytes([number]))
        if os.getppid() == parent:  # else the parent died before PR_SET_PDEATHSIG: no signal comes
            signal.pause()
    finally:
        os._exit(0)


method: Callable[[Plan], int] = with_library if HAS_LIBRARY else with_fork
"""How `spawn` makes children; tests choose either."""
