"""Reads the counters of cgroup v1 for one container."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from shimv2.cgroups import parse
from shimv2.cgroups.files import Folder, huge_page_sizes, read

_NS_PER_TICK: Final = 1_000_000_000 // 100  # cpuacct.stat counts in 1/USER_HZ s; USER_HZ is 100
_MEMORY_ENTRIES: Final = {
    "usage": "",
    "swap": ".memsw",
    "kernel": ".kmem",
    "kernel_tcp": ".kmem.tcp",
}
# Field of the metrics -> its file, which I/O schedulers with counters have: CFQ (up to 4.20), BFQ.
_SCHEDULED: Final = {
    "sectors_recursive": "sectors_recursive",
    "io_service_bytes_recursive": "io_service_bytes_recursive",
    "io_serviced_recursive": "io_serviced_recursive",
    "io_queued_recursive": "io_queued_recursive",
    "io_service_time_recursive": "io_service_time_recursive",
    "io_wait_time_recursive": "io_wait_time_recursive",
    "io_merged_recursive": "io_merged_recursive",
    "io_time_recursive": "time_recursive",
}
_THROTTLED: Final = {
    "io_serviced_recursive": "throttle.io_serviced",
    "io_service_bytes_recursive": "throttle.io_service_bytes",
}


@dataclass(frozen=True, slots=True)
class Cpu:
    """CPU time in nanoseconds: total, kernel, user, per CPU; and the throttling counters."""

    total_ns: int
    kernel_ns: int
    user_ns: int
    per_cpu_ns: Sequence[int]
    periods: int
    throttled_periods: int
    throttled_ns: int


@dataclass(frozen=True, slots=True)
class MemoryEntry:
    """One counter of the memory controller in bytes; `failcnt` counts the hits of its limit."""

    usage: int
    max: int
    failcnt: int
    limit: int


@dataclass(frozen=True, slots=True)
class Memory:
    stat: Mapping[str, int]  # the keys of memory.stat
    entries: Mapping[str, MemoryEntry]  # usage, swap, kernel, kernel_tcp


@dataclass(frozen=True, slots=True)
class HugePages:
    page_size: str
    usage: int
    max: int
    failcnt: int


@dataclass(frozen=True, slots=True)
class Stats:
    """All counters of one container; None: it has no such cgroup, or the cgroup is gone."""

    cpu: Cpu
    pids: tuple[int, int] | None  # count and limit; here a limit of 0 means unlimited
    memory: Memory | None
    oom_control: Mapping[str, int] | None
    blkio: Mapping[str, Sequence[parse.BlockIo]] | None
    devices: Mapping[tuple[int, int], str]  # (major, minor) -> path, for `blkio`
    rdma: tuple[Sequence[parse.Rdma], Sequence[parse.Rdma]] | None  # in use, limits
    huge_pages: Sequence[HugePages]


def read_stats(directories: Mapping[str, str], *, partitions: str = "/proc/partitions") -> Stats:
    """Read all counters in `directories`: controller -> the container's directory.

    Raises:
        OSError: a file exists and cannot be read.
    """
    at = {controller: Folder(path) for controller, path in directories.items()}
    memory, oom_control = _memory(at["memory"]) if "memory" in at else (None, None)
    return Stats(
        cpu=_cpu(at.get("cpuacct"), at.get("cpu")),
        pids=_pids(at["pids"]) if "pids" in at else None,
        memory=memory,
        oom_control=oom_control,
        blkio=_blkio(at["blkio"]) if "blkio" in at else None,
        devices=parse.partitions(read(partitions) or "") if "blkio" in at else {},
        rdma=_rdma(at["rdma"]) if "rdma" in at else None,
        huge_pages=_huge_pages(at["hugetlb"]) if "hugetlb" in at else (),
    )


def _cpu(usage: Folder | None, scheduling: Folder | None) -> Cpu:
    ticks = usage.flat("cpuacct.stat") if usage else {}
    throttling = scheduling.flat("cpu.stat") if scheduling else {}
    per_cpu = (usage.text("cpuacct.usage_percpu") or "") if usage else ""
    return Cpu(
        total_ns=usage.number("cpuacct.usage") if usage else 0,
        kernel_ns=ticks.get("system", 0) * _NS_PER_TICK,
        user_ns=ticks.get("user", 0) * _NS_PER_TICK,
        per_cpu_ns=[int(word) for word in per_cpu.split()],
        periods=throttling.get("nr_periods", 0),
        throttled_periods=throttling.get("nr_throttled", 0),
        throttled_ns=throttling.get("throttled_time", 0),
    )


def _pids(folder: Folder) -> tuple[int, int] | None:
    current = folder.text("pids.current")
    if current is None:
        return None
    return parse.number(current), folder.number("pids.max", unlimited=0)


def _memory(folder: Folder) -> tuple[Memory | None, Mapping[str, int] | None]:
    stat = folder.text("memory.stat")
    control = folder.text("memory.oom_control")
    entries = {
        entry: MemoryEntry(
            usage=folder.number(f"memory{kind}.usage_in_bytes"),
            max=folder.number(f"memory{kind}.max_usage_in_bytes"),
            failcnt=folder.number(f"memory{kind}.failcnt"),
            limit=folder.number(f"memory{kind}.limit_in_bytes"),
        )
        for entry, kind in _MEMORY_ENTRIES.items()
    }
    return (
        Memory(parse.flat(stat), entries) if stat is not None else None,
        parse.flat(control) if control is not None else None,
    )


def oom_kills(directory: str) -> int | None:
    """Return the count of OOM kills of a memory cgroup; None before Linux 4.13.

    Raises:
        FileNotFoundError: the cgroup is gone.
    """
    text = Folder(directory).text("memory.oom_control")
    if text is None:
        raise FileNotFoundError(directory)
    return parse.flat(text).get("oom_kill")


def is_frozen(directory: str) -> bool:
    """Whether a freezer cgroup is frozen or freezing; False when it is gone."""
    text = Folder(directory).text("freezer.state")
    return text is not None and text.strip() != "THAWED"


def _blkio(folder: Folder) -> Mapping[str, Sequence[parse.BlockIo]]:
    """Read the I/O scheduler's counters, sub-cgroups included; else those of throttling."""
    for prefix in ("blkio.", "blkio.bfq."):
        if folder.text(f"{prefix}io_serviced_recursive") is not None:
            found = {
                entry: parse.blkio(folder.text(prefix + name) or "")
                for entry, name in _SCHEDULED.items()
            }
            if any(found.values()):  # empty: the devices have another scheduler
                return found
    found = {}
    for entry, name in _THROTTLED.items():
        text = folder.text(f"blkio.{name}_recursive")
        if text is None:  # before Linux 4.16
            text = folder.text(f"blkio.{name}")
        found[entry] = parse.blkio(text or "")
    return found


def _rdma(folder: Folder) -> tuple[Sequence[parse.Rdma], Sequence[parse.Rdma]] | None:
    current, limit = folder.text("rdma.current"), folder.text("rdma.max")
    if current is None or limit is None:
        return None
    return parse.rdma(current), parse.rdma(limit)


def _huge_pages(folder: Folder) -> list[HugePages]:
    return [
        HugePages(
            page_size=size,
            usage=folder.number(f"hugetlb.{size}.usage_in_bytes"),
            max=folder.number(f"hugetlb.{size}.max_usage_in_bytes"),
            failcnt=folder.number(f"hugetlb.{size}.failcnt"),
        )
        for size in huge_page_sizes()
        if folder.text(f"hugetlb.{size}.usage_in_bytes") is not None
    ]
