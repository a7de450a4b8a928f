"""Isolates tests from each other: default signals, and the end of leftover children."""

import contextlib
import os
import signal
import time
from collections.abc import Iterable
from typing import Final

from shimv2.shimctl.testbed.leaks import children_of

# CPython ignores these two itself, and the tests run as any Python program does.
_PYTHON_IGNORES: Final = frozenset({signal.SIGPIPE, signal.SIGXFSZ})
_UNCHANGEABLE: Final = frozenset({signal.SIGKILL, signal.SIGSTOP})
_GONE_S: Final = 10.0
_STEP_S: Final = 0.01


def default_signals() -> None:
    """Set signals to default that the caller of the test run ignored or blocked.

    `nohup` ignores SIGHUP and a shell's `&` may ignore SIGINT and SIGQUIT.  Every child inherits
    that, so such a signal of a test would not end its programs.
    """
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in signal.valid_signals() - _PYTHON_IGNORES - _UNCHANGEABLE:
        if signal.getsignal(number) is signal.SIG_IGN:
            default = number == signal.SIGINT
            signal.signal(number, signal.default_int_handler if default else signal.SIG_DFL)


def end_children(known: Iterable[int]) -> list[int]:
    """Kill and reap the children of this process that are not `known`, with their descendants.

    Returns the pids of the children.  A descendant that has left its parent before is not found;
    tests that make such processes mark them (`shimv2.shimctl.testbed.leaks.HostLeaks`).

    Raises:
        TimeoutError: one has not ended within 10 s of SIGKILL.
    """
    before = set(known)
    ended: list[int] = []
    # Repeated until there are none: a subreaper gets the children of a killed process.
    while left := sorted(set(children_of(os.getpid())) - before):
        for pid in left:
            for each in [pid, *_descendants(pid)]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(each, signal.SIGKILL)
        for pid in left:
            _reap(pid)
        ended += left
    return ended


def _descendants(pid: int) -> list[int]:
    below = children_of(pid)
    return [*below, *(each for child in below for each in _descendants(child))]


def _reap(pid: int) -> None:
    end = time.monotonic() + _GONE_S
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(pid, os.WNOHANG) == (0, 0):
            if time.monotonic() >= end:
                raise TimeoutError(f"process {pid} is there 10 s after SIGKILL")
            time.sleep(_STEP_S)  # between two checks
