"""Calls that fail or whose client disconnects: roll-back, continuation and repetition."""

import asyncio
import os
import shutil
from pathlib import Path

import pytest

from shimv2.shimctl import spec
from shimv2.shimctl.bundle import mounts_below
from shimv2.shimctl.harness import Harness, Setup
from shimv2.shimctl.testbed.leaks import alive
from shimv2.shimctl.testbed.until import eventually
from shimv2.values.model import Stdio
from tests.support.faults import Faults
from tests.support.harnessed import add_exec, in_harness, refused, second_client
from tests.support.host import words

pytestmark = [pytest.mark.root, pytest.mark.ours("Go shims leave things behind")]

SLEEP = spec.Wanted(["sleep", "1000"])


@pytest.mark.rule("task.create.14")
def test_create_is_rolled_back_when_its_client_leaves(faulty: Setup, faults: Faults) -> None:
    """Nothing of a Create remains if its daemon disconnects."""

    async def scenario(harness: Harness) -> None:
        container = await harness.start_shim("c1", SLEEP)
        faults.hold("create.after")
        client = await second_client(container)
        root = [harness.root_mount(container.bundle)]
        create = asyncio.create_task(
            client.create("c1", container.bundle.path, rootfs=root, options=harness.options)
        )
        await eventually(lambda: faults.held("create.after"), "the runtime to be called")
        pid = int(Path(container.bundle.path, "init.pid").read_text())
        await client.close()
        await asyncio.wait([create])
        assert create.exception() is not None
        await eventually(lambda: not alive(pid), "the half-made container to end")
        code, _ = await refused(container.task.state("c1"))
        assert code == 5
        await eventually(
            lambda: not mounts_below(container.bundle.path), "the rootfs to be unmounted"
        )
        assert harness.sink.events_of("c1") == []
        await container.create(rootfs=root, options=harness.options)  # the id is free again
        await container.kill_and_wait()
        await container.remove()

    in_harness(faulty, scenario)


@pytest.mark.rule("task.create.15")
def test_create_whose_time_is_over_is_rolled_back(faulty: Setup, faults: Faults) -> None:
    """A runtime that hangs is killed with its processes; the client gets an error in time."""

    async def scenario(harness: Harness) -> None:
        container = await harness.start_shim("c1", SLEEP)
        faults.at("create.after", "sleep 1000")
        root = [harness.root_mount(container.bundle)]
        code, text = await refused(
            container.create(rootfs=root, options=harness.options, timeout_s=1)
        )
        assert (code, text) == (4, "context deadline exceeded")
        await container.remove()

    in_harness(faulty, scenario)


@pytest.mark.rule("task.delete.7")
def test_delete_continues_without_its_client_and_a_repeated_call_gets_the_same_reply(
    faulty: Setup, faults: Faults
) -> None:
    """A Delete whose reply is lost is not repeated by the runtime, and its exit is not lost."""

    async def scenario(harness: Harness) -> None:
        container = await harness.run("c1", "sh", "-c", "exit 6")
        await container.task.wait("c1")
        faults.hold("delete.before")
        client = await second_client(container)
        first = asyncio.create_task(client.delete("c1"))
        await eventually(lambda: faults.held("delete.before"), "the runtime to be called")
        await client.close()
        await asyncio.wait([first])
        assert first.exception() is not None
        for _ in range(
            2
        ):  # at the second answer the shim knows that the first client has disconnected
            await container.task.state("c1")
        again = asyncio.create_task(container.task.delete("c1"))
        await asyncio.sleep(0)
        faults.release()
        assert (await again).status == 6
        assert (await container.task.delete("c1")).status == 6
        await container.remove()
        assert harness.sink.events_of("c1") == ["create c1", "start c1", "exit c1", "delete c1"]

    in_harness(faulty, scenario)


@pytest.mark.rule("task.delete.3")
def test_delete_that_the_runtime_refuses_can_be_repeated(faulty: Setup, faults: Faults) -> None:
    """A failed Delete leaves the state as it was."""

    async def scenario(harness: Harness) -> None:
        container = await harness.run("c1", "true")
        await container.task.wait("c1")
        faults.at("delete.before", "echo delbad >&2; exit 1")
        code, text = await refused(container.task.delete("c1"))
        assert code == 2
        assert text.startswith("failed to delete task: ")
        assert "delbad" in text
        assert (await container.task.state("c1")).status == "STOPPED"
        assert (await container.task.delete("c1")).status == 0
        await container.remove()

    in_harness(faulty, scenario)


