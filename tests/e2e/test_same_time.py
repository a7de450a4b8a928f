"""Simultaneous calls, and calls that end at their deadline."""

import asyncio

import pytest

from protos import task_v2_pb2
from shimv2.shimctl import spec
from shimv2.shimctl.harness import Harness, Setup
from shimv2.shimctl.streams import Capture, write_fifo
from shimv2.shimctl.testbed.leaks import alive
from shimv2.shimctl.testbed.until import eventually
from shimv2.values.model import Exit, Stdio
from tests.support.faults import Faults
from tests.support.harnessed import add_exec, in_harness, refused
from tests.support.host import OTHER_SHIM
from ttrpc import StatusError

pytestmark = pytest.mark.root

SLEEP = spec.Wanted(["sleep", "1000"])


@pytest.mark.rule("task.create.12")
def test_one_of_two_creates_of_an_id_succeeds(setup: Setup) -> None:
    """The other gets the runtime's error text, and has no effect."""

    async def scenario(harness: Harness) -> None:
        container = await harness.start_shim("c1", SLEEP)
        root = [harness.root_mount(container.bundle)]

        async def create() -> int:
            return await container.task.create("c1", container.bundle.path, rootfs=root)

        ended = await asyncio.gather(create(), create(), return_exceptions=True)
        pids = [each for each in ended if isinstance(each, int)]
        assert len(pids) == 1
        taken = "runc create failed: container with given ID already exists"
        assert [str(each) for each in ended if not isinstance(each, int)] == [
            f"OCI runtime create failed: {taken}"
        ]
        assert await container.task.start("c1") == pids[0]
        await container.kill_and_wait()
        await container.remove()
        assert harness.sink.events_of("c1") == ["create c1", "start c1", "exit c1", "delete c1"]

    in_harness(setup, scenario)


@pytest.mark.rule("task.start.5", "task.wait.1", "task.wait.3", "task.state.5")
def test_one_of_two_starts_succeeds_and_all_waiters_get_the_exit(setup: Setup) -> None:
    """Waits from before Start get the same reply as later ones."""

    async def scenario(harness: Harness) -> None:
        container = await harness.create("c1", spec.Wanted(["sh", "-c", "exit 6"]))
        task = container.task
        waits = [asyncio.create_task(task.wait("c1")) for _ in range(20)]
        starts = await asyncio.gather(*(task.start("c1") for _ in range(2)), return_exceptions=True)
        assert [each for each in starts if isinstance(each, int)] == [(await task.state("c1")).pid]
        exits = {(each.status, each.at_ns) for each in await asyncio.gather(*waits)}
        assert len(exits) == 1
        ended = (await task.state("c1")).exit
        assert ended is not None
        assert exits == {(6, ended.at_ns)}
        await container.remove()

    in_harness(setup, scenario)


@pytest.mark.ours("Go shims wait for ever")
@pytest.mark.rule("task.wait.4", "task.errors.5")
def test_wait_ends_with_the_time_of_its_caller(setup: Setup) -> None:
    """Code 4; the process continues, and the next Wait works."""

    async def scenario(harness: Harness) -> None:
        container = await harness.run("c1", *SLEEP.args)
        # The error comes from the shim: a client's own timeout would have no status.
        request = task_v2_pb2.WaitRequest(id="c1")
        call = container.task.call("Wait", request, task_v2_pb2.WaitResponse, timeout_s=0.3)
        assert await refused(call) == (4, "context deadline exceeded")
        assert (await container.task.state("c1")).status == "RUNNING"
        assert (await container.kill_and_wait()).status == 137
        await container.remove()

    in_harness(setup, scenario)


@pytest.mark.rule("task.delete.10")
def test_one_of_many_deletes_succeeds(setup: Setup) -> None:
    """Daemons delete in bursts: the others get one of the two errors for a missing container."""
    deleted = "cannot delete a deleted process: not found"

    async def scenario(harness: Harness) -> None:
        container = await harness.run("c1", *SLEEP.args)
        task = container.task
        await add_exec(container, "e1", "sh", "-c", "exit 5")
        await task.start("c1", "e1")
        await task.wait("c1", "e1")

        async def delete(exec_id: str, *gone: str) -> int:
            calls = (task.delete("c1", exec_id) for _ in range(10))
            ended = await asyncio.gather(*calls, return_exceptions=True)
            (done,) = (each for each in ended if isinstance(each, Exit))
            refusals = {str(each) for each in ended if not isinstance(each, Exit)}
            assert refusals <= {deleted, *gone}
            return done.status

        assert await delete("e1", "process does not exist e1: not found") == 5
        await container.kill_and_wait()
        assert await delete("", "container not created: not found") == 137
        await container.remove()
        assert harness.sink.events_of("c1").count("delete c1") == 1

    in_harness(setup, scenario)


