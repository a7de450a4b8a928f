"""The supervisor: a process that forks a zygote, and waits until the zygote serves or has failed.

    cold `start` ── fork ──► supervisor ── fork ──► zygote: warms up, listens, reports "ready"
                             logs a failure, kills the remaining processes

Reason: a warm-up can end with an error, by its time limit, by a seccomp filter or without memory,
and then it cannot log anything itself.  The supervisor still runs, and logs the reason to the FIFO
`log` of the `start` that wanted the zygote.
"""

import contextlib
import logging
import os
import select
import shutil
import signal
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, NoReturn

from shimv2.values.settings import Settings
from shimv2.zygote import folder
from shimv2.zygote.protocol import NewZygote

if TYPE_CHECKING:
    from shimv2.zygote.child import Work

_TITLE: Final = "containerd-shim-pyrunc-zygote"
_SUPERVISOR_TITLE: Final = "containerd-shim-pyrunc-warmup"
_READY: Final = b"\0ready"  # followed by the reason why memory is not shared, or by nothing
_MOVED: Final = b"\0moved"  # followed by the pid of the fork that goes on as the zygote
# Any other report is the reason of a failure.
_REPORT_BYTES: Final = 4096
# The zygote blocks them while it warms up, because its fake shim would handle them.
_STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_LAST_FD: Final = 2**31 - 1  # close_range(2) accepts a limit above the highest fd


class _Stopped(Exception):
    """A signal ended the zygote or its supervisor during the warm-up: that is no failure."""

    def __init__(self, number: int) -> None:
        super().__init__(f"{signal.Signals(number).name} ended the warm-up")


def start_supervisor(new: NewZygote, work: "Work", settings: Settings, name: str) -> None:
    """Start a zygote that outlives this process.  Return at once.

    The zygote serves until it was idle for `zygote_linger_s` of the settings.  The caller has
    answered already, and ends next.  `name` is the runtime's name, for the log.
    """
    if os.fork() == 0:  # noqa: TID251 - no thread and no loop here, and none in the zygote
        try:
            _close_streams()
            _supervise(new, work, settings, name)
        finally:
            os._exit(0)


def _supervise(new: NewZygote, work: "Work", settings: Settings, name: str) -> None:
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
    try:
        claim_fd = folder.claim(new.path)
    except folder.RecentFailure as error:
        after = f"not tried again, {folder.RETRY_S:.0f} s after a failure"
        _log_warning(name, f"no zygote: {after}: {error}")
        return
    except OSError as error:
        _log_warning(name, f"no zygote: {error}")
        return
    if claim_fd is None:
        return
    from shimv2.kernel import linux  # noqa: PLC0415 - here and below: the caller does not wait

    os.setsid()
    linux.set_child_subreaper()  # the warm-up's orphans become its children
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()  # noqa: TID251 - as above
    if pid == 0:
        ours.close()
        _be_zygote(new, work, settings, theirs, claim_fd, mask)
    theirs.close()
    bundle_fd = _detach_from_start(new.program)
    is_stopped = False
    try:
        with _stoppable(mask):
            reason, unshared = _outcome(ours, pid)
    except _Stopped as error:
        is_stopped, reason, unshared = True, str(error), ""
    os.fchdir(bundle_fd)  # the log is there
    if not reason:
        if unshared:
            _log_warning(name, f"memory is not shared: {unshared}")
        linux.set_child_subreaper(False)  # the zygote's children go to process 1
        return
    if not is_stopped:
        folder.record_failure(claim_fd, reason)
    _log_warning(name, f"no zygote: {reason}")
    _end_children()
    shutil.rmtree(folder.working_folder(new.path, pid), ignore_errors=True)
    if is_stopped:
        folder.withdraw(new.path)


@contextlib.contextmanager
def _stoppable(mask: "set[int]") -> Iterator[None]:
    """Raise _Stopped in the block when one of `_STOP_SIGNALS` comes."""
    for number in _STOP_SIGNALS:
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _stop)
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)


def _stop(number: int, _frame: object) -> NoReturn:
    raise _Stopped(number)


def _detach_from_start(program: str) -> int:
    """Give up the command line, environment and working directory of the `start`, which has ended.

    Returns an fd for the bundle, which was the working directory.
    """
    from shimv2.kernel.title import set_title  # noqa: PLC0415

    os.environ.clear()
    set_title([_SUPERVISOR_TITLE, program])
    bundle_fd = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    os.chdir("/")
    return bundle_fd


def _close_streams() -> None:
    """Close the fds of `start`: the daemon reads the output of `start` until end of file."""
    null = os.open(os.devnull, os.O_RDWR)
    for fd in range(3):
        os.dup2(null, fd)
    os.closerange(3, _LAST_FD)


