"""A shim forked from a zygote equals a cold one: each attribute of its caller, one by one."""

import ctypes
import os
import resource
import secrets
import signal
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from shimv2.kernel import linux
from shimv2.shimctl.testbed import zygotes
from shimv2.shimctl.testbed.leaks import alive
from shimv2.shimctl.testbed.until import until
from tests.support import cgroups, inherited, launched
from tests.support.boot import Boot
from tests.support.children import status_of
from tests.support.forks import in_fork
from tests.support.inherited import prctl, syscall
from tests.support.portrait import portrait
from tests.support.warm import booted, started, started_at, warmed

_SYS_RT_SIGACTION = 13 if inherited.X86_64 else 134
_MANY_GROUPS: Final = range(100_000, 101_700)  # 12 KB of /proc/PID/status


@pytest.fixture
def boot() -> Iterator[Boot]:
    with booted() as made:
        yield made


@pytest.fixture
def own_cgroup() -> Iterator[str]:
    """A cgroup of the test, which has to be empty at the end."""
    root = "/sys/fs/cgroup" if cgroups.unified() else "/sys/fs/cgroup/pids"
    path = f"{root}/z{secrets.token_hex(4)}"
    os.mkdir(path)
    yield path
    until(lambda: not Path(path, "cgroup.procs").read_text(), "the cgroup to be empty")
    os.rmdir(path)


def described(boot: Boot, id_: str, **given: Any) -> tuple[int, dict[str, Any]]:
    """Start a shim; return its pid and all its attributes."""
    pid, path = started_at(boot, id_, **given)
    return pid, portrait(pid, id_) | inherited.inherited(path, boot.state / id_)


# --- the state ----------------------------------------------------------------------------------


def _plain() -> None:
    """Change nothing."""


def _soft_limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))


STATE: Final[dict[str, Callable[[], object]]] = {
    "plain": _plain,
    "umask": lambda: os.umask(0o027),
    "nice": lambda: os.nice(5),
    "soft limit": _soft_limit,
    "affinity": lambda: os.sched_setaffinity(0, {0}),
    "scheduler": lambda: os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0)),
    "io priority": lambda: linux.set_io_priority(2 << 13 | 6),
    "timer slack": lambda: prctl(29, 70_000),  # PR_SET_TIMERSLACK
    "machine checks": lambda: prctl(33, 1, 1),  # PR_MCE_KILL, PR_MCE_KILL_SET, early
    "core dumps": lambda: Path("/proc/self/coredump_filter").write_text("0x31"),
}


@pytest.mark.parametrize("attribute", STATE)
def test_waiting_child_takes_over_the_state_of_its_caller(boot: Boot, attribute: str) -> None:
    """The child changes the attributes that a process can change, and the shim equals a cold
    one."""
    given: dict[str, Any] = {"setup": STATE[attribute], "env": {"CALLER": attribute, "TZ": "UTC"}}
    _, cold = described(boot, "cold-one", **given)  # the first: there is no zygote yet
    zygotes.zygote(boot.shim)
    zygotes.end_zygotes(boot.shim)
    zygote = warmed(boot)  # of a caller without the attribute
    waiting = zygotes.spare(boot.shim)

    pid, warm = described(boot, "warm-one", **given)

    assert pid == waiting
    assert warm == cold
    assert alive(zygote)


@pytest.mark.root
def test_warm_server_is_in_the_cgroups_of_its_caller(boot: Boot, own_cgroup: str) -> None:
    """As every child of a daemon: systemd accounts for it and limits it there."""
    warmed(boot)
    waiting = zygotes.spare(boot.shim)

    def join() -> None:
        Path(own_cgroup, "cgroup.procs").write_text(str(os.getpid()))

    pid = started(boot, "c1", setup=join)

    assert pid == waiting
    assert os.path.basename(own_cgroup) in Path(f"/proc/{pid}/cgroup").read_text()
    boot.stop_all()


def test_server_goes_before_its_daemon_not_before_the_zygotes(boot: Boot) -> None:
    """Its score is that of the launcher's parent plus one, whatever that of the zygote."""
    warmed(boot)
    mine = int(Path("/proc/self/oom_score_adj").read_text())

    pid = started(boot, "c1")

    assert int(Path(f"/proc/{pid}/oom_score_adj").read_text()) == mine + 1


# --- the key ------------------------------------------------------------------------------------


def _join_keyring() -> None:
    """Join the same keyring each time: the next caller may find it by its name."""
    keyring = syscall(inherited.SYS_KEYCTL, 1, b"shim-test")  # KEYCTL_JOIN_SESSION_KEYRING
    syscall(inherited.SYS_KEYCTL, 5, keyring, 0x3F3F0000)  # KEYCTL_SETPERM


def _prefer_node() -> None:
    nodes = ctypes.c_ulong(1)
    syscall(inherited.SYS_SET_MEMPOLICY, 1, ctypes.byref(nodes), ctypes.c_ulong(64))


def _no_randomization() -> None:
    ctypes.CDLL(None).personality(0x0040000)  # ADDR_NO_RANDOMIZE


