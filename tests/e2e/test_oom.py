"""OOM kills of real containers: the event comes before the exit they cause."""

import asyncio
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from protos import cgroups_v1_pb2, cgroups_v2_pb2
from shimv2.shimctl import spec
from shimv2.shimctl.container import Container
from shimv2.shimctl.harness import Harness, Setup
from shimv2.shimctl.reply import runc_options
from shimv2.shimctl.testbed.runtimes import crun
from shimv2.shimctl.testbed.until import eventually
from tests.support.cgroups import unified
from tests.support.harnessed import in_harness
from tests.support.host import Host

pytestmark = [pytest.mark.root, pytest.mark.vm]

LIMIT = 32 << 20
HOG = ("tail", "/dev/zero")  # keeps a line without an end in memory: all of the file


def kills(stats: bytes) -> int:
    """Read from the message of Stats how many processes were killed."""
    if unified():
        return cgroups_v2_pb2.Metrics.FromString(stats).memory_events.oom_kill
    return cgroups_v1_pb2.Metrics.FromString(stats).memory_oom_control.oom_kill


def assert_one_oom_before_the_exit(events: Sequence[str]) -> None:
    """Check the order.  The OOM may be published before the start, because the kernel does not wait
    for it."""
    life = [line.split()[0] for line in events]
    assert life.count("oom") == 1, events
    assert life.index("oom") < life.index("exit"), events
    life.remove("oom")
    assert life == ["create", "start", "exit", "delete"], events


def limited(*args: str) -> spec.Wanted:
    return spec.Wanted(args, memory_limit_bytes=LIMIT)


async def add_exec(container: Container, exec_id: str, *args: str) -> None:
    process: Mapping[str, object] = spec.process(spec.Wanted(args))
    await container.task.exec(container.id, exec_id, process)


@pytest.mark.rule("events.topics.7", "events.order.3", "stats.oom.5")
@pytest.mark.timeout(600)
@pytest.mark.parametrize("count", [20, pytest.param(100, marks=pytest.mark.soak)])
def test_oom_of_an_init_is_published_before_its_exit_every_time(setup: Setup, count: int) -> None:
    """Many containers beyond their limits: status 137, and the OOM event before the exit.

    All are in one shim, because each has a watch of its own.
    """

    async def scenario(harness: Harness) -> None:
        leader = await harness.create("c", spec.Wanted(["true"]))
        for number in range(count):
            name = f"c{number}"
            bundle = harness.make_bundle(name, limited(*HOG))
            root = [harness.root_mount(bundle)]
            await leader.task.create(name, bundle.path, rootfs=root, options=harness.options)
            await leader.task.start(name)
            ended = await leader.task.wait(name, timeout_s=30)
            record = json.loads(Path(bundle.path, "exits", "init.json").read_text())
            counted = kills((await leader.task.stats(name)).value)
            await leader.task.delete(name)
            bundle.remove()
            assert record["oom"] is True
            assert ended.status == 137
            assert counted >= 1  # Kubernetes asks after the exit
            await harness.sink.wait_for("/tasks/delete", process_id=name)
            assert_one_oom_before_the_exit(harness.sink.events_of(name))
        event = await harness.sink.wait_for("/tasks/oom")
        assert event.type_url == "containerd.events.TaskOOM"
        await leader.remove()

    in_harness(setup, scenario, limit_s=590)


@pytest.mark.rule("stats.oom.1")
def test_oom_kill_of_an_exec_is_published_and_the_container_continues(setup: Setup) -> None:
    """OOM before the exec's exit; the init continues."""

    async def scenario(harness: Harness) -> None:
        container = await harness.run("c1", wanted=limited("sleep", "1000"))
        for exec_id in ("e1", "e2"):
            await add_exec(container, exec_id, *HOG)
            await container.task.start("c1", exec_id)
            assert (await container.task.wait("c1", exec_id, timeout_s=30)).status == 137
            await harness.sink.wait_for("/tasks/exit", process_id=exec_id)
            await container.task.delete("c1", exec_id)
        assert (await container.task.state("c1")).status == "RUNNING"
        await container.kill_and_wait()
        await container.remove()
        events = harness.sink.events_of("c1")
        assert [line for line in events if line.split()[0] in {"oom", "exit"}] == [
            "oom c1",
            "exit e1",
            "oom c1",
            "exit e2",
            "exit c1",
        ]

    in_harness(setup, scenario)


