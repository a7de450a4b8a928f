"""Reads the counters of cgroup v2 for one container, and enables its controllers."""

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from shimv2.cgroups import parse
from shimv2.cgroups.files import Folder, huge_page_sizes, read

log = logging.getLogger(__name__)

_COUNTERS_BYTES: Final = 4096
_MEMORY_FILES: Final = {
    "usage": "memory.current",
    "usage_limit": "memory.max",
    "swap_usage": "memory.swap.current",
    "swap_limit": "memory.swap.max",
    "max_usage": "memory.peak",
    "swap_max_usage": "memory.swap.peak",
}


@dataclass(frozen=True, slots=True)
class HugePages:
    page_size: str
    current: int
    max: int
    failcnt: int


@dataclass(frozen=True, slots=True)
class Stats:
    """All counters of one container.  A missing file gives 0; a limit `max` is `UNLIMITED`."""

    pids: tuple[int, int]  # count and limit
    cpu: Mapping[str, int]  # the keys of cpu.stat
    memory: Mapping[str, int]  # the keys of memory.stat
    memory_use: Mapping[str, int]  # usage, usage_limit, swap_usage, ...: bytes
    memory_events: Mapping[str, int]
    io: Sequence[parse.DeviceIo]
    rdma: tuple[Sequence[parse.Rdma], Sequence[parse.Rdma]]  # in use, limits
    huge_pages: Sequence[HugePages]
    pressure: Mapping[str, Mapping[str, parse.Pressure]]  # keys: cpu, memory, io; may lack some


def read_stats(directory: str) -> Stats:
    """Read all counters of the cgroup at `directory`.

    Raises:
        OSError: a file exists and cannot be read.
    """
    folder = Folder(directory)
    pressures = {of: folder.text(f"{of}.pressure") for of in ("cpu", "memory", "io")}
    return Stats(
        pids=(folder.number("pids.current"), folder.number("pids.max")),
        cpu=folder.flat("cpu.stat"),
        memory=folder.flat("memory.stat"),
        memory_use={entry: folder.number(name) for entry, name in _MEMORY_FILES.items()},
        memory_events=folder.flat("memory.events"),
        io=parse.io_stat(folder.text("io.stat") or ""),
        rdma=(
            parse.rdma(folder.text("rdma.current") or ""),
            parse.rdma(folder.text("rdma.max") or ""),
        ),
        huge_pages=[
            HugePages(
                page_size=size,
                current=folder.number(f"hugetlb.{size}.current"),
                max=folder.number(f"hugetlb.{size}.max"),
                failcnt=folder.flat(f"hugetlb.{size}.events").get("max", 0),
            )
            for size in huge_page_sizes()
        ],
        pressure={of: parse.pressure(text) for of, text in pressures.items() if text},
    )


def counter(fd: int, key: str) -> int:
    """Read one number from an open flat keyed file; 0 if it has no such key.

    Raises:
        OSError: ENODEV: the cgroup was removed.
    """
    return parse.flat(os.pread(fd, _COUNTERS_BYTES, 0).decode("ascii")).get(key, 0)


def is_frozen(directory: str) -> bool:
    """Whether `cgroup.freeze` is 1; False when the cgroup is gone."""
    return Folder(directory).number("cgroup.freeze") != 0


def enable_controllers(root: str, path: str) -> None:
    """Enable every controller of the machine for the cgroup `path`, where that is allowed.

    A controller must be enabled in `cgroup.subtree_control` of each parent, from the root down
    (cgroups(7)).  A refusal (a delegated subtree, a rootless user) is only logged.
    """
    wanted = (read(f"{root}/cgroup.controllers") or "").split()
    parent = root
    for part in ["", *path.strip("/").split("/")[:-1]]:
        parent = f"{parent}/{part}" if part else parent
        try:
            passed_on = (read(f"{parent}/cgroup.subtree_control") or "").split()
        except OSError as error:
            log.debug("cannot enable controllers in %s: %s", parent, error)
            continue
        for name in wanted:
            if name not in passed_on:
                _enable(parent, name)


def _enable(parent: str, controller: str) -> None:
    """Enable one controller alone, so that a refusal does not affect the others."""
    try:
        with open(f"{parent}/cgroup.subtree_control", "w", encoding="ascii") as file:
            file.write(f"+{controller}")
    except OSError as error:
        log.debug("cannot enable %s in %s: %s", controller, parent, error)
