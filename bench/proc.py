"""Reads from the kernel the CPU time, memory and wake-ups of a process."""

import os
import select
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

_SCHED_CLOCK: Final = 2  # the clock id of a process's CPU time in ns (linux/posix-timers.h)


@dataclass(frozen=True, slots=True)
class Memory:
    """In KiB: resident (RSS), with its share of shared pages (PSS), and unique to it (USS)."""

    rss: float
    pss: float
    uss: float


def cpu_s(pid: int) -> float:
    """Return a process's CPU time: of all its threads, ended ones too, and of no child."""
    return time.clock_gettime((~pid << 3) | _SCHED_CLOCK)


def memory(pid: int) -> Memory:
    found: dict[str, int] = {}
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
        for line in file:
            words = line.split()
            if len(words) == 3 and words[2] == "kB":
                found[words[0].rstrip(":")] = int(words[1])
    return Memory(found["Rss"], found["Pss"], found["Private_Clean"] + found["Private_Dirty"])


def total_pss(pids: Iterable[int]) -> float:
    """Return the sum, in KiB, over the processes that still exist."""
    total = 0.0
    for pid in pids:
        try:
            total += memory(pid).pss
        except (FileNotFoundError, ProcessLookupError):
            continue
    return total


def wakeups(pid: int) -> int:
    """Count how often the threads of a process have gone to sleep, and so have been woken."""
    total = 0
    for thread in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{thread}/status", encoding="ascii", errors="replace") as file:
            total += sum(int(line.split()[1]) for line in file if line.startswith("voluntary_"))
    return total


def available_kib() -> float:
    """Return the kernel's estimate of the memory that new programs can get."""
    with open("/proc/meminfo", encoding="ascii") as file:
        for line in file:
            if line.startswith("MemAvailable:"):
                return float(line.split()[1])
    raise LookupError("no MemAvailable in /proc/meminfo")


def wait_exit(pidfd: int, limit_s: float) -> None:
    """Wait for the exit of a process that is not our child.

    Raises:
        TimeoutError: it continues to run.
    """
    ready = select.poll()
    ready.register(pidfd, select.POLLIN)
    if not ready.poll(limit_s * 1000):
        raise TimeoutError(f"a shim had not ended after {limit_s} s")
