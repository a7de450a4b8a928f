"""The end of a process's output: Delete drains all of it, and never waits for long."""

import asyncio
import logging
import os
import zlib
from pathlib import Path

import pytest

from shimv2.io.stdio import ProcessIO
from shimv2.shimctl.testbed.until import stays
from shimv2.values.settings import IoPolicy
from tests.support.aio import LOOPS, LoopName
from tests.support.streams import (
    REST_WAKEUPS,
    Container,
    FifoReader,
    fifos,
    opened,
    run_clean,
    wakeups_at_rest,
)

MIB = 1 << 20
GRACE_S = 0.2
QUICK = IoPolicy(drain_grace_s=GRACE_S, drain_limit_s=0.4)


async def drained_s(io: ProcessIO) -> float:
    """Return how long a drain takes."""
    loop = asyncio.get_running_loop()
    start = loop.time()
    await io.drain()
    return loop.time() - start


@pytest.mark.rule("io.end.4")
@pytest.mark.parametrize("loop", LOOPS)
def test_drain_of_a_burst_delivers_all_to_a_slow_reader(tmp_path: Path, loop: LoopName) -> None:
    """8 MiB and an exit; Delete follows Wait directly."""
    (out,) = fifos(tmp_path, ["out"])
    data = os.urandom(MIB) * 8
    (tmp_path / "data").write_bytes(data)

    async def slowly(reader: FifoReader) -> bytes:
        received = b""
        while part := await reader.read(MIB // 2):
            received += part
            await asyncio.sleep(0.01)  # a slow reader
        return received

    async def scenario() -> None:
        reader = FifoReader(out)
        policy = IoPolicy(drain_grace_s=0.005)  # unread bytes do not count as silence
        async with opened(stdout=out, policy=policy) as io:
            await io.connect()
            child = Container(io, "cat", str(tmp_path / "data"))
            reading = asyncio.ensure_future(slowly(reader))
            assert await child.wait() == 0
            await io.drain()
            await io.close()
            assert zlib.crc32(await reading) == zlib.crc32(data)
            assert io.counters().stdout.dropped_bytes == 0
        reader.close()

    run_clean(scenario(), loop=loop)


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_drain_after_a_fast_exit_is_immediate(tmp_path: Path, stream: str) -> None:
    """No grace time for a stream that has ended; nothing is lost, however fast the calls are."""
    _, out, err = fifos(tmp_path)
    redirect = ">&2" if stream == "stderr" else ""
    patient = IoPolicy(drain_grace_s=60, drain_limit_s=60)  # more than the test takes

    async def scenario() -> None:
        for _ in range(20):
            readers = {"stdout": FifoReader(out), "stderr": FifoReader(err)}
            async with opened(stdout=out, stderr=err, policy=patient) as io:
                child = Container(io, "sh", "-c", f"head -c 50000 /dev/zero {redirect}")
                await io.connect()
                await child.wait()
                await io.drain()
                await io.close()
                assert await readers[stream].read_all() == bytes(50000)
            for reader in readers.values():
                reader.close()

    run_clean(scenario())


@pytest.mark.rule("io.end.5")
@pytest.mark.parametrize("loop", LOOPS)
def test_drain_with_a_background_process_ends_after_the_grace(
    tmp_path: Path, loop: LoopName, caplog: pytest.LogCaptureFixture
) -> None:
    """A silent process still has the output open."""
    caplog.set_level(logging.WARNING)
    _, out, err = fifos(tmp_path)

    async def scenario() -> None:
        reader, errors = FifoReader(out), FifoReader(err)
        policy = IoPolicy(drain_grace_s=GRACE_S)
        async with opened(stdout=out, stderr=err, policy=policy) as io:
            await io.connect()
            child = Container(io, "sh", "-c", "sleep 60 2>&- & echo $!")
            pid = int(await _line(reader))
            assert await child.wait() == 0
            assert await drained_s(io) >= GRACE_S
            await io.close()
            assert await reader.read_all() == b""
            os.kill(pid, 9)
        reader.close()
        errors.close()

    run_clean(scenario(), loop=loop)
    texts = [r.getMessage() for r in caplog.records]
    assert texts == ["stdout has not ended: its writing end is still open"]


async def _line(reader: FifoReader) -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        line += await reader.read(1)
    return line


def test_drain_grace_starts_again_with_each_byte(tmp_path: Path) -> None:
    """Output of a background process within the grace time is delivered."""
    (out,) = fifos(tmp_path, ["out"])
    pauses = "for i in 1 2 3 4; do sleep 0.12; echo $i; done; sleep 0.35; echo late"

    async def scenario() -> None:
        reader = FifoReader(out)
        async with opened(stdout=out, policy=IoPolicy(drain_grace_s=GRACE_S)) as io:
            await io.connect()
            assert await Container(io, "sh", "-c", f"({pauses}) &").wait() == 0
            await io.drain()
            await io.close()
            assert await reader.read_all() == b"1\n2\n3\n4\n"
        reader.close()

    run_clean(scenario())


def test_drain_grace_is_given_from_the_call_on(tmp_path: Path) -> None:
    """The grace time counts from the call, even if the last byte came long before."""
    (out,) = fifos(tmp_path, ["out"])

    async def scenario() -> None:
        reader = FifoReader(out)
        async with opened(stdout=out, policy=IoPolicy(drain_grace_s=GRACE_S)) as io:
            await io.connect()
            child = Container(io, "sh", "-c", "echo early; sleep 0.3; (sleep 0.1; echo late) &")
            assert await child.wait() == 0
            await io.drain()
            await io.close()
            assert await reader.read_all() == b"early\nlate\n"
        reader.close()

    run_clean(scenario())


@pytest.mark.rule("io.end.4")
@pytest.mark.parametrize("script", ["head -c 400000 /dev/zero & sleep 0.1", "yes & sleep 0.1"])
def test_drain_of_unread_output_ends_at_its_limit(
    tmp_path: Path, script: str, caplog: pytest.LogCaptureFixture
) -> None:
    """No client reads; Delete continues after the limit, and the rest is counted."""
    caplog.set_level(logging.WARNING)
    (out,) = fifos(tmp_path, ["out"])

    async def scenario() -> None:
        reader = FifoReader(out)
        async with opened(stdout=out, policy=QUICK) as io:
            await io.connect()
            assert await Container(io, "sh", "-c", script).wait() == 0
            assert await drained_s(io) >= 0.4
            await io.close()
            assert len(await reader.read_all()) == io.counters().stdout.relayed_bytes
            assert io.counters().stdout.dropped_bytes >= 60_000
        reader.close()

    run_clean(scenario())
    texts = [r.getMessage() for r in caplog.records]
    assert texts[0] == "stdout has not ended: its bytes are not read"


@pytest.mark.rule("io.end.5")
def test_drain_of_output_whose_reader_has_left_ends_after_the_grace(tmp_path: Path) -> None:
    """A client that closes its end and then calls Delete does not return (ctr with a terminal)."""
    (out,) = fifos(tmp_path, ["out"])
    policy = IoPolicy(drain_grace_s=0.1, drain_limit_s=60)  # more than the test takes

    async def scenario() -> None:
        reader = FifoReader(out)
        async with opened(stdout=out, policy=policy) as io:
            await io.connect()
            child = Container(io, "sh", "-c", "head -c 400000 /dev/zero & sleep 0.1")
            reader.close()
            assert await child.wait() == 0
            assert await drained_s(io) >= 0.1
            reader = FifoReader(out)  # it connects in time and gets all output
            everything = asyncio.create_task(reader.count_all())
            await io.drain()
            assert await everything == 400_000
        assert io.counters().stdout.dropped_bytes == 0
        reader.close()

    run_clean(scenario())


@pytest.mark.rule("io.end.4")
def test_drain_of_output_without_end_stops_at_its_limit() -> None:
    """A background process that never stops writing must not block Delete."""

    async def scenario() -> None:
        policy = IoPolicy(drain_grace_s=0.1, drain_limit_s=0.3)
        async with opened(stdout="/dev/null", policy=policy) as io:
            await io.connect()
            assert await Container(io, "sh", "-c", "yes &").wait() == 0
            assert await drained_s(io) >= 0.3

    run_clean(scenario())


def test_drain_may_be_cancelled_and_repeated(tmp_path: Path) -> None:
    """The next Delete joins one whose caller disconnected."""
    (out,) = fifos(tmp_path, ["out"])

    async def scenario() -> None:
        reader = FifoReader(out)
        async with opened(stdout=out) as io:
            await io.connect()
            child = Container(io, "sh", "-c", "sleep 0.3; echo end")
            first = asyncio.ensure_future(io.drain())
            second = asyncio.ensure_future(io.drain())
            await stays(lambda: not (first.done() or second.done()), "both wait", for_s=0.05)
            first.cancel()
            await second
            assert await reader.read_all() == b"end\n"
            await child.wait()
        reader.close()

    run_clean(scenario())


def test_close_ends_a_drain(tmp_path: Path) -> None:
    """The close takes precedence."""
    (out,) = fifos(tmp_path, ["out"])

    async def scenario() -> None:
        reader = FifoReader(out)
        async with opened(stdout=out) as io:
            await io.connect()
            Container(io, "sleep", "60")
            drain = asyncio.ensure_future(io.drain())
            await stays(lambda: not drain.done(), "the drain waits", for_s=0.02)
            await io.close()
            await drain
            assert await wakeups_at_rest() <= REST_WAKEUPS
        reader.close()

    run_clean(scenario())


@pytest.mark.rule("io.end.6")
def test_close_without_drain_delivers_what_the_fifo_takes(tmp_path: Path) -> None:
    """The close writes bytes that the loop has not noticed yet."""
    (out,) = fifos(tmp_path, ["out"])

    async def scenario() -> None:
        reader = FifoReader(out)
        async with opened(stdout=out) as io:
            await io.connect()
            fd = os.dup(io.fds[1])
            io.spawned()
            os.write(fd, bytes(50_000))
            os.close(fd)
            await io.close()
            assert await reader.read_all() == bytes(50_000)
        reader.close()

    run_clean(scenario())


def test_close_is_possible_at_any_time_and_twice(tmp_path: Path) -> None:
    """Undo steps accept that there is nothing to undo."""
    (out,) = fifos(tmp_path, ["out"])

    async def scenario() -> None:
        reader = FifoReader(out)
        for calls in range(4):
            async with opened(stdout=out) as io:
                if calls > 0:
                    io.spawned()
                if calls > 1:
                    await io.connect()
                if calls > 2:
                    await io.drain()
                await io.close()
                await io.close()
                await io.drain()
                io.close_stdin()
                assert dict(io.fds) == {}
        reader.close()

    run_clean(scenario())
