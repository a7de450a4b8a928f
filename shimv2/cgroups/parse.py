"""Parsers of the kernel's cgroup files (cgroups(7)).  Pure."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

UNLIMITED: Final = 2**64 - 1  # stands for "max" in the metrics of cgroup v2
_RDMA_UNLIMITED: Final = 2**32 - 1


def memberships(text: str) -> dict[str, str]:
    """Read `/proc/PID/cgroup`: controller (or `name=x`) -> path; the unified hierarchy is ``""``.

    Lines are `ID:CONTROLLERS:PATH` (cgroups(7)); a path may contain colons.
    """
    found: dict[str, str] = {}
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            found[controller] = path
    return found


def mountpoints(mountinfo: str) -> dict[str, str]:
    """Read `/proc/self/mountinfo`: v1 controller -> mount point of its whole hierarchy.

    Bind mounts of a part of a hierarchy (their root is not `/`) are ignored: paths in
    `/proc/PID/cgroup` are relative to the hierarchy's root.
    """
    found: dict[str, str] = {}
    for root, point, options in _mounted("cgroup", mountinfo):
        if root == "/":
            for option in options.split(","):
                found.setdefault(option, point)
    return found


def unified_mountpoint(mountinfo: str) -> str:
    """Read `/proc/self/mountinfo`: the mount point of the whole cgroup v2 tree, "" if none."""
    points = (point for root, point, _ in _mounted("cgroup2", mountinfo) if root == "/")
    return next(points, "")


def _mounted(kind: str, mountinfo: str) -> Iterator[tuple[str, str, str]]:
    """Yield root, mount point and filesystem options of each mount of one type."""
    mark = f" - {kind} "
    for line in mountinfo.splitlines():
        left, found, right = line.partition(mark)  # most lines have other types
        if found:
            fields = left.split()
            yield fields[3], fields[4], right.partition(" ")[2]


def pids(text: str) -> list[int]:
    """Read `cgroup.procs`; 0 stands for a process in another pid namespace and is left out."""
    return [pid for pid in map(int, text.split()) if pid]


def directory(member: Mapping[str, str], mounts: Mapping[str, str], order: Iterable[str]) -> str:
    """Return the directory of the first controller of `order` that is mounted and not the root."""
    for controller in order:
        path = member.get(controller, "/")
        if path != "/" and controller in mounts:
            return mounts[controller] + path
    return ""


def directories(member: Mapping[str, str], mounts: Mapping[str, str]) -> dict[str, str]:
    """Return controller -> directory, for each controller where the process is not in the root."""
    return {
        controller: mounts[controller] + path
        for controller, path in member.items()
        if path != "/" and controller in mounts
    }


# --- the files of one cgroup -----------------------------------------------------------------


def number(text: str, *, unlimited: int = UNLIMITED) -> int:
    """Read a file that holds one number or `max`."""
    word = text.strip()
    return unlimited if word == "max" else int(word)


def flat(text: str) -> dict[str, int]:
    """Read a flat keyed file: `KEY NUMBER` a line; other lines are ignored."""
    found = {}
    for line in text.splitlines():
        key, _, value = line.partition(" ")
        if value.isdecimal():
            found[key] = int(value)
    return found


@dataclass(frozen=True, slots=True)
class Pressure:
    """Stall time (PSI): percent of the last 10, 60 and 300 s, and the total in microseconds."""

    avg10: float
    avg60: float
    avg300: float
    total: int


def pressure(text: str) -> dict[str, Pressure]:
    """Read a pressure file: `some` and `full` -> Pressure.  Before Linux 5.13 CPU has no `full`."""
    found = {}
    for line in text.splitlines():
        kind, *words = line.split()
        pairs = _pairs(words)
        found[kind] = Pressure(
            float(pairs["avg10"]),
            float(pairs["avg60"]),
            float(pairs["avg300"]),
            int(pairs["total"]),
        )
    return found


@dataclass(frozen=True, slots=True)
class DeviceIo:
    """One block device's bytes and operations, read and written, for a cgroup."""

    major: int
    minor: int
    rbytes: int = 0
    wbytes: int = 0
    rios: int = 0
    wios: int = 0


def io_stat(text: str) -> list[DeviceIo]:
    """Read `io.stat`; devices without numbers and unknown keys are ignored."""
    found = []
    for line in text.splitlines():
        device, *words = line.split()
        major, _, minor = device.partition(":")
        pairs = _pairs(words)
        if pairs:
            counted = (int(pairs.get(key, 0)) for key in ("rbytes", "wbytes", "rios", "wios"))
            found.append(DeviceIo(int(major), int(minor), *counted))
    return found


@dataclass(frozen=True, slots=True)
class Rdma:
    """Handles and objects of one RDMA device: those in use, or the limit."""

    device: str
    hca_handles: int
    hca_objects: int


def rdma(text: str) -> list[Rdma]:
    """Read `rdma.current` or `rdma.max`: `mlx4_0 hca_handle=2 hca_object=max`."""
    found = []
    for line in text.splitlines():
        device, *words = line.split()
        pairs = _pairs(words)
        if len(pairs) == 2:
            handles, objects = (
                number(pairs.get(key, "0"), unlimited=_RDMA_UNLIMITED)
                for key in ("hca_handle", "hca_object")
            )
            found.append(Rdma(device, handles, objects))
    return found


@dataclass(frozen=True, slots=True)
class BlockIo:
    """One line of a v1 blkio file."""

    major: int
    minor: int
    op: str  # Read, Write, Sync, ...; "" in files with one number a device
    value: int


def blkio(text: str) -> list[BlockIo]:
    """Read a v1 blkio file: `254:0 Read 4096` a line; the total in the last line is left out."""
    found = []
    for line in text.splitlines():
        device, *words = line.split()
        major, colon, minor = device.partition(":")
        if colon:
            found.append(BlockIo(int(major), int(minor), " ".join(words[:-1]), int(words[-1])))
    return found


def partitions(text: str) -> dict[tuple[int, int], str]:
    """Read `/proc/partitions`: (major, minor) -> the device's path."""
    rows = (line.split() for line in text.splitlines()[2:])
    return {(int(row[0]), int(row[1])): f"/dev/{row[3]}" for row in rows if len(row) == 4}


def page_size(folder: str) -> str:
    """Turn a name of `/sys/kernel/mm/hugepages` into the size in hugetlb's file names: 2MB, 1GB."""
    kib = int(folder.removeprefix("hugepages-").removesuffix("kB"))
    for unit, factor in (("GB", 1 << 20), ("MB", 1 << 10)):
        if kib >= factor:
            return f"{kib // factor}{unit}"
    return f"{kib}KB"


def _pairs(words: Iterable[str]) -> dict[str, str]:
    return dict(_split(words))


def _split(words: Iterable[str]) -> Iterator[tuple[str, str]]:
    for word in words:
        key, equals, value = word.partition("=")
        if equals:
            yield key, value