def _outcome(report: socket.socket, pid: int) -> tuple[str, str]:
    """Wait for the zygote.  Return why it does not serve, and why it does not share memory.

    Each text is empty if the zygote does.

    Raises:
        _Stopped.
    """
    text = _report(report, pid)
    if text.startswith(_MOVED):
        os.waitpid(pid, 0)  # noqa: TID251 - there is no reaper here
        pid = int(text.removeprefix(_MOVED))
        text = _report(report, pid)
    if text.startswith(_READY):
        return "", text.removeprefix(_READY).decode("utf-8", "replace")
    if not text:
        _, status = os.waitpid(pid, 0)  # noqa: TID251 - there is no reaper here
        code = os.waitstatus_to_exitcode(status)
        if -code in _STOP_SIGNALS:
            raise _Stopped(-code)
        how = f"killed by signal {-code}" if code < 0 else f"ended with status {code}"
        return f"the process {how} while it warmed up", ""
    return text.decode("utf-8", "replace"), ""


def _report(report: socket.socket, pid: int) -> bytes:
    """Wait for the next report of the process; empty if it has ended without a report."""
    waiting = select.poll()
    waiting.register(report, select.POLLIN)
    pidfd = None
    with contextlib.suppress(OSError):  # before Linux 5.3
        pidfd = os.pidfd_open(pid)
        waiting.register(pidfd, select.POLLIN)  # its children may keep the socket open
    waiting.poll()
    if pidfd is not None:
        os.close(pidfd)
    try:
        return report.recv(_REPORT_BYTES, socket.MSG_DONTWAIT)
    except BlockingIOError:
        return b""


def _log_warning(name: str, text: str) -> None:
    from shimv2 import log  # noqa: PLC0415

    with contextlib.suppress(log.NoLog):
        log.setup(name, debug=False)
        logging.getLogger(__name__).warning("%s", text)


def _end_children() -> None:
    """Kill and reap all processes of a failed warm-up: the zygote and adopted orphans."""
    children = f"/proc/self/task/{os.getpid()}/children"
    with contextlib.suppress(ChildProcessError):
        while True:
            with open(children, encoding="ascii") as file:
                for pid in file.read().split():
                    os.kill(int(pid), signal.SIGKILL)  # not reaped yet: the pid is not reused
            os.waitpid(-1, 0)  # noqa: TID251 - as above


# --- in the zygote ------------------------------------------------------------------------------


def _be_zygote(
    new: NewZygote,
    work: "Work",
    settings: Settings,
    report: socket.socket,
    claim_fd: int,
    mask: "set[int]",
) -> None:
    """Warm up, listen, and serve as the zygote; then end the process.

    `mask` is the signal mask to restore after the warm-up.
    """
    try:
        _become_zygote(new, work, settings, report, claim_fd, mask)
    except Exception as error:  # noqa: BLE001 - the supervisor logs any error
        with contextlib.suppress(OSError):  # the supervisor was killed
            report.send(
                f"{type(error).__name__}: {error}".encode("utf-8", "replace")[:_REPORT_BYTES]
            )
    finally:
        os._exit(0)


def _become_zygote(
    new: NewZygote,
    work: "Work",
    settings: Settings,
    report: socket.socket,
    claim_fd: int,
    mask: "set[int]",
) -> None:
    from shimv2.kernel.title import set_title  # noqa: PLC0415
    from shimv2.settings import shares_memory  # noqa: PLC0415
    from shimv2.zygote.attributes import has_library  # noqa: PLC0415

    share_memory = shares_memory(settings)
    if not has_library():
        raise OSError("libstate.so, which compares launchers, was not built")
    os.setsid()
    os.environ.clear()  # a shim gets its launcher's environment
    set_title([_TITLE, new.program])
    os.chdir("/")
    from shimv2.pagesharing import publish  # noqa: PLC0415
    from shimv2.zygote import warmup  # noqa: PLC0415 - all of the shim
    from shimv2.zygote.child import Service  # noqa: PLC0415
    from shimv2.zygote.parent import Zygote  # noqa: PLC0415

    try:
        unshared = warmup.up(
            folder.working_folder(new.path, os.getpid()),
            share_memory=share_memory,
            report_successor=lambda pid: _report_successor(pid, report, mask),
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)  # a signal that has come ends this process
    if unshared:
        publish.note_unshared(unshared)
    set_title([_TITLE, new.program])  # again: the image has moved the words that /proc showed
    bound = folder.listen(new.path)
    try:
        logged = "" if unshared == warmup.SWITCHED_OFF else unshared
        report.send(_READY + logged.encode()[:_REPORT_BYTES])
        report.recv(1)  # end of file: the supervisor has ended, and orphans go to process 1
        report.close()
        os.close(claim_fd)
        Zygote(Service(new.key, settings, work), bound.listener, settings.zygote_linger_s).run()
    finally:
        bound.unlink()


def _report_successor(pid: int, report: socket.socket, mask: "set[int]") -> None:
    """Report the fork that goes on as the zygote, unless a signal has come that ends both."""
    if signal.sigpending() & set(_STOP_SIGNALS):
        os.kill(pid, signal.SIGKILL)  # else it goes on when this process ends
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    report.send(_MOVED + str(pid).encode())