KEY: Final[dict[str, Callable[[], object]]] = {
    "hard limit": lambda: resource.setrlimit(resource.RLIMIT_CORE, (0, 0)),
    "ignored signal": lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    "blocked signal": lambda: signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2}),
    "no new privileges": lambda: prctl(38, 1),
    "bounding set": lambda: prctl(24, 25),  # PR_CAPBSET_DROP, CAP_SYS_TIME
    "groups": lambda: os.setgroups([4242]),
    "personality": _no_randomization,
    "huge pages": lambda: prctl(41, 1),  # PR_SET_THP_DISABLE
    "session keyring": _join_keyring,
    "mdwe": lambda: prctl(65, 1),  # PR_SET_MDWE
    "memory merge": lambda: prctl(67, 1),  # PR_SET_MEMORY_MERGE
    "store bypass": lambda: prctl(53, 0, 4),  # PR_SET_SPECULATION_CTRL, off
    "indirect branch": lambda: prctl(53, 1, 4),
    "l1d flush": lambda: prctl(53, 2, 2),
    "memory policy": _prefer_node,
    "core scheduling": lambda: prctl(62, 1),  # PR_SCHED_CORE, create
}


def _is_offered(setup: Callable[[], object]) -> bool:
    def tried() -> bool:
        try:
            setup()
        except OSError:
            return False
        return True

    return in_fork(tried) == 0


@pytest.mark.root
@pytest.mark.parametrize("attribute", KEY)
def test_caller_with_another_key_gets_a_zygote_of_its_own(boot: Boot, attribute: str) -> None:
    """An attribute that a fork cannot change to needs a cold start; the warm starts after it equal
    it."""
    if not _is_offered(KEY[attribute]):
        pytest.skip("this kernel or processor does not have the attribute")
    _compare(boot, KEY[attribute])


@pytest.mark.root
def test_caller_whose_children_have_another_time_gets_a_zygote_of_its_own(boot: Boot) -> None:
    """A time namespace takes effect for children, or for the next program."""
    namespace = inherited.new_time_namespace()
    try:
        _compare(boot, lambda: _join_time(namespace))
    finally:
        os.close(namespace)


def _join_time(namespace: int) -> None:
    inherited.checked(ctypes.CDLL(None, use_errno=True).setns(namespace, 0))


def _compare(boot: Boot, setup: Callable[[], object]) -> None:
    warmed(boot)
    waiting = zygotes.spare(boot.shim)
    before = set(zygotes.pairs(boot.shim, 1))

    cold_pid, cold = described(boot, "cold-one", setup=setup)
    second = set(zygotes.pairs(boot.shim, 2)) - before
    warm_pid, warm = described(boot, "warm-one", setup=setup)

    assert cold_pid != waiting
    assert warm_pid in second
    assert warm == cold


@pytest.mark.parametrize(
    "env", [{"PYTHONHASHSEED": "1"}, {"LC_ALL": "C.UTF-8"}], ids=["interpreter", "locale"]
)
def test_what_an_interpreter_reads_at_its_start_is_part_of_the_key(
    boot: Boot, env: dict[str, str]
) -> None:
    warmed(boot)
    waiting = zygotes.spare(boot.shim)

    assert started(boot, "c1", env=env) != waiting
    zygotes.pairs(boot.shim, 2)


@pytest.mark.root
def test_restricted_caller_with_many_groups_keeps_its_restrictions(boot: Boot) -> None:
    """Its groups fill the first 12 KB of /proc/PID/status; the lines after them count too."""

    def groups() -> None:
        os.setgroups(_MANY_GROUPS)

    def restricted() -> None:
        groups()
        prctl(24, 25)  # PR_CAPBSET_DROP, CAP_SYS_TIME
        prctl(38, 1)  # PR_SET_NO_NEW_PRIVS

    warmed(boot, setup=groups)
    waiting = zygotes.spare(boot.shim)

    pid = started(boot, "c1", setup=restricted)

    status = status_of(pid)
    assert pid != waiting
    assert status["NoNewPrivs"] == "1"
    assert not int(status["CapBnd"], 16) & 1 << 25


@pytest.mark.parametrize("action", [signal.SIG_DFL, signal.SIG_IGN], ids=["default", "ignored"])
def test_signals_of_the_c_library_do_not_distinguish_callers(
    boot: Boot, action: signal.Handlers
) -> None:
    """A program that starts with these signals ignored has their defaults once it has a thread."""

    def treat() -> None:
        for number in (32, 33):  # sigaction(3) refuses them
            linux.syscall(_SYS_RT_SIGACTION, number, struct.pack("QQQQ", action, 0, 0, 0), None, 8)

    warmed(boot, setup=treat)
    waiting = zygotes.spare(boot.shim)
    shims = [boot.server(), started(boot, "c1")]

    assert shims[1] == waiting
    assert [int(status_of(pid)["SigIgn"], 16) & 3 << 31 for pid in shims] == [0, 0]


def test_new_code_gets_a_new_zygote(boot: Boot) -> None:
    """After an upgrade the forks of the old zygote would run the old code."""
    warmed(boot)
    waiting = zygotes.spare(boot.shim)
    os.unlink(boot.shim)
    launched.install(boot.shim)

    assert started(boot, "c1") != waiting
    zygotes.pairs(boot.shim, 2)
