"""The isolation of tests, tried with a small suite in its own process."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

from shimv2.shimctl.testbed.leaks import alive, children_of
from shimv2.shimctl.testbed.until import until
from tests.support.host import ROOT
from tests.support.isolation import default_signals, end_children

_CONFTEST: Final = """
from tests.conftest import _no_own_leaks, pytest_configure, pytest_runtest_makereport
"""
_SUITE: Final = """
import os, signal
from pathlib import Path
from shimv2.shimctl.testbed.leaks import children_of
from shimv2.shimctl.testbed.until import until

HERE = Path(__file__).parent


def test_fails_and_leaves_a_child():
    script = f"sleep 1000 & echo $! >{HERE}/new; mv {HERE}/new {HERE}/below; wait"
    child = os.spawnlp(os.P_NOWAIT, "sh", "sh", "-c", script)
    Path(HERE, "top").write_text(str(child))
    until(Path(HERE, "below").exists, "the child of the child")
    assert False, "this one fails"


def test_after_a_failure():
    assert children_of(os.getpid()) == []


def test_passes_and_leaves_a_child():
    os.spawnlp(os.P_NOWAIT, "sleep", "sleep", "1000")


def test_after_a_leak():
    assert children_of(os.getpid()) == []


def test_signals():
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()
"""


def test_left_child_is_reported_and_ended_and_the_next_test_passes(tmp_path: Path) -> None:
    """Whether the test failed or not, and whatever signals the caller of the run ignores."""
    (tmp_path / "conftest.py").write_text(_CONFTEST)
    suite = tmp_path / "test_small.py"
    suite.write_text(_SUITE)
    argv = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:randomly"]
    argv += ["-c", os.path.join(ROOT, "pyproject.toml"), "--rootdir", str(tmp_path), "-q"]

    def ignore() -> None:
        for number in (signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    done = subprocess.run(
        [*argv, str(suite)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        preexec_fn=ignore,
    )

    output = done.stdout
    assert "test_small.py::test_fails_and_leaves_a_child" in output
    assert "ERROR at teardown of test_passes_and_leaves_a_child" in output
    assert ": sleep 1000" in output
    assert "1 failed, 4 passed, 1 error" in output
    pids = [int((tmp_path / name).read_text()) for name in ("top", "below")]
    until(lambda: not any(map(alive, pids)), "the end of what the test started")


def test_children_that_were_there_before_are_left() -> None:
    """A fixture of several tests may have started them."""
    kept = os.spawnlp(os.P_NOWAIT, "sleep", "sleep", "1000")
    left = os.spawnlp(os.P_NOWAIT, "sleep", "sleep", "1000")

    assert end_children([kept]) == [left]
    assert children_of(os.getpid()) == [kept]
    assert end_children([]) == [kept]


def test_ignored_and_blocked_signals_are_the_default_again() -> None:
    """All except the two that CPython itself ignores."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    try:
        default_signals()

        assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
        assert signal.getsignal(signal.SIGPIPE) is signal.SIG_IGN
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()
    finally:
        signal.signal(signal.SIGHUP, before)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
