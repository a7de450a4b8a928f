"""Pause, Resume and Update: their states, texts and events, with runc and with one that fails."""

import asyncio
import signal

import pytest
from google.protobuf import any_pb2
from google.protobuf.empty_pb2 import Empty

from protos import task_v2_pb2
from shimv2.shimctl import spec
from shimv2.shimctl.container import Container
from shimv2.shimctl.harness import Harness, Setup
from shimv2.shimctl.task import TaskClient
from shimv2.shimctl.testbed.until import eventually
from tests.support.cgroups import folder_of, unified
from tests.support.faults import Faults
from tests.support.harnessed import end_paused, in_harness, refused
from tests.support.host import words

pytestmark = [pytest.mark.root, pytest.mark.vm]

SLEEP = spec.Wanted(["sleep", "1000"])
TRUE = {"args": ["true"], "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}}


async def end(container: Container) -> None:
    await container.kill_and_wait()
    await container.remove()


async def update_with(container: Container, value: bytes | None) -> None:
    """Send an Update with any bytes, or without resources."""
    resources = None if value is None else any_pb2.Any(type_url="any.url/at/all", value=value)
    request = task_v2_pb2.UpdateTaskRequest(id=container.id, resources=resources)
    await container.task.call("Update", request, Empty)


@pytest.mark.rule("task.execs.7", "task.pause.5")
def test_paused_container_refuses_what_the_reference_refuses(setup: Setup) -> None:
    """All calls on a paused container, their texts, and the events."""

    async def scenario(harness: Harness) -> None:
        container = await harness.run("c1", *SLEEP.args)
        task = container.task
        await task.exec("c1", "e1", TRUE)
        await task.pause("c1")
        assert (await task.state("c1")).status == "PAUSED"
        assert (await task.state("c1", "e1")).status == "PAUSED"
        assert await refused(task.start("c1")) == (2, "cannot start a paused process")
        assert await refused(task.delete("c1")) == (2, "cannot delete a paused process")
        assert await refused(task.pause("c1")) == (2, "cannot pause a paused container")
        assert await refused(task.exec("c1", "e2", TRUE)) == (2, "cannot exec in a paused state")
        expected = words(
            runc="exec failed: cannot exec in a paused container (use --ignore-paused to override)",
            crun="the container `c1` is paused",
        )
        assert await refused(task.start("c1", "e1")) == (2, f"OCI runtime exec failed: {expected}")
        await task.update("c1", {})
        assert (await task.state("c1")).pid in await task.pids("c1")
        await task.resume("c1")
        assert (await task.state("c1")).status == "RUNNING"
        assert await refused(task.resume("c1")) == (2, "cannot resume a running process")
        await end(container)
        events = harness.sink.events_of("c1")
        assert [line for line in events if not line.startswith("exec")] == [
            "create c1",
            "start c1",
            "paused c1",
            "resumed c1",
            "exit c1",
            "delete c1",
        ]
        paused = await harness.sink.wait_for("/tasks/paused")
        assert paused.type_url == "containerd.events.TaskPaused"

    in_harness(setup, scenario)


@pytest.mark.rule("task.pause.1")
def test_paused_processes_are_frozen_by_the_kernel(setup: Setup) -> None:
    """And thawed again, as its cgroup shows."""

    def frozen(pid: int) -> bool:
        if unified():
            return "frozen 1" in (folder_of(pid, "") / "cgroup.events").read_text().splitlines()
        return (folder_of(pid, "freezer") / "freezer.state").read_text() == "FROZEN\n"

    async def scenario(harness: Harness) -> None:
        container = await harness.run("c1", *SLEEP.args)
        pid = (await container.task.state("c1")).pid
        seen = [frozen(pid)]
        await container.task.pause("c1")
        seen.append(frozen(pid))
        await container.task.resume("c1")
        seen.append(frozen(pid))
        assert seen == [False, True, False]
        await end(container)

    in_harness(setup, scenario)


def test_created_and_stopped_containers_are_neither_paused_nor_resumed(setup: Setup) -> None:
    """The rows `created` and `stopped` of the state table."""

    async def scenario(harness: Harness) -> None:
        container = await harness.create("c1", SLEEP)
        task = container.task
        assert await refused(task.pause("c1")) == (2, "cannot pause task in created state")
        assert await refused(task.resume("c1")) == (2, "cannot resume task in created state")
        await task.update("c1", {})
        await task.start("c1")
        await container.kill_and_wait()
        assert await refused(task.pause("c1")) == (2, "cannot pause a stopped container")
        assert await refused(task.resume("c1")) == (2, "cannot resume a stopped container")
        assert await refused(update_with(container, b"{bad")) == (
            2,
            "cannot update a stopped container",
        )
        gone = (5, "container not created: not found")
        assert await refused(task.pause("nosuch")) == gone
        assert await refused(task.resume("nosuch")) == gone
        assert await refused(task.update("nosuch", {})) == gone
        await container.remove()

    in_harness(setup, scenario)


@pytest.mark.rule("task.init.14")
@pytest.mark.runc("crun does not thaw a frozen container that it kills on cgroup v1")
def test_paused_container_that_is_killed_ends_without_being_resumed(setup: Setup) -> None:
    """SIGKILL ends it; its exit is published, and no Resumed event."""

    async def scenario(harness: Harness) -> None:
        container = await harness.run("c1", *SLEEP.args)
        await container.task.pause("c1")
        await container.task.kill("c1", signal.SIGKILL)
        ended = await container.task.wait("c1", timeout_s=10)
        removed = await container.remove()

        assert ended.status == 137
        assert removed.task is not None
        assert removed.task.status == 137
        assert harness.sink.events_of("c1") == [
            "create c1",
            "start c1",
            "paused c1",
            "exit c1",
            "delete c1",
        ]

    in_harness(setup, scenario)


@pytest.mark.rule("task.update.1", "task.update.2", "task.update.3")
def test_update_takes_any_url_and_checks_the_json(setup: Setup) -> None:
    """The resources are applied to the cgroup; JSON of another type is refused."""

    async def scenario(harness: Harness) -> None:
        container = await harness.run("c1", *SLEEP.args)
        await update_with(container, b'{"pids":{"limit":55}}')
        code, text = await refused(update_with(container, b"{bad"))
        assert (code, text.startswith("invalid ")) == (2, True)
        code, text = await refused(update_with(container, b'{"memory":{"limit":"x"}}'))
        assert (code, "cannot unmarshal string into Go struct field" in text) == (2, True)
        code, text = await refused(update_with(container, b'{"cpu":{"cpus":"999"}}'))
        assert code == 2
        why = words(runc="failed to write ", crun="writing file `cpuset.cpus`: ")
        assert text.startswith(f"runc did not terminate successfully: exit status 1: {why}")
        assert text.endswith("\n")
        assert (
            folder_of((await container.task.state("c1")).pid, "pids") / "pids.max"
        ).read_text() == "55\n"
        await end(container)

    in_harness(setup, scenario)


@pytest.mark.rule("task.update.4")
@pytest.mark.ours("the Go shim crashes")
def test_update_without_resources_is_an_error(setup: Setup) -> None:
    """Code 3, and the shim continues to run."""

    async def scenario(harness: Harness) -> None:
        container = await harness.run("c1", *SLEEP.args)
        code, _ = await refused(update_with(container, None))
        assert code == 3
        assert (await container.task.state("c1")).status == "RUNNING"
        await end(container)

    in_harness(setup, scenario)


@pytest.mark.rule("task.init.13")
@pytest.mark.ours("State of the Go shim waits for the verb")
def test_state_during_a_slow_pause_is_pausing(faulty: Setup, faults: Faults) -> None:
    """State answers at once; a second Pause and an exec are refused, Update waits."""

    async def scenario(harness: Harness) -> None:
        container = await harness.run("c1", *SLEEP.args)
        other = await TaskClient.connect(container.reply.path)
        faults.hold("pause.before")
        pause = asyncio.create_task(container.task.pause("c1"))
        await eventually(lambda: faults.held("pause.before"), "the runtime to be called")
        assert (await other.state("c1", timeout_s=1)).status == "PAUSING"
        assert await refused(other.exec("c1", "e1", TRUE)) == (2, "cannot exec in a paused state")
        update = asyncio.create_task(other.update("c1", {}))
        again = asyncio.create_task(refused(other.pause("c1")))
        await other.state("c1")
        assert not pause.done()
        faults.release()
        await pause
        await update
        assert await again == (2, "cannot pause a paused container")
        assert (await other.state("c1")).status == "PAUSED"
        await other.close()
        await end_paused(container)
        await container.remove()

    in_harness(faulty, scenario)


@pytest.mark.rule("task.pause.2")
def test_failed_pause_leaves_the_container_running(faulty: Setup, faults: Faults) -> None:
    """The runtime's error text, no event, and it can be repeated."""

    async def scenario(harness: Harness) -> None:
        container = await harness.run("c1", *SLEEP.args)
        faults.at("pause.before", "echo pausebad >&2; exit 1")
        expected = (
            f"OCI runtime pause failed: {faults.binary} did not terminate successfully: "
            "exit status 1: pausebad\n"
        )
        assert await refused(container.task.pause("c1")) == (2, expected)
        assert (await container.task.state("c1")).status == "RUNNING"
        await container.task.pause("c1")
        faults.at("resume.before", "exit 1")
        code, text = await refused(container.task.resume("c1"))
        assert (code, text.startswith("OCI runtime resume failed: ")) == (2, True)
        assert (await container.task.state("c1")).status == "PAUSED"
        await container.task.resume("c1")
        await end(container)
        assert harness.sink.events_of("c1")[2:4] == ["paused c1", "resumed c1"]

    in_harness(faulty, scenario)


@pytest.mark.rule("task.pause.3")
@pytest.mark.ours("Go shims leave it frozen and refuse to resume it")
def test_pause_that_is_killed_does_not_leave_the_container_frozen(
    faulty: Setup, faults: Faults
) -> None:
    """If the runtime is killed after it froze the container, the container runs, as State
    reports."""

    async def scenario(harness: Harness) -> None:
        container = await harness.run("c1", *SLEEP.args)
        faults.at("pause.after", "kill -9 $$")
        code, text = await refused(container.task.pause("c1"))
        assert (code, "exit status 137" in text) == (2, True)
        assert (await container.task.state("c1")).status == "RUNNING"
        await container.task.exec("c1", "e1", TRUE)
        await container.task.start("c1", "e1")  # refused by runc if it were frozen
        assert (await container.task.wait("c1", "e1", timeout_s=10)).status == 0
        await end(container)

    in_harness(faulty, scenario)


@pytest.mark.rule("task.init.15")
@pytest.mark.runc("crun does not thaw a frozen container that it kills on cgroup v1")
def test_exit_while_paused_is_published_after_the_runtime_resumed(
    faulty: Setup, faults: Faults
) -> None:
    """The exit is known at once; what is left is thawed before the exit is published."""

    async def scenario(harness: Harness) -> None:
        container = await harness.run("c1", *SLEEP.args)
        await container.task.pause("c1")
        faults.hold("resume.before")
        await container.task.kill("c1", signal.SIGKILL)
        ended = await container.task.wait("c1", timeout_s=10)
        await eventually(lambda: faults.held("resume.before"), "the runtime to be called")
        assert ended.status == 137
        assert harness.sink.events_of("c1")[-1] == "paused c1"
        faults.release()
        await container.remove()
        assert harness.sink.events_of("c1")[-2:] == ["exit c1", "delete c1"]

    in_harness(faulty, scenario)


@pytest.mark.rule("task.pause.4")
@pytest.mark.ours("verbs of Go shims end with their caller")
def test_pause_continues_without_its_client(faulty: Setup, faults: Faults) -> None:
    """A Pause whose client disconnects continues, and a repeated call waits for the same result."""

    async def scenario(harness: Harness) -> None:
        container = await harness.run("c1", *SLEEP.args)
        faults.hold("pause.before")
        client = await TaskClient.connect(container.reply.path)
        first = asyncio.create_task(client.pause("c1"))
        await eventually(lambda: faults.held("pause.before"), "the runtime to be called")
        await client.close()
        await asyncio.wait([first])
        assert first.exception() is not None
        for _ in range(
            2
        ):  # at the second answer the shim knows that the first client has disconnected
            await container.task.state("c1")
        again = asyncio.create_task(container.task.pause("c1"))
        await asyncio.sleep(0)
        faults.release()
        await again
        assert (await container.task.state("c1")).status == "PAUSED"
        await end_paused(container)
        await container.remove()
        assert harness.sink.events_of("c1").count("paused c1") == 1

    in_harness(faulty, scenario)
