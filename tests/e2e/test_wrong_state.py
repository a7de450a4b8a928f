"""Every method in every state of both state tables, through the socket, with exact texts."""

import os
import signal
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final

import pytest

from shimv2.shimctl import spec
from shimv2.shimctl.container import Container
from shimv2.shimctl.harness import Harness, Setup
from shimv2.shimctl.task import TaskClient
from tests.support.harnessed import add_exec, end_paused, in_harness, refused

pytestmark = pytest.mark.root

SLEEP: Final = spec.Wanted(["sleep", "1000"])
TRUE: Final = spec.process(spec.Wanted(["true"]))
UNKNOWN: Final = (5, "container not created: not found")
ENDED: Final = (5, "process already finished: not found")

Calls = Mapping[str, Callable[[], Awaitable[object]]]
Refusal = str | tuple[int, str]  # a text has code 2


def calls_of_init(task: TaskClient, id_: str = "c1") -> Calls:
    """Return the calls for a container: the methods of the table, then the others."""
    return {
        "start": lambda: task.start(id_),
        "pause": lambda: task.pause(id_),
        "resume": lambda: task.resume(id_),
        "update": lambda: task.update(id_, {}),
        "exec": lambda: task.exec(id_, "refused", TRUE),
        "kill": lambda: task.kill(id_, 0),
        "state": lambda: task.state(id_),
        "pids": lambda: task.pids(id_),
        "stats": lambda: task.stats(id_),
        "resize": lambda: task.resize_pty(id_, width=80, height=24),
        "close_io": lambda: task.close_io(id_),
        "delete": lambda: task.delete(id_),
    }


def calls_of_exec(task: TaskClient, exec_id: str) -> Calls:
    return {
        "start": lambda: task.start("c1", exec_id),
        "delete": lambda: task.delete("c1", exec_id),
        "resize": lambda: task.resize_pty("c1", exec_id, width=80, height=24),
        "kill": lambda: task.kill("c1", 0, exec_id),
        "state": lambda: task.state("c1", exec_id),
        "close_io": lambda: task.close_io("c1", exec_id),
    }


async def check(calls: Calls, refusals: Mapping[str, Refusal], *left_out: str) -> None:
    """Check that the calls in `refusals` are refused with these errors, and all others succeed."""
    for name, call in calls.items():
        if name in left_out:
            continue
        if name in refusals:
            expected = refusals[name]
            assert (name, await refused(call())) == (
                name,
                (2, expected) if isinstance(expected, str) else expected,
            )
        else:
            await call()


@pytest.mark.rule(
    "task.init.1", "task.init.2", "task.init.3", "task.pids.2", "task.kill.5", "task.resize.2"
)
def test_created_container_is_started_updated_or_deleted(setup: Setup) -> None:
    """The row `created`, without the calls that change the state."""

    async def scenario(harness: Harness) -> None:
        container = await harness.create("c1", SLEEP)
        task = container.task
        refusals = {
            "pause": "cannot pause task in created state",
            "resume": "cannot resume task in created state",
        }
        await check(calls_of_init(task), refusals, "start", "delete")
        state = await task.state("c1")
        assert (state.status, state.pid > 0, state.exit) == ("CREATED", True, None)
        assert await task.pids("c1") == [state.pid]
        assert (await task.state("c1", "refused")).status == "CREATED"
        assert (await task.connected("c1")).task_pid == state.pid
        pid = await task.start("c1", "refused")  # while the init is not started
        assert pid not in (0, state.pid)
        assert (await task.wait("c1", "refused", timeout_s=10)).status == 0
        assert (await container.kill_and_wait()).status == 137
        assert await refused(task.start("c1")) == (2, "cannot start a stopped process")
        await container.remove()

    in_harness(setup, scenario)


@pytest.mark.rule("task.init.3", "task.init.4", "task.init.5", "task.shutdown.1")
def test_running_container_is_neither_started_nor_deleted_nor_resumed(setup: Setup) -> None:
    """The row `running`; refused calls change nothing."""

    async def scenario(harness: Harness) -> None:
        container = await harness.run("c1", *SLEEP.args)
        task = container.task
        refusals = {
            "start": "cannot start a running process",
            "resume": "cannot resume a running process",
            "delete": "cannot delete a running process",
        }
        await check(calls_of_init(task), refusals, "pause")
        await task.shutdown("c1")
        assert os.path.exists(container.reply.path)  # it would be removed before the reply
        assert (await task.state("c1")).status == "RUNNING"
        await container.kill_and_wait()
        await container.remove()
        assert [line for line in harness.sink.events_of("c1") if not line.startswith("exec")] == [
            "create c1",
            "start c1",
            "exit c1",
            "delete c1",
        ]

    in_harness(setup, scenario)


