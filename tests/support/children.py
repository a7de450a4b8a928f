"""A child of the test, made by `spawn`: its status and files in /proc."""

import contextlib
import os
import signal
from collections.abc import Iterator
from typing import Any

from shimv2.kernel.spawn import spawn
from shimv2.shimctl.testbed.until import until


@contextlib.contextmanager
def a_child(*argv: str, **options: Any) -> Iterator[int]:
    """Yield the pid of a child that sleeps or is stopped; the end of the block kills and reaps it.

    `spawn` returns when execve can no longer fail.  That is before the kernel has closed the
    close-on-exec files and before the loader has finished.  So this waits until /proc shows the
    final state.
    """
    pid = spawn(argv, **options)
    try:
        until(lambda: status_of(pid)["State"][0] in "ST", f"{argv} to rest")
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        wait_for(pid)


def wait_for(pid: int) -> int:
    """Reap a child without a reaper; return its exit status in the form of a shim."""
    ended = os.waitid(os.P_PID, pid, os.WEXITED)
    assert ended is not None
    killed = ended.si_code != os.CLD_EXITED
    return ended.si_status + (128 if killed else 0)


def status_of(pid: int | str) -> dict[str, str]:
    """Return /proc/PID/status as a dict."""
    with open(f"/proc/{pid}/status", encoding="utf-8") as file:
        return {name: value.strip() for name, _, value in (line.partition(":") for line in file)}


def fds_of(pid: int | str) -> dict[int, str]:
    """Return the open files of a process: number -> target."""
    folder = f"/proc/{pid}/fd"
    return {int(name): os.readlink(f"{folder}/{name}") for name in os.listdir(folder)}
