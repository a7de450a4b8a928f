"""Order of events, and answers while the runtime is stuck."""

import asyncio
import contextlib
import signal
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import pytest

from shimv2.shimctl import spec
from shimv2.shimctl.container import Container
from shimv2.shimctl.harness import Harness, Setup
from shimv2.shimctl.testbed.leaks import alive
from shimv2.shimctl.testbed.until import eventually
from tests.support.faults import Faults
from tests.support.harnessed import add_exec, in_harness, refused, second_client

pytestmark = [pytest.mark.root, pytest.mark.ours("Go shims block or lose order")]

SLEEP = spec.Wanted(["sleep", "1000"])


@pytest.mark.rule("task.exits.3")
def test_exit_of_an_exec_before_the_runtime_returns_is_published_after_started(
    faulty: Setup, faults: Faults
) -> None:
    """Start before exit, however fast the process dies."""

    async def scenario(harness: Harness) -> None:
        container = await harness.run("c1", *SLEEP.args)
        await add_exec(container, "e1", "true")
        faults.at("exec.after", "while [ -e /proc/$PID/fd/0 ]; do sleep 0.01; done")
        pid = await container.task.start("c1", "e1")
        ended = await container.task.wait("c1", "e1")
        await container.task.delete("c1", "e1")
        await container.kill_and_wait()
        await container.remove()

        assert (ended.status, pid > 0) == (0, True)
        assert harness.sink.events_of("c1") == [
            "create c1",
            "start c1",
            "exec-added e1",
            "exec-started e1",
            "exit e1",
            "exit c1",
            "delete c1",
        ]

    in_harness(faulty, scenario)


@pytest.mark.rule("task.create.16")
def test_init_that_dies_during_create_is_created_and_ended(faulty: Setup, faults: Faults) -> None:
    """The init may be gone before `runc create` returns: one exit, no deadlock."""

    async def scenario(harness: Harness) -> None:
        faults.at("create.after", "kill -9 $PID")
        container = await harness.create("c1", SLEEP)
        ended = await container.task.wait("c1", timeout_s=5)
        code, text = await refused(container.task.start("c1"))
        removed = await container.remove()

        assert ended.status == 137
        assert (code, text) == (2, "cannot start a stopped process")
        assert removed.task is not None
        assert removed.task.status == 137
        assert harness.sink.events_of("c1") == ["create c1", "exit c1", "delete c1"]

    in_harness(faulty, scenario)


@pytest.mark.rule("task.exits.9")
def test_exit_during_start_is_known_at_once_and_published_after_started(
    faulty: Setup, faults: Faults
) -> None:
    """State and Wait report a recorded exit while Start still hangs in the runtime."""

    async def scenario(harness: Harness) -> None:
        container = await harness.create("c1", spec.Wanted(["sh", "-c", "exit 4"]))
        faults.hold("start.after")
        start = asyncio.create_task(container.task.start("c1"))
        other = await second_client(container)
        ended = await other.wait("c1", timeout_s=10)
        stated = await other.state("c1", timeout_s=1)
        assert not start.done()
        faults.release()
        await start
        await other.close()
        await container.remove()

        assert ended.status == 4
        assert (stated.status, stated.exit is not None) == ("STOPPED", True)
        assert harness.sink.events_of("c1") == ["create c1", "start c1", "exit c1", "delete c1"]

    in_harness(faulty, scenario)


@pytest.mark.rule("task.state.4")
@pytest.mark.parametrize("verb", ["create", "start", "delete"])
def test_reads_and_a_sibling_do_not_wait_for_a_stuck_verb(
    faulty: Setup, faults: Faults, verb: str
) -> None:
    """State, Connect and Pids answer from memory; no verb blocks another container."""
    group = {"io.containerd.runc.v2.group": "pod"}

    async def scenario(harness: Harness) -> None:
        first = await harness.run("c1", wanted=replace(SLEEP, annotations=group))
        second = await harness.start_shim("c2", replace(SLEEP, annotations=group))
        root = [harness.root_mount(second.bundle)]
        if verb != "create":
            await second.create(rootfs=root, options=harness.options)
        if verb == "delete":
            await second.kill_and_wait()
        faults.hold(f"{verb}.before")
        calls: dict[str, Callable[[], Coroutine[Any, Any, object]]] = {
            "create": lambda: second.create(rootfs=root, options=harness.options),
            "start": lambda: second.task.start("c2"),
            "delete": lambda: second.task.delete("c2"),
        }
        stuck = asyncio.create_task(calls[verb]())
        await eventually(lambda: faults.held(f"{verb}.before"), "the runtime to be called")
        state = await first.task.state("c1", timeout_s=1)
        assert (await first.task.connected("c1", timeout_s=1)).task_pid == state.pid
        assert state.pid in await first.task.pids("c1")
        if verb != "create":
            await first.task.state("c2", timeout_s=1)
        await first.kill_and_wait()
        assert not stuck.done()
        faults.release()
        await stuck
        with contextlib.suppress(Exception):
            await second.task.kill("c2", signal.SIGKILL)
            await second.task.wait("c2")
        await second.remove()
        await first.remove()

    in_harness(faulty, scenario)


@pytest.mark.rule("task.exits.4", "task.exits.5")
def test_every_execs_exit_is_published_before_that_of_the_killed_init(setup: Setup) -> None:
    """Each started exec has one exit, before the init's."""

    async def one(container: Container, exec_id: str) -> bool:
        await add_exec(container, exec_id, "sleep", "1000")
        try:
            await container.task.start("c1", exec_id)
        except Exception:  # noqa: BLE001 - refused or failed: what matters is what is published
            return False
        return True

    async def scenario(harness: Harness) -> None:
        container = await harness.run("c1", *SLEEP.args)
        names = [f"e{number}" for number in range(24)]
        execs = [asyncio.create_task(one(container, name)) for name in names]
        await harness.sink.wait_for("/tasks/exec-started")
        await container.kill_and_wait()
        started = {name for name, ok in zip(names, await asyncio.gather(*execs), strict=True) if ok}
        assert started
        await container.remove()
        events = harness.sink.events_of("c1")
        assert {line.split()[1] for line in events if line.startswith("exec-started")} == started
        assert sorted(line for line in events if line.startswith("exit e")) == sorted(
            f"exit {name}" for name in started
        )
        assert events[-2:] == ["exit c1", "delete c1"]

    in_harness(setup, scenario)


@pytest.mark.rule("task.exits.6")
@pytest.mark.vm
def test_what_outlives_an_init_without_a_pid_namespace_is_killed(setup: Setup) -> None:
    """The kernel kills the others only if the init is pid 1; otherwise the shim does."""

    async def scenario(harness: Harness) -> None:
        wanted = spec.Wanted(["sh", "-c", "sleep 1000"], host_namespaces=("pid",))
        container = await harness.run("c1", wanted=wanted)
        await add_exec(container, "e1", "sleep", "1000")
        pid = await container.task.start("c1", "e1")
        await container.kill_and_wait()
        await eventually(lambda: not alive(pid), "the exec to be killed")
        await container.remove()
        assert harness.sink.events_of("c1")[-3:] == ["exit e1", "exit c1", "delete c1"]

    in_harness(setup, scenario)
