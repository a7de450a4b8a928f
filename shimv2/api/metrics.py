"""Converts the counters of a cgroup to the message that Stats returns.  Pure."""

from collections.abc import Mapping
from typing import Any, Final

from google.protobuf.message import Message

from protos import cgroups_v1_pb2, cgroups_v2_pb2
from shimv2.cgroups import v1, v2

# Keys of v1's memory.stat whose field in the message has another name.
_V1_MEMORY: Final = {
    "pgpgin": "pg_pg_in",
    "pgpgout": "pg_pg_out",
    "pgfault": "pg_fault",
    "pgmajfault": "pg_maj_fault",
    "hierarchical_memsw_limit": "hierarchical_swap_limit",
}
_V1_MEMORY_SPELT: Final = _V1_MEMORY | {
    f"total_{key}": f"total_{name}" for key, name in _V1_MEMORY.items()
}


def message(stats: v1.Stats | v2.Stats) -> Message:
    """Build an `io.containerd.cgroups.v1.Metrics` or `v2.Metrics` from `stats`."""
    return _v1(stats) if isinstance(stats, v1.Stats) else _v2(stats)


def _known(kind: type[Message], values: Mapping[str, int]) -> dict[str, Any]:
    """Pick the values that the message has a field for: fields are named like the kernel's keys."""
    names = kind.DESCRIPTOR.fields_by_name
    return {key: value for key, value in values.items() if key in names}


def _v1(stats: v1.Stats) -> cgroups_v1_pb2.Metrics:
    pb = cgroups_v1_pb2
    return pb.Metrics(
        hugetlb=[
            pb.HugetlbStat(
                usage=each.usage, max=each.max, failcnt=each.failcnt, pagesize=each.page_size
            )
            for each in stats.huge_pages
        ],
        pids=pb.PidsStat(current=stats.pids[0], limit=stats.pids[1]) if stats.pids else None,
        cpu=_v1_cpu(stats.cpu),
        memory=_v1_memory(stats.memory) if stats.memory else None,
        blkio=_v1_blkio(stats),
        rdma=_v1_rdma(stats),
        memory_oom_control=(
            pb.MemoryOomControl(**_known(pb.MemoryOomControl, stats.oom_control))
            if stats.oom_control is not None
            else None
        ),
    )


def _v1_cpu(cpu: v1.Cpu) -> cgroups_v1_pb2.CPUStat:
    pb = cgroups_v1_pb2
    return pb.CPUStat(
        usage=pb.CPUUsage(
            total=cpu.total_ns, kernel=cpu.kernel_ns, user=cpu.user_ns, per_cpu=cpu.per_cpu_ns
        ),
        throttling=pb.Throttle(
            periods=cpu.periods,
            throttled_periods=cpu.throttled_periods,
            throttled_time=cpu.throttled_ns,
        ),
    )


def _v1_memory(memory: v1.Memory) -> cgroups_v1_pb2.MemoryStat:
    pb = cgroups_v1_pb2
    spelt = {_V1_MEMORY_SPELT.get(key, key): value for key, value in memory.stat.items()}
    # `swap` is a number in the kernel's file, but a MemoryEntry in the message.
    counted = {key: value for key, value in spelt.items() if key not in memory.entries}
    entries: dict[str, Any] = {
        name: pb.MemoryEntry(
            limit=entry.limit, usage=entry.usage, max=entry.max, failcnt=entry.failcnt
        )
        for name, entry in memory.entries.items()
    }
    return pb.MemoryStat(**_known(pb.MemoryStat, counted), **entries)


def _v1_blkio(stats: v1.Stats) -> cgroups_v1_pb2.BlkIOStat | None:
    if stats.blkio is None:
        return None
    lists: dict[str, Any] = {
        name: [
            cgroups_v1_pb2.BlkIOEntry(
                op=each.op,
                device=stats.devices.get((each.major, each.minor), ""),
                major=each.major,
                minor=each.minor,
                value=each.value,
            )
            for each in entries
        ]
        for name, entries in stats.blkio.items()
    }
    return cgroups_v1_pb2.BlkIOStat(**lists)


def _v1_rdma(stats: v1.Stats) -> cgroups_v1_pb2.RdmaStat | None:
    if stats.rdma is None:
        return None
    pb = cgroups_v1_pb2
    current, limit = (
        [
            pb.RdmaEntry(
                device=each.device, hca_handles=each.hca_handles, hca_objects=each.hca_objects
            )
            for each in entries
        ]
        for entries in stats.rdma
    )
    return pb.RdmaStat(current=current, limit=limit)


def _v2(stats: v2.Stats) -> cgroups_v2_pb2.Metrics:
    pb = cgroups_v2_pb2
    return pb.Metrics(
        pids=pb.PidsStat(current=stats.pids[0], limit=stats.pids[1]),
        cpu=pb.CPUStat(**_known(pb.CPUStat, stats.cpu), psi=_psi(stats, "cpu")),
        memory=pb.MemoryStat(
            **_known(pb.MemoryStat, {**stats.memory, **stats.memory_use}),
            psi=_psi(stats, "memory"),
        ),
        rdma=_v2_rdma(stats),
        io=pb.IOStat(
            usage=[
                pb.IOEntry(
                    major=each.major,
                    minor=each.minor,
                    rbytes=each.rbytes,
                    wbytes=each.wbytes,
                    rios=each.rios,
                    wios=each.wios,
                )
                for each in stats.io
            ],
            psi=_psi(stats, "io"),
        ),
        hugetlb=[
            pb.HugeTlbStat(
                current=each.current, max=each.max, pagesize=each.page_size, failcnt=each.failcnt
            )
            for each in stats.huge_pages
        ],
        memory_events=(
            pb.MemoryEvents(**_known(pb.MemoryEvents, stats.memory_events))
            if stats.memory_events
            else None
        ),
    )


def _v2_rdma(stats: v2.Stats) -> cgroups_v2_pb2.RdmaStat:
    pb = cgroups_v2_pb2
    current, limit = (
        [
            pb.RdmaEntry(
                device=each.device, hca_handles=each.hca_handles, hca_objects=each.hca_objects
            )
            for each in entries
        ]
        for entries in stats.rdma
    )
    return pb.RdmaStat(current=current, limit=limit)


def _psi(stats: v2.Stats, of: str) -> cgroups_v2_pb2.PSIStats | None:
    if of not in stats.pressure:
        return None
    pb = cgroups_v2_pb2
    kinds: dict[str, Any] = {
        kind: pb.PSIData(avg10=it.avg10, avg60=it.avg60, avg300=it.avg300, total=it.total)
        for kind, it in stats.pressure[of].items()
        if kind in ("some", "full")
    }
    return pb.PSIStats(**kinds)
