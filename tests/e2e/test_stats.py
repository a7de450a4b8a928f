"""Stats of real containers, against the files the kernel shows."""

from pathlib import Path

import pytest

from protos import cgroups_v1_pb2, cgroups_v2_pb2
from shimv2.shimctl import spec
from shimv2.shimctl.harness import Harness, Setup
from shimv2.shimctl.task import TaskClient
from tests.support.cgroups import folder_of, unified
from tests.support.harnessed import end_paused, in_harness, refused

pytestmark = [pytest.mark.root, pytest.mark.vm]

LIMIT = 64 << 20
SLEEP = spec.Wanted(["sleep", "1000"], memory_limit_bytes=LIMIT)

USAGE = "memory.current" if unified() else "memory.usage_in_bytes"
KERNEL_USAGE = "memory.kmem.usage_in_bytes"  # v1 only

Metrics = cgroups_v1_pb2.Metrics | cgroups_v2_pb2.Metrics


async def stats(task: TaskClient, container_id: str) -> Metrics:
    packed = await task.stats(container_id)
    version = 2 if unified() else 1
    assert packed.type_url == f"io.containerd.cgroups.v{version}.Metrics"
    kind = cgroups_v2_pb2.Metrics if unified() else cgroups_v1_pb2.Metrics
    return kind.FromString(packed.value)


def number(folder: Path, name: str) -> int:
    return int((folder / name).read_text())


def keys(folder: Path, name: str) -> dict[str, int]:
    lines = (line.split() for line in (folder / name).read_text().splitlines())
    return {key: int(value) for key, value in lines}


@pytest.mark.rule("task.stats.1", "stats.answer.1")
def test_stats_equal_the_files_of_the_container(setup: Setup) -> None:
    """Limits, processes, memory and CPU time of an idle container, exactly."""

    async def scenario(harness: Harness) -> None:
        container = await harness.run("c1", wanted=SLEEP)
        pid = (await container.task.state("c1")).pid
        await container.task.pause("c1")  # nothing changes any more
        memory = folder_of(pid, "memory")
        before = keys(memory, "memory.stat")
        used = number(memory, USAGE)
        kernel = 0 if unified() else number(memory, KERNEL_USAGE)
        found = await stats(container.task, "c1")
        if isinstance(found, cgroups_v2_pb2.Metrics):
            assert found.memory.usage_limit == LIMIT
            assert used >= found.memory.usage >= number(memory, USAGE)
            assert found.memory.pgfault == before["pgfault"]
            assert found.cpu.usage_usec == keys(memory, "cpu.stat")["usage_usec"]
        else:
            assert found.memory.usage.limit == number(memory, "memory.limit_in_bytes") == LIMIT
            # The kernel still returns memory that it charged in advance: the value is between the
            # two reads.
            assert used >= found.memory.usage.usage >= number(memory, USAGE)
            assert kernel >= found.memory.kernel.usage >= number(memory, KERNEL_USAGE)
            assert found.memory.usage.max == number(memory, "memory.max_usage_in_bytes")
            assert found.memory.total_rss == before["total_rss"] > 0
            assert found.memory.pg_fault == before["pgfault"] > 0
            assert found.memory_oom_control.oom_kill == 0
            cpu = folder_of(pid, "cpuacct")
            assert found.cpu.usage.total == number(cpu, "cpuacct.usage") > 0
            assert sum(found.cpu.usage.per_cpu) == found.cpu.usage.total
        assert found.pids.current == 1
        await container.task.resume("c1")
        await container.kill_and_wait()
        await container.remove()

    in_harness(setup, scenario)


@pytest.mark.rule("task.stats.2")
def test_stats_are_answered_in_every_state(setup: Setup) -> None:
    """Created, running, paused, and stopped until Delete: CRI reads why a container exited."""

    async def scenario(harness: Harness) -> None:
        container = await harness.create("c1", SLEEP)
        task = container.task
        assert (await stats(task, "c1")).pids.current >= 1
        await task.start("c1")
        assert (await stats(task, "c1")).pids.current == 1
        await task.pause("c1")
        assert (await stats(task, "c1")).pids.current == 1
        await end_paused(container)
        ended = await stats(task, "c1")
        assert ended.pids.current == 0
        used = ended.memory.usage
        assert (used.max if isinstance(used, cgroups_v1_pb2.MemoryEntry) else used) > 0
        await task.delete("c1")
        assert await refused(task.stats("c1")) == (5, "container not created: not found")
        await container.remove()

    in_harness(setup, scenario)


@pytest.mark.rule("task.update.1")
def test_update_shows_in_stats_and_in_the_files(setup: Setup) -> None:
    """Stats and the kernel have the values that Update sets."""

    async def scenario(harness: Harness) -> None:
        container = await harness.run("c1", wanted=SLEEP)
        pid = (await container.task.state("c1")).pid
        resources = {
            "pids": {"limit": 55},
            "memory": {"limit": LIMIT // 2},
            "cpu": {"quota": 50_000, "period": 200_000},
        }
        await container.task.update("c1", resources)
        found = await stats(container.task, "c1")
        assert found.pids.limit == 55
        assert (folder_of(pid, "pids") / "pids.max").read_text() == "55\n"
        if isinstance(found, cgroups_v2_pb2.Metrics):
            assert found.memory.usage_limit == LIMIT // 2
            assert number(folder_of(pid, "memory"), "memory.max") == LIMIT // 2
            assert (folder_of(pid, "cpu") / "cpu.max").read_text() == "50000 200000\n"
        else:
            assert found.memory.usage.limit == LIMIT // 2
            assert number(folder_of(pid, "memory"), "memory.limit_in_bytes") == LIMIT // 2
            assert number(folder_of(pid, "cpu"), "cpu.cfs_quota_us") == 50_000
        await container.kill_and_wait()
        await container.remove()

    in_harness(setup, scenario)