@pytest.mark.rule("task.init.6", "task.init.7", "task.resize.2")
def test_paused_container_can_only_be_read_updated_or_resumed(setup: Setup) -> None:
    """The row `paused`."""

    async def scenario(harness: Harness) -> None:
        container = await harness.run("c1", *SLEEP.args)
        task = container.task
        await task.pause("c1")
        refusals = {
            "start": "cannot start a paused process",
            "pause": "cannot pause a paused container",
            "exec": "cannot exec in a paused state",
            "delete": "cannot delete a paused process",
        }
        # A signal would be delivered, and crun cannot signal a frozen container.
        await check(calls_of_init(task), refusals, "resume", "kill")
        assert (await task.state("c1")).status == "PAUSED"
        assert await refused(task.state("c1", "refused")) == (
            5,
            "process does not exist refused: not found",
        )
        await end_paused(container)
        await container.remove()

    in_harness(setup, scenario)


@pytest.mark.rule("task.init.8", "task.init.9", "task.wait.2", "task.kill.3", "task.resize.2")
def test_stopped_container_can_only_be_read_or_deleted(setup: Setup) -> None:
    """The row `stopped`; Wait, State and Stats still reply."""

    async def scenario(harness: Harness) -> None:
        container = await harness.run("c1", "sh", "-c", "exit 3")
        task = container.task
        ended = await task.wait("c1")
        refusals: dict[str, Refusal] = {
            "start": "cannot start a stopped process",
            "pause": "cannot pause a stopped container",
            "resume": "cannot resume a stopped container",
            "update": "cannot update a stopped container",
            "exec": "cannot exec in a stopped state",
            "kill": ENDED,
        }
        await check(calls_of_init(task), refusals, "delete")
        assert await refused(task.kill("c1", signal.SIGKILL)) == ENDED
        state = await task.state("c1")
        assert state.status == "STOPPED"
        assert state.exit is not None
        assert (state.exit.status, state.exit.at_ns) == (3, ended.at_ns)
        assert await task.wait("c1", timeout_s=5) == ended
        await task.shutdown("c1")
        removed = await container.remove()
        assert removed.task is not None
        assert (removed.task.status, removed.task.pid) == (3, state.pid)

    in_harness(setup, scenario)


@pytest.mark.ours("the list of Go shims is empty")
@pytest.mark.rule("task.pids.3")
def test_stopped_container_does_not_look_leaked(setup: Setup) -> None:
    """Its init is listed until Delete, because daemons kill a shim with an empty list."""

    async def scenario(harness: Harness) -> None:
        container = await harness.run("c1", "true")
        await container.task.wait("c1")
        assert await container.task.pids("c1") == [(await container.task.state("c1")).pid]
        await container.remove()

    in_harness(setup, scenario)


@pytest.mark.rule("task.kill.4")
def test_kill_of_all_in_a_stopped_container_is_no_error(setup: Setup) -> None:
    """Processes that outlive an init can still be killed; it is no error if there are none."""

    async def scenario(harness: Harness) -> None:
        container = await harness.run("c1", "true")
        await container.task.wait("c1")
        await container.task.kill("c1", signal.SIGKILL, everything=True)
        await container.remove()

    in_harness(setup, scenario)


@pytest.mark.parametrize(
    "version", [2, pytest.param(3, marks=pytest.mark.ours("each Go shim serves one"))]
)
@pytest.mark.rule("task.errors.1", "task.init.10", "task.connect.2", "task.service.1")
def test_missing_container_is_not_found_by_any_method(setup: Setup, version: int) -> None:
    """Never created, of another shim, or deleted: the same error, in both services."""

    async def scenario(harness: Harness) -> None:
        container = await harness.start_shim("c1", SLEEP)
        task = await TaskClient.connect(container.reply.path, version=version)

        async def ask(id_: str) -> None:
            calls = {**calls_of_init(task, id_), "wait": lambda: task.wait(id_)}
            await check(calls, dict.fromkeys(calls, UNKNOWN))
            for exec_id in ("e1", ""):
                assert await refused(task.state(id_, exec_id)) == UNKNOWN
            assert (await task.connected(id_)).task_pid == 0

        for id_ in ("c1", "c2", ""):
            await ask(id_)
        await container.create(rootfs=[harness.root_mount(container.bundle)])
        await ask("c2")
        await container.task.start("c1")
        await container.kill_and_wait()
        # Client libraries call Delete once; a second Delete gets the same reply.
        await task.delete("c1")
        for name, call in calls_of_init(task).items():
            if name != "delete":
                assert (name, await refused(call())) == (name, UNKNOWN)
        await task.close()
        await container.remove()

    in_harness(setup, scenario)


