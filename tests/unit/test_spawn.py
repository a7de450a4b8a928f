"""What a child of the shim inherits, and what not, with and without the library."""

import contextlib
import ctypes
import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shimv2.kernel import linux, spawn
from tests.support.children import a_child, fds_of, status_of, wait_for
from tests.support.kernel import as_subreaper

SLEEP = ("/bin/sleep", "600")
SHELL = "/bin/sh"


@pytest.fixture(params=[spawn.with_library, spawn.with_fork], autouse=True)
def method(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test of this file runs with both ways to make a child."""
    if request.param is spawn.with_library and not spawn.HAS_LIBRARY:
        pytest.skip("the spawn library is not built: no C compiler")
    monkeypatch.setattr(spawn, "method", request.param)


def output_of(*argv: str, **options: object) -> str:
    """Run a program to its end and return its stdout."""
    source, sink = os.pipe2(os.O_CLOEXEC)
    with open(source, encoding="utf-8") as reader:
        pid = spawn.spawn(argv, fds={1: sink}, **options)  # type: ignore[arg-type] # handed through
        os.close(sink)
        text = reader.read()
    assert wait_for(pid) == 0
    return text


# --- signals -----------------------------------------------------------------------------------


@pytest.mark.rule("task.lines.10", "cli.signals.3")
def test_signals_of_a_child_are_all_default_and_unblocked() -> None:
    """Python ignores SIGPIPE, and a container would inherit that, and a blocked signal as well."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGRTMAX})
    signal.signal(signal.SIGUSR2, lambda *_: None)
    try:
        with a_child(*SLEEP) as pid:
            status = status_of(pid)
        kept = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    finally:
        signal.signal(signal.SIGHUP, before)
        signal.signal(signal.SIGUSR2, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    assert int(status["SigIgn"], 16) == 0
    assert int(status["SigBlk"], 16) == 0
    assert int(status["SigCgt"], 16) == 0
    assert {signal.SIGUSR1, signal.SIGRTMAX} <= kept  # those of this process are as before


def test_signals_hidden_by_the_c_library_are_reset_too() -> None:
    """If the parent of the shim ignores signals 32 and 33, a container must not."""
    rt_sigaction = {"x86_64": 13, "aarch64": 134}[os.uname().machine]
    ignore = (1).to_bytes(ctypes.sizeof(ctypes.c_ulong), sys.byteorder)
    old = {}
    for number in (32, 33):
        action = ctypes.create_string_buffer(128)
        linux.syscall(rt_sigaction, number, None, ctypes.addressof(action), 8)
        old[number] = action.raw
        linux.syscall(rt_sigaction, number, ignore + bytes(120), None, 8)
    try:
        assert int(status_of("self")["SigIgn"], 16) & (3 << 31) == 3 << 31
        with a_child(*SLEEP) as pid:
            ignored = int(status_of(pid)["SigIgn"], 16)
    finally:
        for number, raw in old.items():
            linux.syscall(rt_sigaction, number, raw, None, 8)

    assert ignored == 0


def test_signals_that_arrive_while_children_are_made_harm_no_child() -> None:
    """A handler must not run in the child, where it would change the memory of the parent."""
    ticks = 0

    def tick(_number: int, _frame: object) -> None:
        nonlocal ticks
        ticks += 1
        assert os.getpid() == ours

    ours = os.getpid()
    signal.signal(signal.SIGALRM, tick)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    try:
        statuses = [wait_for(spawn.spawn(["/bin/true"])) for _ in range(100)]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)

    assert statuses == [0] * 100
    assert ticks > 0


# --- the death of the parent -------------------------------------------------------------------

READ_DEATH_SIGNAL = """
import ctypes
number = ctypes.c_int()
ctypes.CDLL(None).prctl(2, ctypes.byref(number))
print(number.value)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, None])
def test_child_gets_the_death_signal_that_was_asked_for(number: int | None) -> None:
    """It is set between fork and exec; None for children that outlive the shim."""
    text = output_of(sys.executable, "-S", "-c", READ_DEATH_SIGNAL, death_signal=number)

    assert int(text) == (number or 0)


def test_child_dies_with_its_parent() -> None:
    """SIGKILL of a shim also kills its running runc, but not a child without a death signal."""
    script = (
        "import os, sys; from shimv2.kernel import spawn\n"
        f"spawn.method = spawn.{spawn.method.__name__}\n"
        "fds = {1: 1}\n"
        "dies = spawn.spawn(['/bin/sleep', '600'], fds=fds)\n"
        "lives = spawn.spawn(['/bin/sleep', '600'], fds=fds, death_signal=None)\n"
        "os.write(1, b'%d %d\\n' % (dies, lives))\n"
        "sys.stdin.read()\n"
    )
    source, sink = os.pipe2(os.O_CLOEXEC)
    hold, held = os.pipe2(os.O_CLOEXEC)
    with as_subreaper():
        argv = [sys.executable, "-c", script]
        parent = spawn.spawn(argv, cwd=os.getcwd(), fds={0: hold, 1: sink, 2: 2})
        dies, lives = map(int, os.read(source, 100).split())
        os.kill(parent, signal.SIGKILL)

        assert wait_for(parent) == 128 + signal.SIGKILL
        assert wait_for(dies) == 128 + signal.SIGKILL
        assert os.waitid(os.P_PID, lives, os.WEXITED | os.WNOHANG) is None
        os.kill(lives, signal.SIGKILL)
        assert wait_for(lives) == 128 + signal.SIGKILL
    for fd in (source, sink, hold, held):
        os.close(fd)


def test_other_threads_may_not_spawn_what_dies_with_them() -> None:
    """The death signal is sent when the *thread* that made the child ends."""
    errors: list[Exception] = []

    def wrong() -> None:
        try:
            spawn.spawn(["/bin/true"])
        except RuntimeError as exc:
            errors.append(exc)

    thread = threading.Thread(target=wrong)
    thread.start()
    thread.join()

    assert "main thread" in str(errors[0])


# --- fds ---------------------------------------------------------------------------------------


@pytest.mark.rule("task.lines.10")
def test_child_without_fds_has_dev_null_three_times() -> None:
    """Read-write, so that runc can reopen it; no other fd leaks, inheritable or not."""
    leaky, other = os.pipe()
    os.set_inheritable(leaky, True)
    try:
        with a_child(*SLEEP) as pid, open(f"/proc/{pid}/fdinfo/0", encoding="ascii") as info:
            fds, flags = fds_of(pid), info.read()
    finally:
        os.close(leaky)
        os.close(other)

    assert fds == {0: "/dev/null", 1: "/dev/null", 2: "/dev/null"}
    assert int(flags.split("flags:")[1].split()[0], 8) & os.O_ACCMODE == os.O_RDWR


def test_fds_of_ours_stay_open_and_closed_on_exec() -> None:
    """The child gets copies; the fds of this process keep their owner."""
    left, right = socket.socketpair()
    with left, right:
        with a_child(*SLEEP, fds={3: left.fileno(), 9: right.fileno()}) as pid:
            assert fds_of(pid)[3] == os.readlink(f"/proc/self/fd/{left.fileno()}")
            assert sorted(fds_of(pid)) == [0, 1, 2, 3, 9]
        assert not os.get_inheritable(left.fileno())


POOL = range(40, 50)  # numbers that are free in a test process


@contextlib.contextmanager
def files_at(numbers: range) -> Iterator[dict[int, str]]:
    """Open a file at each of these numbers; yield the names that /proc shows."""
    names = {}
    with contextlib.ExitStack() as stack:
        for number in numbers:
            fd = os.memfd_create(f"file-{number}", os.MFD_CLOEXEC)
            os.dup2(fd, number, inheritable=False)
            os.close(fd)
            stack.callback(os.close, number)
            names[number] = os.readlink(f"/proc/self/fd/{number}")
        yield names


wanted = st.dictionaries(
    st.one_of(st.integers(0, 3), st.integers(38, 53)), st.sampled_from(POOL), max_size=8
)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(wanted)
def test_fds_get_the_wanted_numbers_whatever_the_overlap(fds: dict[int, int]) -> None:
    """Swaps, chains and copies: a source must not be overwritten before it is used."""
    with files_at(POOL) as names, a_child(*SLEEP, fds=fds) as pid:
        expected = dict.fromkeys(range(3), "/dev/null")
        expected |= {number: names[source] for number, source in fds.items()}

        assert fds_of(pid) == expected


def test_swapped_standard_fds_arrive_swapped() -> None:
    """The hardest overlap: fd 1 becomes the child's 2, and fd 2 its 1."""
    kept = os.dup(1), os.dup(2)
    with files_at(POOL) as names:
        os.dup2(40, 1)
        os.dup2(41, 2)
        try:
            with a_child(*SLEEP, fds={1: 2, 2: 1}) as pid:
                fds = fds_of(pid)
        finally:
            os.dup2(kept[0], 1)
            os.dup2(kept[1], 2)
            os.close(kept[0])
            os.close(kept[1])

    assert fds == {0: "/dev/null", 1: names[41], 2: names[40]}


def test_standard_fds_that_are_closed_here_are_no_trap() -> None:
    """If 0 is closed, /dev/null and pipes are opened as 0; the child's fds are the same."""
    kept = os.dup(0)
    os.close(0)
    try:
        with a_child(*SLEEP) as pid:
            fds = fds_of(pid)
    finally:
        os.dup2(kept, 0)
        os.close(kept)

    assert fds == {0: "/dev/null", 1: "/dev/null", 2: "/dev/null"}


# --- the rest of what is inherited -------------------------------------------------------------


def test_umask_limits_group_and_session_stay_ours() -> None:
    """Containers inherit them: runc is in the shim's process group, with unchanged limits."""
    before = os.umask(0o027)
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (min(soft, 4096) if soft >= 0 else 4096, hard))
    try:
        with a_child(*SLEEP) as pid, open(f"/proc/{pid}/limits", encoding="ascii") as theirs:
            with open("/proc/self/limits", encoding="ascii") as ours:
                assert theirs.read() == ours.read()
            assert status_of(pid)["Umask"] == "0027"
            assert os.getpgid(pid) == os.getpgid(0)
            assert os.getsid(pid) == os.getsid(0)
            for kept in ("oom_score_adj", "cgroup"):
                with open(f"/proc/{pid}/{kept}") as file, open(f"/proc/self/{kept}") as own:
                    assert file.read() == own.read()
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))
        os.umask(before)


