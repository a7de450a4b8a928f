"""The fields of events, and the order of many events."""

import asyncio

import pytest

from protos import events_pb2, types_pb2
from shimv2.shimctl import spec
from shimv2.shimctl.bundle import Bundle
from shimv2.shimctl.harness import Harness, Setup
from shimv2.values.model import Mount
from tests.support.harnessed import add_exec, in_harness

pytestmark = pytest.mark.root

SLEEP = spec.Wanted(["sleep", "1000"])
ZERO_TIME_S = -62_135_596_800  # Go's: the year 1
POD = {"io.containerd.runc.v2.group": "pod"}


def created(bundle: Bundle, mount: Mount, pid: int) -> events_pb2.TaskCreate:
    """Return the event of a Create with one mount and two streams."""
    root = types_pb2.Mount(type=mount.type, source=mount.source, options=mount.options)
    io = events_pb2.TaskIO(stdout=bundle.fifo("stdout"), stderr=bundle.fifo("stderr"))
    return events_pb2.TaskCreate(
        container_id="c1", bundle=bundle.path, rootfs=[root], io=io, pid=pid
    )


@pytest.mark.rule(
    "events.transport.10",
    "events.topics.1",
    "events.topics.2",
    "events.topics.3",
    "events.topics.4",
    "events.topics.5",
    "events.topics.6",
    "events.order.1",
    "events.order.2",
    "task.exits.8",
    "task.pause.1",
)
def test_events_have_all_their_fields(setup: Setup) -> None:
    """All events of a container and an exec, field by field."""

    async def scenario(harness: Harness) -> None:
        container = await harness.create("c1", SLEEP)
        bundle, task = container.bundle, container.task
        pid = await task.start("c1")
        await add_exec(container, "e1", "sh", "-c", "exit 7")
        exec_pid = await task.start("c1", "e1")
        exec_ended = await task.wait("c1", "e1")
        await task.pause("c1")
        await task.resume("c1")
        ended = await container.kill_and_wait()
        await task.delete("c1", "e1")
        await container.remove()
        await harness.sink.wait_for("/tasks/delete")

        exit_, gone = events_pb2.TaskExit(), events_pb2.TaskDelete()
        exit_.exited_at.FromNanoseconds(ended.at_ns)
        gone.exited_at.FromNanoseconds(ended.at_ns)
        exec_exit = events_pb2.TaskExit(container_id="c1", id="e1", pid=exec_pid, exit_status=7)
        exec_exit.exited_at.FromNanoseconds(exec_ended.at_ns)
        exit_.MergeFrom(events_pb2.TaskExit(container_id="c1", id="c1", pid=pid, exit_status=137))
        gone.MergeFrom(events_pb2.TaskDelete(container_id="c1", pid=pid, exit_status=137))
        expected = [
            ("/tasks/create", created(bundle, harness.root_mount(bundle), pid)),
            ("/tasks/start", events_pb2.TaskStart(container_id="c1", pid=pid)),
            ("/tasks/exec-added", events_pb2.TaskExecAdded(container_id="c1", exec_id="e1")),
            (
                "/tasks/exec-started",
                events_pb2.TaskExecStarted(container_id="c1", exec_id="e1", pid=exec_pid),
            ),
            ("/tasks/exit", exec_exit),
            ("/tasks/paused", events_pb2.TaskPaused(container_id="c1")),
            ("/tasks/resumed", events_pb2.TaskResumed(container_id="c1")),
            ("/tasks/exit", exit_),
            ("/tasks/delete", gone),
        ]
        events = harness.sink.events
        assert [(event.topic, event.message) for event in events] == expected
        assert {event.namespace for event in events} == {setup.namespace}
        times = [event.at_ns for event in events]
        assert times == sorted(times)
        assert times[-2] >= ended.at_ns

    in_harness(setup, scenario)


@pytest.mark.rule("events.order.6", "task.exits.3", "task.exits.5")
def test_every_start_of_many_short_processes_is_published_before_its_exit(setup: Setup) -> None:
    """40 processes that end at once, eight at a time."""
    names = [f"e{number}" for number in range(40)]

    async def scenario(harness: Harness) -> None:
        container = await harness.run("c1", *SLEEP.args)

        async def run_one(name: str) -> None:
            async with at_a_time:
                await add_exec(container, name, "true")
                await container.task.start("c1", name)
                await container.task.wait("c1", name, timeout_s=20)
                await container.task.delete("c1", name)

        at_a_time = asyncio.Semaphore(8)
        await asyncio.gather(*map(run_one, names))
        await container.kill_and_wait()
        await container.remove()
        await harness.sink.wait_for("/tasks/delete")
        events = harness.sink.events_of("c1")
        for name in names:
            mine = [line.split()[0] for line in events if line.endswith(f" {name}")]
            assert mine == ["exec-added", "exec-started", "exit"]
        assert events[-2:] == ["exit c1", "delete c1"]

    in_harness(setup, scenario)