@pytest.mark.rule("stats.oom.2")
def test_oom_kill_of_a_process_without_an_exit_event_is_published(setup: Setup) -> None:
    """No exit event follows, so the signal of the kernel alone must cause the event."""

    async def scenario(harness: Harness) -> None:
        script = "read LINE; tail /dev/zero; echo survived; sleep 1000"
        wanted = limited("sh", "-c", script)
        container = await harness.create("c1", wanted, stdin=True)
        await container.task.start("c1")
        fd = os.open(container.bundle.fifo("stdin"), os.O_WRONLY | os.O_NONBLOCK)
        os.write(fd, b"go\n")
        os.close(fd)
        await harness.sink.wait_for("/tasks/oom", timeout_s=30)
        assert (await container.task.state("c1")).status == "RUNNING"
        await container.kill_and_wait()
        await container.remove()
        assert harness.sink.events_of("c1").count("oom c1") == 1

    in_harness(setup, scenario)


@pytest.mark.rule("stats.oom.3")
@pytest.mark.parametrize("ended", [True, False], ids=["stopped", "created"])
def test_removal_of_a_cgroup_is_no_oom(setup: Setup, ended: bool) -> None:
    """The kernel signals the end of a v1 cgroup like an OOM."""

    async def scenario(harness: Harness) -> None:
        container = await harness.create("c1", limited("true"))
        if ended:
            await container.task.start("c1")
            await container.task.wait("c1", timeout_s=10)
        before = descriptors((await container.task.connected("c1")).shim_pid)
        await container.task.delete("c1")
        shim = (await container.task.connected("c1")).shim_pid
        assert before
        watches = ("eventfd", "memory.events")  # v1's, v2's
        assert not [fd for fd in descriptors(shim) if any(kind in fd for kind in watches)]
        await container.remove()
        await harness.sink.wait_for("/tasks/delete")
        assert "oom c1" not in harness.sink.events_of("c1")

    in_harness(setup, scenario)


@pytest.mark.rule("events.topics.7", "stats.oom.4")
def test_page_cache_at_the_limit_is_no_oom(setup: Setup) -> None:
    """The limit is reached, memory is reclaimed, no process is killed."""

    async def scenario(harness: Harness) -> None:
        # In /var/tmp, which is on a disk: the pages of a tmpfs cannot be reclaimed.
        with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
            await fill_cache(harness, folder)

    async def fill_cache(harness: Harness, folder: str) -> None:
        # Written back in small parts: the kernel may kill a process if too many pages are not on
        # the disk yet (seen once with cgroup v1, on a busy disk).
        step = "dd if=/dev/zero of=/data/$n bs=1M count=4 conv=fsync 2>/dev/null || exit 1"
        script = f"for n in $(seq 16); do {step}; done"
        wanted = replace(limited("sh", "-c", script), binds=[(folder, "/data")])
        container = await harness.run("c1", wanted=wanted)
        ended = await container.task.wait("c1", timeout_s=60)
        await container.remove()
        assert ended.status == 0
        assert "oom c1" not in harness.sink.events_of("c1")

    in_harness(setup, scenario)


@pytest.mark.rule("events.order.3")
def test_ooms_in_parallel_are_each_published_before_their_exit(setup: Setup) -> None:
    """Containers of one pod share a shim, but have separate counters."""
    group = {"io.containerd.runc.v2.group": "pod"}

    async def scenario(harness: Harness) -> None:
        names = [f"c{number}" for number in range(4)]
        containers = []
        for name in names:
            wanted = spec.Wanted(HOG, memory_limit_bytes=LIMIT, annotations=group)
            containers.append(await harness.create(name, wanted))
        await asyncio.gather(*(each.task.start(each.id) for each in containers))
        for each in containers:
            assert (await each.task.wait(each.id, timeout_s=30)).status == 137
        for each in reversed(containers):
            await each.remove()
        for name in names:
            assert_one_oom_before_the_exit(harness.sink.events_of(name))

    in_harness(setup, scenario)


def test_oom_under_crun_is_published_too(setup: Setup, host: Host) -> None:
    """The counter is the kernel's, whichever runtime made the cgroup."""

    async def scenario(harness: Harness) -> None:
        container = await harness.start_shim("c1", limited(*HOG))
        root = [harness.root_mount(container.bundle)]
        await container.create(rootfs=root, options=runc_options(binary_name=crun(host.folder)))
        await container.task.start("c1")
        assert (await container.task.wait("c1", timeout_s=30)).status == 137
        await container.remove()
        await eventually(lambda: "delete c1" in harness.sink.events_of("c1"), "the last event")
        assert_one_oom_before_the_exit(harness.sink.events_of("c1"))

    in_harness(setup, scenario)


def descriptors(pid: int) -> list[str]:
    return [os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()]