def test_process_group_is_new_when_asked_for() -> None:
    """A logger must not get signals for the shim's process group."""
    with a_child(*SLEEP, process_group=True) as pid:
        assert os.getpgid(pid) == pid
        assert os.getsid(pid) == os.getsid(0)


def test_program_name_and_arguments_are_separate_things() -> None:
    """The runtime is executed by its path, under the name that the user gave it."""
    argv = ["runc", "-c", "kill -STOP $$ # gr\u00fc\u00df \udcff", ""]
    with a_child(*argv, executable=SHELL) as pid:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            assert file.read() == b"\0".join(map(os.fsencode, argv)) + b"\0"
        assert os.readlink(f"/proc/{pid}/exe") == os.path.realpath(SHELL)


def test_environment_is_ours_as_it_is_now_or_exactly_the_given_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """None means os.environ at the time of the call; otherwise the child gets only `env`."""
    monkeypatch.setenv("SPAWN_TEST", "late")

    def environment(pid: int) -> list[bytes]:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return sorted(file.read().split(b"\0")[:-1])

    with a_child(*SLEEP) as pid:
        assert environment(pid) == sorted(b"%s=%s" % pair for pair in os.environb.items())
        assert b"SPAWN_TEST=late" in environment(pid)
    with a_child(*SLEEP, env={"A": "1=2", "B": ""}) as pid:
        assert environment(pid) == [b"A=1=2", b"B="]
    with a_child(*SLEEP, env={}) as pid:
        assert environment(pid) == []


def test_working_directory_is_ours_or_the_given_one(tmp_path: Path) -> None:
    """runc runs in the bundle, which is the shim's own working directory."""
    with a_child(*SLEEP) as pid:
        assert os.readlink(f"/proc/{pid}/cwd") == os.getcwd()
    with a_child(*SLEEP, cwd=str(tmp_path)) as pid:
        assert os.readlink(f"/proc/{pid}/cwd") == str(tmp_path)