@pytest.mark.rule("task.start.3", "events.order.5")
def test_failed_exec_leaves_everything_as_before(setup: Setup) -> None:
    """A process that never ran has no exit; Start may be repeated."""

    async def scenario(harness: Harness) -> None:
        container = await harness.run("c1", *SLEEP.args)
        await add_exec(container, "e1", "/bin/nosuch")
        for _ in range(2):
            code, text = await refused(container.task.start("c1", "e1"))
            assert code == 2
            expected = words(
                runc="exec failed: unable to start container process: "
                'exec: "/bin/nosuch": stat /bin/nosuch: no such file or directory',
                crun="executable file `/bin/nosuch` not found in $PATH: No such file or directory",
            )
            assert text == f"OCI runtime exec failed: {expected}"
        ended = await container.task.wait("c1", "e1", timeout_s=2)
        assert ended.status == 0
        state = await container.task.state("c1", "e1")
        assert (state.status, state.pid) == ("CREATED", 0)
        assert await refused(container.task.kill("c1", 9, "e1")) == (
            9,
            "process not created: failed precondition",
        )
        await container.task.delete("c1", "e1")
        await container.kill_and_wait()
        assert await refused(container.task.start("c1", "e1")) == (
            5,
            "process does not exist e1: not found",
        )
        await container.remove()
        assert harness.sink.events_of("c1") == [
            "create c1",
            "start c1",
            "exec-added e1",
            "exit c1",
            "delete c1",
        ]

    in_harness(setup, scenario)


@pytest.mark.rule("task.wait.5")
def test_waiters_of_a_container_that_never_ran_are_released(setup: Setup) -> None:
    """With the Go shim they wait for ever: a deleted process never exits."""

    async def scenario(harness: Harness) -> None:
        container = await harness.create("c1", SLEEP)
        other = await second_client(container)
        waiter = asyncio.create_task(other.wait("c1"))
        await asyncio.sleep(0)
        deleted = await container.task.delete("c1")
        async with asyncio.timeout(5):
            await waiter
        assert (deleted.status, deleted.pid > 0) == (0, True)
        await other.close()
        await container.remove()

    in_harness(setup, scenario)


@pytest.mark.rule("task.errors.5", "io.open.2", "io.open.3")
def test_output_that_no_client_opens_fails_create_in_time_and_is_named(setup: Setup) -> None:
    """The error names the FIFO; nothing is left behind."""

    async def scenario(harness: Harness) -> None:
        container = await harness.start_shim("c1", SLEEP)
        container.bundle.make_fifos()
        fifo = container.bundle.fifo("stdout")
        root = [harness.root_mount(container.bundle)]
        create = container.create(
            rootfs=root, options=harness.options, stdio=Stdio(stdout=fifo), timeout_s=3
        )
        code, text = await refused(create)
        assert code == 4
        assert text == (
            "failed to start io pipe copy: unable to copy pipes: containerd-shim: "
            f'opening w/o fifo "{fifo}" failed: context deadline exceeded'
        )
        assert not mounts_below(container.bundle.path)
        await container.remove()

    in_harness(setup, scenario)


@pytest.mark.rule("task.start.7", "io.open.3")
def test_exec_whose_output_no_client_opens_is_killed_and_can_be_started_again(setup: Setup) -> None:
    """State, Wait and events are those of an exec that was never started."""

    async def scenario(harness: Harness) -> None:
        container = await harness.run("c1", *SLEEP.args)
        fifo = container.bundle.fifo("stdout", exec_id="e1")
        container.bundle.make_fifos(exec_id="e1")
        process = spec.process(spec.Wanted(["sleep", "1000"]))
        await container.task.exec("c1", "e1", process, stdio=Stdio(stdout=fifo))
        code, text = await refused(container.task.start("c1", "e1", timeout_s=3))
        assert (code, text.endswith("failed: context deadline exceeded")) == (4, True)
        state = await container.task.state("c1", "e1")
        assert (state.status, state.pid) == ("CREATED", 0)
        await container.task.wait("c1", "e1", timeout_s=2)
        assert len(await container.task.pids("c1")) == 1
        reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        pid = await container.task.start("c1", "e1")
        await container.task.kill("c1", 9, "e1")
        ended = await container.task.wait("c1", "e1")
        os.close(reader)
        assert (pid > 0, ended.status) == (True, 137)
        await container.task.delete("c1", "e1")
        await container.kill_and_wait()
        await container.remove()
        assert harness.sink.events_of("c1") == [
            "create c1",
            "start c1",
            "exec-added e1",
            "exec-started e1",
            "exit e1",
            "exit c1",
            "delete c1",
        ]

    in_harness(setup, scenario)


def test_delete_of_what_the_runtime_has_forgotten_removes_its_cgroup(setup: Setup) -> None:
    """As after a checkpoint that ended the container: the runtime does not know it any more."""

    async def scenario(harness: Harness) -> None:
        container = await harness.run("c1", "true")
        await container.task.wait("c1")
        shutil.rmtree(f"/run/containerd/runc/{harness.setup.namespace}/c1")
        await container.remove()  # a cgroup that is left behind fails the test

    in_harness(setup, scenario)