@pytest.mark.rule("task.init.11")
def test_calls_that_come_during_a_delete_find_a_deleted_container(
    faulty: Setup, faults: Faults
) -> None:
    """They wait for it, and get the texts of the state `deleted`."""

    async def scenario(harness: Harness) -> None:
        container = await harness.run("c1", "true")
        task = container.task
        await task.wait("c1")
        faults.hold("delete.before")
        delete = asyncio.create_task(task.delete("c1"))
        await eventually(lambda: faults.held("delete.before"), "the runtime to be called")
        again = asyncio.create_task(task.delete("c1"))
        await task.connected("c1")  # requests are read in order, so the other one has arrived
        faults.release()
        await delete
        with pytest.raises(StatusError, match=r"^cannot delete a deleted process: not found$"):
            await again
        await container.remove()

    in_harness(faulty, scenario)


@pytest.mark.rule("task.exec.9")
def test_one_of_many_execs_of_an_id_is_recorded(setup: Setup) -> None:
    """The others get the error that the id is in use, and change nothing."""

    async def scenario(harness: Harness) -> None:
        container = await harness.run("c1", *SLEEP.args)
        calls = (add_exec(container, "e1", "true") for _ in range(5))
        ended = await asyncio.gather(*calls, return_exceptions=True)
        assert sorted(map(str, ended)) == ["None", *["id e1: already exists"] * 4]
        await container.task.start("c1", "e1")
        assert (await container.task.wait("c1", "e1", timeout_s=10)).status == 0
        await container.kill_and_wait()
        await container.remove()
        assert harness.sink.events_of("c1").count("exec-added e1") == 1

    in_harness(setup, scenario)


@pytest.mark.rule("task.resize.5")
@pytest.mark.parametrize("moment", ["exec.before", "exec.after"])
def test_resize_during_the_start_of_an_exec_is_not_lost(
    faulty: Setup, faults: Faults, moment: str
) -> None:
    """The runtime is held before and after it makes the terminal; the client cannot know which."""

    async def scenario(harness: Harness) -> None:
        container = await harness.run("c1", "sleep", "60")
        task, bundle = container.task, container.bundle
        bundle.make_fifos(exec_id="e1")
        process = spec.process(spec.Wanted(["sh", "-c", "read x; stty size"], terminal=True))
        process["consoleSize"] = {"width": 22, "height": 11}
        stdin, stdout = (bundle.fifo(name, exec_id="e1") for name in ("stdin", "stdout"))
        output = Capture(stdout)
        await task.exec("c1", "e1", process, stdio=Stdio(stdin, stdout, terminal=True))
        faults.hold(moment)
        start = asyncio.create_task(task.start("c1", "e1"))
        await eventually(lambda: faults.held(moment), "the runtime to be held")
        resize = asyncio.create_task(task.resize_pty("c1", "e1", width=90, height=30))
        await task.connected("c1")  # that call has arrived, whether it waits or not
        faults.release()
        await asyncio.gather(start, resize)
        await write_fifo(stdin, b"\n")
        await task.wait("c1", "e1")
        await output.ended()
        await task.delete("c1", "e1")

        assert output.text == "\r\n30 90\r\n"
        await container.kill_and_wait()
        await container.remove()

    in_harness(faulty, scenario)


@pytest.mark.rule("task.kill.12")
def test_exit_that_a_kill_causes_is_reported_after_its_reply(faulty: Setup, faults: Faults) -> None:
    """Wait and the event come after the reply to Kill, because a client may disconnect at the exit.

    containerd's CRI plugin removes the container then, and closes the connection of its Kill.
    """

    async def scenario(harness: Harness) -> None:
        container = await harness.create("c1", SLEEP, output=None)
        task = container.task
        pid = await task.start("c1")
        faults.hold("kill.after")
        wait = asyncio.create_task(task.wait("c1"))
        kill = asyncio.create_task(task.kill("c1", 9))
        await eventually(lambda: faults.held("kill.after"), "the runtime to have killed it")
        await eventually(lambda: not alive(pid), "the container to end")
        for _ in range(9):  # an event that was sent too early would arrive before these replies
            await task.connected("c1")

        assert not kill.done()
        assert not wait.done()
        assert "exit c1" not in harness.sink.events_of("c1")
        faults.release()
        await asyncio.wait({kill, wait}, return_when=asyncio.FIRST_COMPLETED)
        assert OTHER_SHIM or kill.done()  # other shims have no order after the exit of the runtime
        await kill
        assert (await wait).status == 137
        await container.remove()
        assert harness.sink.events_of("c1") == ["create c1", "start c1", "exit c1", "delete c1"]

    in_harness(faulty, scenario)
