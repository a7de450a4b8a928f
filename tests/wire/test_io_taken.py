"""Output that a client has to read before an exit is published, and the time limit of that."""

import asyncio
import os
from pathlib import Path

import pytest

from shimv2.io.stdio import ProcessIO
from shimv2.values.settings import IoPolicy
from tests.support.aio import LOOPS, LoopName
from tests.support.consoles import Session, console
from tests.support.streams import (
    Container,
    FifoReader,
    eventually,
    fifos,
    on_fifo,
    opened,
    run_clean,
)

PATIENT = IoPolicy(exit_output_s=30.0)
SHORT = IoPolicy(exit_output_s=0.05)


async def run_to_its_end(io: ProcessIO, script: str) -> None:
    await io.connect()
    assert await Container(io, "sh", "-c", script).wait() == 0
    io.process_ended()


def waits(io: ProcessIO) -> bool:
    """Whether `output_read` has to wait; otherwise it ends in its first step."""
    call = io.output_read()
    try:
        call.send(None)
    except StopIteration:
        return False
    call.close()
    return True


@pytest.mark.rule("task.wait.6")
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("count", [1, 60_000, 500_000])
def test_output_counts_as_read_once_the_client_has_read_it(
    tmp_path: Path, count: int, loop: LoopName
) -> None:
    """The output is in the FIFO, or not yet relayed; all waiters are woken."""
    (out,) = fifos(tmp_path, ["out"])

    async def scenario() -> None:
        reader = FifoReader(out)
        async with opened(stdout=out, policy=PATIENT) as io:
            await io.connect()
            child = Container(io, "sh", "-c", f"head -c {count} /dev/zero")
            first = await reader.read(count // 2)
            fits = count <= 60_000  # or a child still writes, and the FIFO may be empty at times
            if fits:
                await eventually(lambda: child.exited, "the process to end")
            io.process_ended()
            waiting = [asyncio.create_task(io.output_read()) for _ in range(2)]
            left = count - len(first)
            while left:
                assert not (fits and any(each.done() for each in waiting))
                left -= len(await reader.read(min(left, 50_000)))
            await asyncio.gather(*waiting)
            assert await reader.read_all() == b""
            await child.wait()
        reader.close()

    run_clean(scenario(), loop=loop)


def test_output_that_is_read_at_once_costs_no_timer(tmp_path: Path) -> None:
    """An exec's Wait is as fast as its client, because each iteration of the loop checks the
    FIFO."""
    (out,) = fifos(tmp_path, ["out"])

    async def scenario() -> None:
        reader = FifoReader(out)
        async with opened(stdout=out, policy=PATIENT) as io:
            await run_to_its_end(io, "echo words")
            waiting = asyncio.create_task(io.output_read())
            await asyncio.sleep(0)
            assert not waiting.done()
            assert os.read(reader.number, 100) == b"words\n"
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert waiting.done()
        reader.close()

    run_clean(scenario())


def test_all_who_wait_for_output_to_be_read_go_on_together(tmp_path: Path) -> None:
    """A Delete after a Wait does not wait for another check before the exit is published."""
    (out,) = fifos(tmp_path, ["out"])

    async def scenario() -> None:
        reader = FifoReader(out)
        async with opened(stdout=out, policy=PATIENT) as io:
            await run_to_its_end(io, "echo words")
            first = asyncio.create_task(io.output_read())
            for _ in range(100):  # it no longer checks in each iteration of the loop
                await asyncio.sleep(0)
            assert os.read(reader.number, 100) == b"words\n"
            await io.output_read()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert first.done()
        reader.close()

    run_clean(scenario())


def test_client_that_reads_to_the_end_sees_it_before_the_exit_is_published(tmp_path: Path) -> None:
    """The shim's check of unread bytes must not prevent the end of the stream."""
    (out,) = fifos(tmp_path, ["out"])

    async def scenario() -> None:
        reader = FifoReader(out)
        async with opened(stdout=out, policy=PATIENT) as io:
            await run_to_its_end(io, "echo words")
            waiting = asyncio.create_task(io.output_read())
            assert await reader.read_all() == b"words\n"
            await waiting
            assert on_fifo(out) == 1  # the client's
        reader.close()

    run_clean(scenario())


@pytest.mark.rule("task.wait.6")
def test_client_that_never_reads_is_waited_for_once_and_for_a_limited_time(tmp_path: Path) -> None:
    """The time counts from the exit of the process, for all calls together."""
    (out,) = fifos(tmp_path, ["out"])

    async def scenario() -> None:
        reader = FifoReader(out)
        async with opened(stdout=out, policy=SHORT) as io:
            start = asyncio.get_running_loop().time()
            await run_to_its_end(io, "echo words")
            await io.output_read()
            assert 0.05 <= asyncio.get_running_loop().time() - start < 10
            assert not waits(io)
            assert on_fifo(out) == 2  # the client's, and ours to see what is unread
        assert on_fifo(out) == 1
        assert await reader.read_all() == b"words\n"
        reader.close()

    run_clean(scenario())


@pytest.mark.rule("task.wait.6")
@pytest.mark.parametrize("script", ["true", "head -c 500000 /dev/zero & sleep 0.1", "echo words"])
def test_nothing_is_waited_for_without_output_or_without_a_client(
    tmp_path: Path, script: str
) -> None:
    """Then one check is enough."""
    (out,) = fifos(tmp_path, ["out"])

    async def scenario() -> None:
        reader = FifoReader(out)
        async with opened(stdout=out, policy=PATIENT) as io:
            await io.connect()
            if script != "true":
                reader.close()
            assert await Container(io, "sh", "-c", script).wait() == 0
            io.process_ended()
            assert not waits(io)
        reader.close()

    run_clean(scenario())


def test_nothing_is_waited_for_with_a_file_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.touch()

    async def scenario() -> None:
        for stdout in (str(path), ""):
            async with opened(stdout=stdout, policy=PATIENT) as io:
                await run_to_its_end(io, "echo words")
                assert not waits(io)

    run_clean(scenario())
    assert path.read_bytes() == b"words\n"


@pytest.mark.rule("task.wait.6")
def test_output_of_a_terminal_counts_as_read_once_the_client_has_read_it(tmp_path: Path) -> None:
    """Also output that is still in the terminal, because the FIFO is full."""
    (out,) = fifos(tmp_path, ["out"])

    async def scenario() -> None:
        reader = FifoReader(out)
        async with console(out, policy=PATIENT) as (io, name):
            session = Session(name, "stty -opost; head -c 70000 /dev/zero")
            assert await session.wait() == 0
            io.process_ended()
            waiting = asyncio.create_task(io.output_read())
            data = await reader.read(69_999)
            assert not waiting.done()
            data += await reader.read_all()
            await waiting
            assert data == bytes(70_000)
        reader.close()

    run_clean(scenario())


def test_close_ends_the_waiting(tmp_path: Path) -> None:
    """The Delete of the container continues, even while a call waits for one of its execs."""
    (out,) = fifos(tmp_path, ["out"])

    async def scenario() -> None:
        reader = FifoReader(out)
        async with opened(stdout=out, policy=PATIENT) as io:
            await run_to_its_end(io, "echo words")
            waiting = asyncio.create_task(io.output_read())
            await asyncio.sleep(0)
            assert not waiting.done()
            await io.close()
            await waiting
            assert os.read(reader.number, 100) == b"words\n"
        reader.close()

    run_clean(scenario())