# --- execs --------------------------------------------------------------------------------------


@pytest.mark.rule(
    "task.exec.4",
    "task.execs.1",
    "task.execs.2",
    "task.execs.3",
    "task.execs.4",
    "task.execs.5",
    "task.execs.6",
    "task.state.2",
    "task.kill.7",
    "task.delete.8",
    "task.delete.9",
    "task.start.6",
    "cli.files.4",
)
def test_exec_refuses_what_its_state_does_not_allow(setup: Setup) -> None:
    """Each row of the table of execs in turn, on one exec."""

    async def scenario(harness: Harness) -> None:
        container = await harness.run("c1", *SLEEP.args)
        task = container.task
        calls = calls_of_exec(task, "e1")
        pid_file = Path(container.bundle.path, "e1.pid")

        await add_exec(container, "e1", "sleep", "1000")
        not_yet = (9, "process not created: failed precondition")
        await check(calls, {"kill": not_yet}, "start", "delete")
        created = await task.state("c1", "e1")
        assert (created.id, created.status, created.pid) == ("e1", "CREATED", 0)
        assert await refused(add_exec(container, "e1", "true")) == (6, "id e1: already exists")

        pid = await task.start("c1", "e1")
        running = {
            "start": "cannot start a running process",
            "delete": "cannot delete a running process",
        }
        await check(calls, running)
        state = await task.state("c1", "e1")
        assert (state.status, state.pid) == ("RUNNING", pid)
        assert pid_file.read_text() == str(pid)

        await task.kill("c1", signal.SIGKILL, "e1")
        ended = await task.wait("c1", "e1", timeout_s=10)
        stopped: dict[str, Refusal] = {
            "start": "cannot start a stopped process",
            "resize": "cannot resize a stopped container",
            "kill": ENDED,
        }
        await check(calls, stopped, "delete")
        assert ended.status == 137
        assert await refused(add_exec(container, "e1", "true")) == (6, "id e1: already exists")
        deleted = await task.delete("c1", "e1")
        assert (deleted.pid, deleted.status, deleted.at_ns) == (pid, 137, ended.at_ns)
        assert not pid_file.exists()

        gone = (5, "process does not exist e1: not found")
        await check(calls, dict.fromkeys(calls, gone), "close_io")
        assert await refused(task.wait("c1", "e1")) == gone
        await add_exec(container, "e1", "sh", "-c", "exit 7")  # the id is free again
        await task.start("c1", "e1")
        assert (await task.wait("c1", "e1", timeout_s=10)).status == 7
        await end_with_events(harness, container)

    in_harness(setup, scenario)


async def end_with_events(harness: Harness, container: Container) -> None:
    """End it; check that both processes named e1 have one exit event, and that no exec has a delete
    event."""
    await container.kill_and_wait()
    await container.remove()
    one = ["exec-added e1", "exec-started e1", "exit e1"]
    last = ["exit c1", "delete c1"]
    assert harness.sink.events_of("c1") == ["create c1", "start c1", *one, *one, *last]


@pytest.mark.ours("the shim of containerd 1.6 runs the runtime")
@pytest.mark.rule("task.start.4")
def test_exec_of_an_ended_container_is_not_started(setup: Setup) -> None:
    """The exec was recorded before the init exited."""

    async def scenario(harness: Harness) -> None:
        container = await harness.run("c1", *SLEEP.args)
        task = container.task
        await add_exec(container, "e1", "true")
        await container.kill_and_wait()
        assert await refused(task.start("c1", "e1")) == (
            9,
            "container c1 init process is not running: failed precondition",
        )
        assert (await task.state("c1", "e1")).status == "CREATED"
        never = await task.delete("c1", "e1")
        assert (never.pid, never.status) == (0, 0)
        await container.remove()
        events = harness.sink.events_of("c1")
        assert events == ["create c1", "start c1", "exec-added e1", "exit c1", "delete c1"]

    in_harness(setup, scenario)
