"""The client's ends of stdio: no byte is lost or repeated, with each kind of reader."""

import asyncio
import os
import subprocess
import sys
import threading
import zlib
from pathlib import Path

import pytest

from shimv2.shimctl.streams import Capture, Relay, feed, write_fifo
from shimv2.shimctl.testbed.until import until
from tests.support.aio import run

RELAY = """
import asyncio, sys
from shimv2.shimctl.streams import Relay

async def main():
    await Relay(sys.argv[1], 1).ended()

asyncio.run(main())
"""


@pytest.fixture
def fifo(tmp_path: Path) -> str:
    path = str(tmp_path / "fifo")
    os.mkfifo(path)
    return path


def write(path: str, data: bytes) -> None:
    with open(path, "wb", buffering=0) as file:
        file.write(data)


def test_capture_waits_for_a_writer_and_ends_with_the_last(fifo: str) -> None:
    """A FIFO without a writer yet is not at its end."""

    async def scenario() -> None:
        capture = Capture(fifo)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await capture.ended()
        await asyncio.to_thread(write, fifo, b"hello\nworld\n")
        await capture.until(b"world")
        await capture.ended()

        assert capture.lines == ["hello", "world"]

    run(scenario(), loop="stock")


def test_capture_reports_what_came_instead(fifo: str) -> None:
    """A timeout without the data would not explain the failure."""

    async def scenario() -> None:
        capture = Capture(fifo)
        await asyncio.to_thread(write, fifo, b"other")
        with pytest.raises(TimeoutError, match="other"):
            await capture.until(b"wanted", timeout_s=0.1)
        capture.close()
        capture.close()

    run(scenario(), loop="stock")


@pytest.mark.parametrize("kind", ["pipe", "file", "append"])
def test_relay_passes_everything_on_whatever_the_output_is(
    fifo: str, tmp_path: Path, kind: str
) -> None:
    """With splice if the kernel supports it, otherwise with read and write."""
    sent = os.urandom(1024 * 1024)
    received = bytearray()
    target = tmp_path / "out"
    if kind == "pipe":
        source, sink = os.pipe()
    else:
        flags = os.O_WRONLY | os.O_CREAT | (os.O_APPEND if kind == "append" else 0)
        source, sink = -1, os.open(target, flags)

    def drain() -> None:
        while chunk := os.read(source, 4096):
            received.extend(chunk)

    async def scenario() -> None:
        relay = Relay(fifo, sink)
        await asyncio.to_thread(write, fifo, sent)
        await relay.ended()

    reader = threading.Thread(target=drain) if kind == "pipe" else None
    if reader is not None:
        reader.start()
    run(scenario(), loop="stock")
    os.close(sink)
    if reader is not None:
        reader.join()
        os.close(source)
    else:
        received += target.read_bytes()

    assert zlib.crc32(received) == zlib.crc32(sent)


def test_relay_killed_at_any_moment_loses_no_byte(fifo: str) -> None:
    """All bytes that it took from the FIFO are in its output: the next reader continues exactly
    there."""
    holder = os.open(fifo, os.O_RDWR)  # as the shim, which keeps both ends open
    # Much more than the relays can move: each blocks once its pipe is full.
    lines = [f"line {i}\n".encode() for i in range(100_000)]
    writer = threading.Thread(target=write, args=(fifo, b"".join(lines)))
    writer.start()
    got = b""
    for _ in range(5):
        relay = subprocess.Popen([sys.executable, "-c", RELAY, fifo], stdout=subprocess.PIPE)
        assert relay.stdout is not None
        got += os.read(relay.stdout.fileno(), 1000)
        relay.kill()
        got += relay.stdout.read()
        relay.wait()
        relay.stdout.close()
    last = Path(fifo)

    async def rest() -> bytes:
        capture = Capture(str(last))
        await capture.until(lines[-1], timeout_s=20)
        capture.close()
        return bytes(capture.data)

    got += run(rest(), timeout_s=30, loop="stock")
    writer.join()
    os.close(holder)

    assert got == b"".join(lines)


def test_write_fifo_waits_for_room(fifo: str) -> None:
    """More than a pipe holds is written while the reader reads."""
    sent = b"x" * 1_000_000

    async def scenario() -> None:
        capture = Capture(fifo)
        await write_fifo(fifo, sent)
        await capture.ended()

        assert bytes(capture.data) == sent

    run(scenario(), loop="stock")


def test_feed_copies_standard_input_and_reports_its_end(fifo: str) -> None:
    """The end of our input is reported once, on the loop, after the FIFO was closed."""
    source, sink = os.pipe()
    os.write(sink, b"typed\n")
    os.close(sink)

    async def scenario() -> None:
        capture, done = Capture(fifo), asyncio.Event()
        feed(fifo, source, done=done.set)
        await done.wait()
        await capture.ended()

        assert capture.text == "typed\n"

    run(scenario(), loop="stock")
    os.close(source)
    until(lambda: "stdin" not in {thread.name for thread in threading.enumerate()}, "the thread")
