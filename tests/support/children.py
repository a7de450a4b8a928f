"""A child of the test, made by `spawn`, looked at through /proc and gone at the end."""

import contextlib
import os
import signal
from collections.abc import Iterator
from typing import Any

from shimv2.kernel.spawn import spawn
from shimv2.shimctl.testbed.until import until


@contextlib.contextmanager
def a_child(*argv: str, **options: Any) -> Iterator[int]:
    """The pid of a child that sleeps or is stopped, killed and reaped when the block ends.

    `spawn` returns when the new program is certain, which is before the kernel has closed what is
    closed on exec and before the loader is done: until then there is more to see than there is.
    """
    pid = spawn(argv, **options)
    try:
        until(lambda: status_of(pid)["State"][0] in "ST", f"{argv} to rest")
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        wait_for(pid)


def wait_for(pid: int) -> int:
    """Reap a child where no reaper runs; its exit status as a shim tells it."""
    ended = os.waitid(os.P_PID, pid, os.WEXITED)
    assert ended is not None
    killed = ended.si_code != os.CLD_EXITED
    return ended.si_status + (128 if killed else 0)


def status_of(pid: int | str) -> dict[str, str]:
    """/proc/PID/status as a table."""
    with open(f"/proc/{pid}/status", encoding="utf-8") as file:
        return {name: value.strip() for name, _, value in (line.partition(":") for line in file)}


def fds_of(pid: int | str) -> dict[int, str]:
    """What a process has open: its numbers and what they lead to."""
    folder = f"/proc/{pid}/fd"
    return {int(name): os.readlink(f"{folder}/{name}") for name in os.listdir(folder)}
