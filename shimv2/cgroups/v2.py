"""What the files of cgroup v2 count for one container; and the controllers that do the counting."""

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
    """Files that are missing count 0; limits of `max` are `parse.UNLIMITED`."""

    pids: tuple[int, int]  # how many, the limit
    cpu: Mapping[str, int]  # the keys of cpu.stat
    memory: Mapping[str, int]  # the keys of memory.stat
    memory_use: Mapping[str, int]  # usage, usage_limit, swap_usage, ...: bytes
    memory_events: Mapping[str, int]
    io: Sequence[parse.DeviceIo]
    rdma: tuple[Sequence[parse.Rdma], Sequence[parse.Rdma]]  # in use, limits
    huge_pages: Sequence[HugePages]
    pressure: Mapping[str, Mapping[str, parse.Pressure]]  # of cpu, memory, io, where counted


def read_stats(directory: str) -> Stats:
    """Read all that is counted in the cgroup at `directory`.

    Raises:
        OSError: a file that exists cannot be read.
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
    """Read one number of an open flat keyed file, from its beginning; 0 when it has no such key.

    Raises:
        OSError: ENODEV when the cgroup was removed.
    """
    return parse.flat(os.pread(fd, _COUNTERS_BYTES, 0).decode("ascii")).get(key, 0)


def is_frozen(directory: str) -> bool:
    """Whether a cgroup was asked to freeze; False when it is gone."""
    return Folder(directory).number("cgroup.freeze") != 0


def enable_controllers(root: str, path: str) -> None:
    """Have every controller of the machine count in the cgroup `path`, where that is allowed.

    A cgroup has the controllers that each of its parents passes on, from the root downwards.  What
    cannot be passed on (a delegated part of the tree, a rootless user) is only logged.
    """
    wanted = (read(f"{root}/cgroup.controllers") or "").split()
    parent = root
    for part in ["", *path.strip("/").split("/")[:-1]]:
        parent = f"{parent}/{part}" if part else parent
        try:
            passed_on = (read(f"{parent}/cgroup.subtree_control") or "").split()
        except OSError as error:
            log.debug("controllers are not enabled in %s: %s", parent, error)
            continue
        for name in wanted:
            if name not in passed_on:
                _enable(parent, name)


def _enable(parent: str, controller: str) -> None:
    """Pass one controller on, by itself: what one refuses does not cost the others."""
    try:
        with open(f"{parent}/cgroup.subtree_control", "w", encoding="ascii") as file:
            file.write(f"+{controller}")
    except OSError as error:
        log.debug("%s is not enabled in %s: %s", controller, parent, error)
