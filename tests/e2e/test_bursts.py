"""Processes that write a burst and exit: every byte arrives, and nothing is left behind."""

import asyncio
import os
import zlib
from pathlib import Path

import pytest

from shimv2.shimctl import spec
from shimv2.shimctl.container import Container
from shimv2.shimctl.harness import Harness, Setup
from shimv2.shimctl.streams import Capture
from shimv2.shimctl.testbed.until import eventually
from shimv2.values.model import Stdio
from tests.support.boot import fds_at_rest, threads
from tests.support.harnessed import in_harness
from tests.support.host import OTHER_SHIM

pytestmark = pytest.mark.root

KIB, MIB = 1 << 10, 1 << 20


def captures(container: Container) -> list[Capture]:
    found = [each for each in (container.stdout, container.stderr) if isinstance(each, Capture)]
    assert len(found) == 2
    return found


@pytest.mark.rule("io.pipes.11", "io.end.2")
def test_fifty_execs_of_a_burst_lose_nothing_and_leave_nothing(setup: Setup) -> None:
    """Delete follows Wait directly; afterwards the shim has no more fds or threads than before."""
    _bursts(setup, 50)


@pytest.mark.rule("io.pipes.11")
@pytest.mark.soak
def test_thousand_execs_of_a_burst_lose_nothing_and_leave_nothing(setup: Setup) -> None:
    """The same with as many execs as a liveness probe makes in three hours."""
    _bursts(setup, 1000)


def _bursts(setup: Setup, count: int) -> None:
    data = os.urandom(64 * KIB)

    async def scenario(harness: Harness) -> None:
        container = await harness.run("c1", "sleep", "1000")
        task, bundle = container.task, container.bundle
        Path(bundle.own, "upper", "data").write_bytes(data)
        pid = (await task.connected("c1")).shim_pid
        process = spec.process(spec.Wanted(["sh", "-c", "cat /data; cat /data >&2"]))
        files, count_before = fds_at_rest(pid), threads(pid)
        for number in range(count):
            id_ = f"e{number}"
            bundle.make_fifos(exec_id=id_)
            paths = [bundle.fifo(name, exec_id=id_) for name in ("stdin", "stdout", "stderr")]
            out, err = Capture(paths[1]), Capture(paths[2])
            await task.exec("c1", id_, process, stdio=Stdio(paths[0], paths[1], paths[2]))
            await task.start("c1", id_)
            ended = await task.wait("c1", id_)
            await task.delete("c1", id_)
            await out.ended()
            await err.ended()
            assert ended.status == 0
            assert out.data == data
            assert err.data == data
            bundle.remove_fifos(exec_id=id_)

        assert fds_at_rest(pid) == files
        if not OTHER_SHIM:  # the Go runtime starts threads at any time
            await eventually(lambda: threads(pid) == count_before, "the threads to be as before")
        await container.kill_and_wait()
        await container.remove()

    in_harness(setup, scenario, limit_s=30 + count)


@pytest.mark.rule("io.end.2", "io.end.3")
@pytest.mark.parametrize("way", ["delete", "shutdown"])
def test_eight_mebibytes_then_the_exit_arrive_whatever_the_client_does_next(
    setup: Setup, way: str
) -> None:
    """Delete right after Wait, or a Shutdown while there is a container, which has no effect."""
    data = os.urandom(MIB)

    async def scenario(harness: Harness) -> None:
        wanted = spec.Wanted(["sh", "-c", "cat /d /d /d /d >&2 & cat /d /d /d /d; wait"])
        container = await harness.create("c1", wanted)
        Path(container.bundle.own, "upper", "d").write_bytes(data)
        task = container.task
        await task.start("c1")
        assert (await task.wait("c1")).status == 0
        if way == "delete":
            await task.delete("c1")
        else:
            await task.shutdown("c1")
            assert (await task.state("c1")).status == "STOPPED"
        await container.outputs_ended()
        for output in captures(container):
            assert len(output.data) == 4 * MIB
            assert zlib.crc32(output.data) == zlib.crc32(data * 4)
        await container.remove()

    in_harness(setup, scenario)


@pytest.mark.rule("io.end.1")
@pytest.mark.ours("what no client has read is lost once the process has ended")
def test_unread_burst_waits_for_its_client_through_shutdown(setup: Setup) -> None:
    """Output that does not fit into the FIFO waits in the container's pipe until it is read or
    deleted."""

    async def scenario(harness: Harness) -> None:
        container = await harness.create("c1", spec.Wanted(["sh", "-c", "head -c 60000 /dev/zero"]))
        for output in captures(container):
            output.close()
        task = container.task
        await task.start("c1")
        assert (await task.wait("c1")).status == 0
        await task.shutdown("c1")
        out, err = (Capture(container.bundle.fifo(name)) for name in ("stdout", "stderr"))
        await out.ended()
        assert out.data == bytes(60000)
        err.close()
        await container.remove()

    in_harness(setup, scenario)


@pytest.mark.rule("io.end.2")
def test_deletes_of_twenty_bursts_at_once_lose_nothing(setup: Setup) -> None:
    """Drains do not wait for each other, and none ends early because of another."""
    data = os.urandom(256 * KIB)

    async def scenario(harness: Harness) -> None:
        container = await harness.run("c1", "sleep", "1000")
        task, bundle = container.task, container.bundle
        Path(bundle.own, "upper", "data").write_bytes(data)
        process = spec.process(spec.Wanted(["cat", "/data"]))

        async def burst(id_: str) -> bytes:
            bundle.make_fifos(exec_id=id_)
            path = bundle.fifo("stdout", exec_id=id_)
            out = Capture(path)
            await task.exec("c1", id_, process, stdio=Stdio("", path, "/dev/null"))
            await task.start("c1", id_)
            await task.wait("c1", id_)
            await task.delete("c1", id_)
            await out.ended()
            return bytes(out.data)

        outputs = await asyncio.gather(*(burst(f"e{number}") for number in range(20)))
        assert outputs == [data] * 20
        await container.kill_and_wait()
        await container.remove()

    in_harness(setup, scenario)
