"""Stats from recorded cgroup files: every field of both messages, and what is missing."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from protos import cgroups_v1_pb2, cgroups_v2_pb2
from shimv2.api import metrics
from shimv2.cgroups import v1, v2
from shimv2.cgroups.files import huge_page_sizes
from shimv2.gocompat.anyurl import pack

DATA: Final = Path(__file__).parents[1] / "data" / "cgroups"
V1_CONTROLLERS: Final = ("cpu", "cpuacct", "memory", "blkio", "pids")
# Fields of v1's MemoryStat -> key of memory.stat, if the names differ.
V1_KEYS: Final = {
    "pg_pg_in": "pgpgin",
    "pg_pg_out": "pgpgout",
    "pg_fault": "pgfault",
    "pg_maj_fault": "pgmajfault",
    "hierarchical_swap_limit": "hierarchical_memsw_limit",
    "total_pg_pg_in": "total_pgpgin",
    "total_pg_pg_out": "total_pgpgout",
    "total_pg_fault": "total_pgfault",
    "total_pg_maj_fault": "total_pgmajfault",
}
# Fields of v2 that are files of their own, or of another kind.
V2_OWN_FILES: Final = {
    "usage",
    "usage_limit",
    "swap_usage",
    "swap_limit",
    "max_usage",
    "swap_max_usage",
    "psi",
}


def v1_message(*controllers: str, folder: Path | None = None) -> cgroups_v1_pb2.Metrics:
    """Return the message for the files in one folder per controller; by default the captured
    container."""
    at = {name: str(DATA / "v1" / name if folder is None else folder) for name in controllers}
    partitions = (folder or DATA / "v1") / "partitions"
    found = metrics.message(v1.read_stats(at, partitions=str(partitions)))
    assert isinstance(found, cgroups_v1_pb2.Metrics)
    return found


def v2_message(folder: Path) -> cgroups_v2_pb2.Metrics:
    found = metrics.message(v2.read_stats(str(folder)))
    assert isinstance(found, cgroups_v2_pb2.Metrics)
    return found


def test_v1_container_is_reported_as_it_was_captured() -> None:
    """The numbers of each controller of a real container are in their fields."""
    found = v1_message(*V1_CONTROLLERS)

    assert (found.pids.current, found.pids.limit) == (1, 77)
    assert found.cpu.usage.total == 16743844
    assert (found.cpu.usage.kernel, found.cpu.usage.user) == (10_000_000, 0)
    assert list(found.cpu.usage.per_cpu) == [13732863, 3010981]
    assert found.cpu.throttling == cgroups_v1_pb2.Throttle(periods=2)
    assert (found.memory.rss, found.memory.pg_fault, found.memory.total_rss) == (53248, 650, 53248)
    assert found.memory.hierarchical_memory_limit == 64 << 20
    assert found.memory.usage == cgroups_v1_pb2.MemoryEntry(
        limit=64 << 20, usage=585728, max=2252800
    )
    assert found.memory.swap.limit == 9223372036854771712
    assert found.memory.kernel.max == 581632
    assert found.memory.kernel_tcp.limit == 9223372036854771712
    assert found.memory_oom_control == cgroups_v1_pb2.MemoryOomControl()
    assert [field.name for field, _ in found.ListFields()] == [
        "pids",
        "cpu",
        "memory",
        "blkio",
        "memory_oom_control",
    ]


def test_v1_memory_has_every_key_of_the_kernel(tmp_path: Path) -> None:
    """Field for field, with a number of its own for each."""
    fields = [f for f in cgroups_v1_pb2.MemoryStat.DESCRIPTOR.fields if f.message_type is None]
    lines = [f"{V1_KEYS.get(field.name, field.name)} {1000 + field.number}" for field in fields]
    (tmp_path / "memory.stat").write_text("\n".join(lines) + "\nswap 5\nnew_key 7\n")

    found = v1_message("memory", folder=tmp_path).memory

    assert {f.name: getattr(found, f.name) for f in fields} == {
        field.name: 1000 + field.number for field in fields
    }
    assert found.HasField("swap")
    assert found.swap.usage == 0


@pytest.mark.rule("stats.answer.3")
def test_v1_limit_of_max_pids_is_zero(tmp_path: Path) -> None:
    """For the reference 0 means no limit here, unlike on v2."""
    (tmp_path / "pids.current").write_text("4\n")
    (tmp_path / "pids.max").write_text("max\n")

    found = v1_message("pids", folder=tmp_path).pids

    assert (found.current, found.limit) == (4, 0)


def test_v1_oom_control_is_reported_with_all_fields(tmp_path: Path) -> None:
    """CRI reads from its kills why a container exited."""
    text = "oom_kill_disable 1\nunder_oom 1\noom_kill 12\n"
    (tmp_path / "memory.oom_control").write_text(text)

    found = v1_message("memory", folder=tmp_path).memory_oom_control

    assert (found.oom_kill_disable, found.under_oom, found.oom_kill) == (1, 1, 12)


def test_v1_scheduler_that_counts_is_preferred() -> None:
    """CFQ's lists, with the devices' names; those of throttling are ignored."""
    found = v1_message("blkio", folder=DATA / "v1-cfq").blkio

    first = found.io_service_bytes_recursive[0]
    assert (first.op, first.device, first.major, first.minor, first.value) == (
        "Read",
        "/dev/sda",
        8,
        0,
        4096,
    )
    assert [e.value for e in found.io_serviced_recursive] == [1, 2, 2, 1, 0, 3]
    assert [e.value for e in found.io_queued_recursive] == [0, 1, 1]
    assert [e.value for e in found.io_service_time_recursive] == [100, 200, 300]
    assert [e.value for e in found.io_wait_time_recursive] == [10, 20, 30]
    assert [e.value for e in found.io_merged_recursive] == [0, 7, 7]
    assert [(e.device, e.op, e.value) for e in found.io_time_recursive] == [
        ("/dev/sda", "", 55),
        ("", "", 66),  # a device that is no partition has no name
    ]
    assert [e.value for e in found.sectors_recursive] == [24]


@pytest.mark.parametrize("kind", ["", "_recursive"])
def test_v1_throttle_counts_when_no_scheduler_does(tmp_path: Path, kind: str) -> None:
    """If all files of a scheduler are empty, another one is used; sub-cgroups count if possible."""
    (tmp_path / "blkio.bfq.io_serviced_recursive").write_text("Total 0\n")
    (tmp_path / "blkio.throttle.io_serviced").write_text("8:0 Read 1\nTotal 1\n")
    (tmp_path / "blkio.throttle.io_service_bytes").write_text("8:0 Read 512\nTotal 512\n")
    if kind:
        (tmp_path / "blkio.throttle.io_serviced_recursive").write_text("8:0 Read 3\nTotal 3\n")

    found = v1_message("blkio", folder=tmp_path).blkio

    assert [e.value for e in found.io_serviced_recursive] == [3 if kind else 1]
    assert [e.value for e in found.io_service_bytes_recursive] == [512]


@pytest.mark.rule("stats.answer.5")
def test_v1_rdma_has_use_and_limit() -> None:
    """`max` becomes the largest number of the field."""
    found = v1_message("rdma", folder=DATA / "v1-cfq").rdma

    assert [(e.device, e.hca_handles, e.hca_objects) for e in found.current] == [
        ("mlx4_0", 2, 2000),
        ("ocrdma1", 3, 0),
    ]
    assert [(e.hca_handles, e.hca_objects) for e in found.limit] == [
        (3, 2**32 - 1),
        (2**32 - 1, 10000),
    ]


@pytest.mark.rule("stats.answer.5")
def test_v1_huge_pages_have_one_entry_a_size(tmp_path: Path) -> None:
    """For the sizes that the controller counts."""
    for size in huge_page_sizes():
        for number, name in enumerate(("usage_in_bytes", "max_usage_in_bytes", "failcnt"), 1):
            (tmp_path / f"hugetlb.{size}.{name}").write_text(f"{number}\n")

    found = v1_message("hugetlb", folder=tmp_path).hugetlb

    assert [(e.pagesize, e.usage, e.max, e.failcnt) for e in found] == [
        (size, 1, 2, 3) for size in huge_page_sizes()
    ]


@pytest.mark.rule("stats.answer.4")
def test_v1_cgroup_that_is_gone_is_an_almost_empty_message(tmp_path: Path) -> None:
    """Missing files are no error; the CPU is always reported."""
    found = v1_message(*V1_CONTROLLERS, "rdma", "hugetlb", folder=tmp_path / "gone")

    assert [field.name for field, _ in found.ListFields()] == ["cpu", "blkio"]
    assert found.cpu.HasField("usage")
    assert found.cpu.HasField("throttling")


@pytest.mark.rule("stats.answer.3", "stats.answer.5")
def test_v2_message_has_all_values() -> None:
    """Numbers, limits, pressure, devices and events are in their fields."""
    found = v2_message(DATA / "v2-every")
    pb = cgroups_v2_pb2

    assert (found.pids.current, found.pids.limit) == (3, 2**64 - 1)
    assert found.cpu == pb.CPUStat(
        usage_usec=5016500,
        user_usec=3004500,
        system_usec=2012000,
        nr_periods=40,
        nr_throttled=4,
        throttled_usec=90210,
        nr_bursts=2,
        burst_usec=1200,
        psi=pb.PSIStats(
            some=pb.PSIData(avg10=1.25, avg60=0.5, avg300=0.1, total=123456),
            full=pb.PSIData(avg10=0.75, avg60=0.2, avg300=0.05, total=65432),
        ),
    )
    memory = found.memory
    assert (memory.usage, memory.usage_limit) == (585728, 64 << 20)
    assert (memory.swap_usage, memory.swap_limit) == (4096, 2**64 - 1)
    assert (memory.max_usage, memory.swap_max_usage) == (2252800, 8192)
    assert memory.psi.some.total == 77
    assert found.io == pb.IOStat(
        usage=[
            pb.IOEntry(major=254, minor=0, rbytes=4096, wbytes=8192, rios=1, wios=2),
            pb.IOEntry(major=259, minor=1, rbytes=65536, rios=16),
        ],
        psi=pb.PSIStats(some=pb.PSIData(), full=pb.PSIData()),
    )
    assert found.memory_events == pb.MemoryEvents(
        high=5, max=17, oom=3, oom_kill=2, oom_group_kill=1
    )
    assert found.rdma.current[0].hca_objects == 2000
    assert found.rdma.limit[0].hca_objects == 2**32 - 1


def test_v2_container_is_reported_as_it_was_captured() -> None:
    """The same with files of a real kernel without RDMA devices and swap."""
    found = v2_message(DATA / "v2")
    pb = cgroups_v2_pb2

    assert (found.pids.current, found.pids.limit) == (1, 77)
    assert (found.cpu.usage_usec, found.cpu.nr_throttled) == (3958886, 185)
    assert found.cpu.psi.full == pb.PSIData(avg10=65.66, avg60=20.1, avg300=4.64, total=14891974)
    memory = found.memory
    assert (memory.usage, memory.max_usage, memory.usage_limit) == (294912, 64 << 20, 64 << 20)
    assert (memory.swap_usage, memory.swap_limit, memory.swap_max_usage) == (0, 0, 0)
    assert memory.psi.some.total == 661955
    assert list(found.io.usage) == [
        pb.IOEntry(major=254, minor=0, rbytes=217088, wbytes=8392704, rios=3, wios=10)
    ]
    assert found.io.psi.some.total == 26692
    assert found.memory_events == pb.MemoryEvents(max=84, oom=1, oom_kill=1)
    assert found.rdma == pb.RdmaStat()


def test_v2_memory_has_every_key_of_the_kernel() -> None:
    """Each key that the message has a field for; those of old kernels are 0 on a new one."""
    text = (DATA / "v2-every" / "memory.stat").read_text()
    keys = {line.split()[0]: int(line.split()[1]) for line in text.splitlines()}
    names = {f.name for f in cgroups_v2_pb2.MemoryStat.DESCRIPTOR.fields} - V2_OWN_FILES

    found = v2_message(DATA / "v2-every").memory

    values = {name: getattr(found, name) for name in names}
    assert values == {name: keys.get(name, 0) for name in names}
    assert {name for name, value in values.items() if not value} == {
        "workingset_refault",
        "workingset_activate",
    }


@pytest.mark.rule("stats.answer.5")
def test_v2_huge_pages_have_one_entry_a_size_of_the_machine(tmp_path: Path) -> None:
    """Zeros if the controller is not enabled."""
    sizes = huge_page_sizes()
    for size in sizes[:1]:
        (tmp_path / f"hugetlb.{size}.current").write_text("1\n")
        (tmp_path / f"hugetlb.{size}.max").write_text("max\n")
        (tmp_path / f"hugetlb.{size}.events").write_text("max 4\n")

    found = [(e.pagesize, e.current, e.max, e.failcnt) for e in v2_message(tmp_path).hugetlb]

    assert found[:1] == [(size, 1, 2**64 - 1, 4) for size in sizes[:1]]
    assert found[1:] == [(size, 0, 0, 0) for size in sizes[1:]]


@pytest.mark.rule("stats.answer.4")
def test_v2_cgroup_that_is_gone_is_a_message_of_zeros(tmp_path: Path) -> None:
    """An almost empty message without an error, as in the reference, without events and
    pressure."""
    found = v2_message(tmp_path / "gone")

    assert not found.HasField("memory_events")
    assert not found.cpu.HasField("psi")
    assert (found.pids.current, found.memory.usage) == (0, 0)
    assert {"cpu", "memory", "pids", "io", "rdma"} <= {
        field.name for field, _ in found.ListFields()
    }


@pytest.mark.parametrize(("kind", "url"), [(cgroups_v1_pb2, "v1"), (cgroups_v2_pb2, "v2")])
def test_metrics_are_packed_under_their_bare_name(kind: object, url: str) -> None:
    """Go clients compare the type URL exactly."""
    packed = pack(getattr(kind, "Metrics")())  # noqa: B009 - the modules have no common type

    assert packed.type_url == f"io.containerd.cgroups.{url}.Metrics"


@pytest.mark.rule("stats.answer.4")
def test_file_that_cannot_be_read_fails(tmp_path: Path) -> None:
    """Only missing files count as 0; other errors are reported."""
    (tmp_path / "memory.stat").symlink_to("memory.stat")

    with pytest.raises(OSError, match="symbolic links"):
        v1.read_stats({"memory": str(tmp_path)})


def test_controllers_are_passed_on_by_every_parent_and_not_by_the_cgroup_itself(
    tmp_path: Path,
) -> None:
    """From the root down, one at a time: a refusal of one must not affect the others."""
    (tmp_path / "cgroup.controllers").write_text("cpu memory pids\n")
    for folder in (tmp_path, tmp_path / "a", tmp_path / "a" / "c1"):
        folder.mkdir(exist_ok=True)
        (folder / "cgroup.subtree_control").write_text("cpu memory\n")

    v2.enable_controllers(str(tmp_path), "/a/c1")

    controllers = [
        (tmp_path / part / "cgroup.subtree_control").read_text() for part in ("", "a", "a/c1")
    ]
    assert controllers == ["+pids", "+pids", "cpu memory\n"]


def test_controllers_that_cannot_be_enabled_are_no_error(tmp_path: Path) -> None:
    """A delegated part of the tree refuses them: the container runs without those numbers."""
    (tmp_path / "cgroup.controllers").write_text("cpu\n")
    os.mkdir(tmp_path / "cgroup.subtree_control")

    v2.enable_controllers(str(tmp_path), "/a/c1")


@pytest.fixture
def threaded() -> Iterator[Path]:
    """Yield a threaded cgroup, which refuses most controllers."""
    path = Path("/sys/fs/cgroup", f"t{os.getpid()}", "a", "c1")
    path.mkdir(parents=True)
    (path.parent / "cgroup.type").write_text("threaded")
    yield path
    for folder in (path, *path.parents[:2]):
        folder.rmdir()


@pytest.mark.rule("stats.cgroup.2")
@pytest.mark.root
@pytest.mark.unified
def test_controller_that_is_refused_does_not_cost_the_others(threaded: Path) -> None:
    """memory and io are refused here, and pids comes after them in the kernel's list."""
    parent = threaded.parent

    v2.enable_controllers("/sys/fs/cgroup", str(threaded).removeprefix("/sys/fs/cgroup"))

    assert (parent / "cgroup.subtree_control").read_text().split() == ["cpuset", "cpu", "pids"]
