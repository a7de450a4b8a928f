"""Small messages: each is relayed as soon as the loop finds it, even if the sink has data
already."""

import asyncio
import os
import random
from pathlib import Path

import pytest

from shimv2.io.fifo import Fd, has_reader
from shimv2.io.relay import Relay
from shimv2.io.sinks import PAGE_BYTES, FifoSink, PipeSink
from shimv2.kernel.linux import bytes_waiting
from shimv2.values.settings import IoPolicy
from tests.support.aio import LOOPS, LoopName
from tests.support.streams import FifoReader, eventually, fifos, opened, run_clean

FIFO_BYTES = 16 * PAGE_BYTES


def pipe() -> tuple[int, int]:
    return os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)


def fifo_sink(path: str) -> FifoSink:
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    return FifoSink(Fd(os.open(path, os.O_WRONLY | os.O_NONBLOCK)), Fd(reader))


@pytest.mark.parametrize("size", [1, 8, PAGE_BYTES - 1, PAGE_BYTES, PAGE_BYTES + 1, FIFO_BYTES])
def test_message_is_relayed_in_the_turn_that_finds_it(size: int) -> None:
    """An echo takes one iteration of the loop, not two."""

    async def scenario() -> None:
        from_client, client = pipe()
        process, to_process = pipe()
        relay = Relay("stdin", Fd(from_client), PipeSink(Fd(to_process)), IoPolicy())
        relay.start()
        message = os.urandom(size)
        os.write(client, message)
        # The iteration that polls queues the reader's callback, which runs before this coroutine
        # continues.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert os.read(process, FIFO_BYTES + 1) == message
        assert relay.counters.relayed_bytes == size
        relay.close()
        for fd in (client, process):
            os.close(fd)

    run_clean(scenario())


@pytest.mark.parametrize("loop", LOOPS)
def test_messages_of_all_sizes_arrive_in_order_at_a_reader_of_any_speed(
    tmp_path: Path, loop: LoopName
) -> None:
    """The FIFO may be empty, full, or have a page that is partly filled."""
    (out,) = fifos(tmp_path, ["out"])
    chance = random.Random(7)
    sizes = [chance.choice([1, 80, 4000, PAGE_BYTES, 5000, 20_000]) for _ in range(300)]

    async def scenario() -> None:
        reader = FifoReader(out)
        source, writer = pipe()
        relay = Relay("stdout", Fd(source), fifo_sink(out), IoPolicy())
        relay.start()
        sent, came = bytearray(), bytearray()
        for size in sizes:
            message = os.urandom(size)
            while message:
                try:
                    written = os.write(writer, message)
                except BlockingIOError:
                    came += await reader.read(1)
                    continue
                sent += message[:written]
                message = message[written:]
            await asyncio.sleep(0)
            if chance.random() < 0.3 and len(sent) > len(came):
                came += await reader.read(chance.randrange(1, len(sent) - len(came) + 1))
        os.close(writer)
        came += await reader.read_all()
        assert came == sent
        relay.close()
        reader.close()

    run_clean(scenario(), loop=loop)


def test_message_to_a_full_fifo_is_kept_until_there_is_room(tmp_path: Path) -> None:
    (out,) = fifos(tmp_path, ["out"])

    async def scenario() -> None:
        reader = FifoReader(out)
        source, writer = pipe()
        relay = Relay("stdout", Fd(source), fifo_sink(out), IoPolicy())
        relay.start()
        os.write(writer, bytes(FIFO_BYTES))
        await eventually(lambda: bytes_waiting(reader.number) == FIFO_BYTES, "a full FIFO")
        os.write(writer, b"last")
        await asyncio.sleep(0)
        assert await reader.read(FIFO_BYTES) == bytes(FIFO_BYTES)
        assert await reader.read(4) == b"last"
        relay.close()
        reader.close()
        os.close(writer)

    run_clean(scenario())


def test_message_to_a_process_that_closed_its_stdin_ends_the_stream(tmp_path: Path) -> None:
    """EPIPE at the write of a message is the end of the stream, not an error in the log."""
    (stdin,) = fifos(tmp_path, ["in"])

    async def scenario() -> None:
        async with opened(stdin=stdin) as io:
            process_end = os.dup(io.fds[0])
            io.spawned()
            await io.connect()
            client = os.open(stdin, os.O_WRONLY | os.O_NONBLOCK)
            os.write(client, b"hello")
            os.close(process_end)
            await eventually(lambda: not has_reader(client), "the end of the stream")
            os.close(client)

    run_clean(scenario())
