"""Output without a reader: the policies, sinks that fail, and bytes left at the end."""

import asyncio
import contextlib
import logging
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from shimv2.io.stdio import ProcessIO
from shimv2.kernel.linux import bytes_waiting
from shimv2.values.settings import BUFFER, DROP_OLDEST, IoPolicy
from tests.support.aio import LOOPS, LoopName
from tests.support.streams import (
    REST_WAKEUPS,
    Container,
    FifoReader,
    eventually,
    fifos,
    lines,
    on_fifo,
    opened,
    run_clean,
    shell_lines,
    wakeups_at_rest,
)

# --- policies ----------------------------------------------------------------------------------


@pytest.mark.parametrize("loop", LOOPS)
def test_policy_buffer_holds_the_writer_only_when_it_is_full(
    tmp_path: Path, loop: LoopName
) -> None:
    """Memory is used up to the limit, in addition to pipe and FIFO; nothing is lost."""
    (out,) = fifos(tmp_path, ["out"])
    policy = IoPolicy(stdio_policy=BUFFER, limit_bytes=200_000)
    fits, too_much = 3800, 6000  # 304 kB; 480 kB, the pipes and the buffer hold 331,072

    async def scenario() -> None:
        reader = FifoReader(out)
        async with opened(stdout=out, policy=policy) as io:
            await io.connect()
            assert await Container(io, "sh", "-c", shell_lines(fits)).wait() == 0
            assert await wakeups_at_rest() <= REST_WAKEUPS
            assert await reader.read_all() == lines(fits)
            assert io.counters().stdout.dropped_bytes == 0
        async with opened(stdout=out, policy=policy) as io:
            await io.connect()
            child = Container(io, "sh", "-c", shell_lines(too_much))
            await eventually(lambda: "pipe" in child.waits_in, "the writer to be held", limit_s=20)
            assert await wakeups_at_rest() <= REST_WAKEUPS
            assert not child.exited
            assert await reader.read_all() == lines(too_much)
            assert await child.wait() == 0
            assert io.counters().stdout.dropped_bytes == 0
        reader.close()

    run_clean(scenario(), loop=loop)


@pytest.mark.parametrize("loop", LOOPS)
def test_policy_drop_oldest_never_holds_the_writer(tmp_path: Path, loop: LoopName) -> None:
    """The newest bytes are kept, the dropped ones counted."""
    (out,) = fifos(tmp_path, ["out"])
    policy = IoPolicy(stdio_policy=DROP_OLDEST, limit_bytes=40_000)
    count = 6000

    async def scenario() -> None:
        reader = FifoReader(out)
        async with opened(stdout=out, policy=policy) as io:
            await io.connect()
            assert await Container(io, "sh", "-c", shell_lines(count)).wait() == 0
            assert await wakeups_at_rest() <= REST_WAKEUPS
            received = await reader.read_all()
            counters = io.counters().stdout
            assert len(received) + counters.dropped_bytes == 80 * count
            assert counters.relayed_bytes == len(received)
            assert counters.dropped_bytes > 300_000
            # The oldest bytes are in the FIFO, the newest in the buffer; those between are dropped.
            assert received.startswith(lines(700))
            assert received[-40_000:] == lines(count)[-40_000:]
        reader.close()

    run_clean(scenario(), loop=loop)


# --- a sink that fails -------------------------------------------------------------------------


@pytest.mark.rule("io.pipes.9")
def test_sink_without_space_does_not_hold_the_writer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Retried, then dropped and counted, with one line in the log."""
    caplog.set_level(logging.WARNING)

    async def scenario() -> None:
        async with opened(stdout="/dev/full") as io:
            await io.connect()
            child = Container(io, "sh", "-c", "head -c 300000 /dev/zero; echo more")
            assert await child.wait() == 0
            await io.drain()
            counters = io.counters().stdout
            assert counters.dropped_bytes == 300_005
            assert counters.relayed_bytes == 0
            assert counters.errors >= 5

    run_clean(scenario())
    texts = [r.getMessage() for r in caplog.records]
    why = "[Errno 28] No space left on device"
    assert texts == [
        f"stdout: writing failed, output is dropped until a write succeeds: {why}",
        "stdout: 300005 bytes were not delivered",
    ]


@contextlib.contextmanager
def _file_size_limit(limit_bytes: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.rule("io.pipes.9")
def test_sink_that_recovers_in_time_loses_nothing(tmp_path: Path) -> None:
    """A log file that cannot be written for a second (here EFBIG)."""
    path = tmp_path / "log"
    path.touch()

    async def scenario() -> None:
        async with opened(stdout=str(path)) as io:
            await io.connect()
            with _file_size_limit(1000):
                child = Container(io, "sh", "-c", shell_lines(3000))
                await eventually(lambda: io.counters().stdout.errors >= 2, "a second failure")
            await child.wait()
            await io.drain()
            assert io.counters().stdout.dropped_bytes == 0

    run_clean(scenario())
    assert path.read_bytes() == lines(3000)


@pytest.mark.rule("io.pipes.9")
def test_sink_that_recovers_late_continues_from_there(tmp_path: Path) -> None:
    """Bytes that arrive while it fails are dropped and counted; later bytes are written."""
    path = tmp_path / "log"
    path.touch()

    async def scenario() -> None:
        async with opened(stdout=str(path)) as io:
            await io.connect()
            go = tmp_path / "go"
            pause = f"while ! test -e {go}; do sleep 0.02; done"
            child = Container(io, "sh", "-c", f"printf 12345678; {pause}; printf abcdefgh")
            with _file_size_limit(4):
                await eventually(lambda: io.counters().stdout.dropped_bytes, "the retries to end")
            go.touch()
            await child.wait()
            await io.drain()
            counters = io.counters().stdout
            assert (counters.relayed_bytes, counters.dropped_bytes) == (12, 4)

    run_clean(scenario())
    assert path.read_bytes() == b"1234abcdefgh"


# --- left at the end ---------------------------------------------------------------------------


@pytest.mark.rule("io.end.1")
def test_output_unread_at_the_end_waits_for_the_next_client(tmp_path: Path) -> None:
    """A process may end while its client restarts; the last bytes are not lost."""
    (out,) = fifos(tmp_path, ["out"])

    async def scenario() -> None:
        reader = FifoReader(out)
        async with opened(stdout=out) as io:
            await io.connect()
            reader.close()
            assert await Container(io, "echo", "last words").wait() == 0
            await io.drain()
            assert await wakeups_at_rest() <= REST_WAKEUPS
            FifoReader(out).close()  # a reader that does not read
            client = Container(ProcessIO(), "sh", "-c", f"cat {out} > {tmp_path}/copy")
            assert await client.wait() == 0  # it has read the end
        assert (tmp_path / "copy").read_bytes() == b"last words\n"

    run_clean(scenario())


def test_client_that_comes_after_the_end_reads_before_the_drain_is_over(tmp_path: Path) -> None:
    """dockerd opens the FIFO, calls Delete at once, and closes its end at the reply."""
    (out,) = fifos(tmp_path, ["out"])

    async def scenario() -> None:
        reader = FifoReader(out)
        async with opened(stdout=out, policy=IoPolicy(exit_output_s=60)) as io:
            await io.connect()
            reader.close()
            child = Container(io, "echo", "last words")
            assert await child.wait() == 0
            io.process_ended()
            await io.output_read()
            client = FifoReader(out)
            draining = asyncio.create_task(io.drain())
            for _ in range(100):  # turns of the loop
                await asyncio.sleep(0)
            assert not draining.done()
            assert await client.read_all() == b"last words\n"
            await draining
            client.close()

    run_clean(scenario())


def test_output_unread_at_the_end_is_dropped_at_close(tmp_path: Path) -> None:
    """Delete drops it."""
    (out,) = fifos(tmp_path, ["out"])

    async def scenario() -> None:
        reader = FifoReader(out)
        async with opened(stdout=out) as io:
            await io.connect()
            reader.close()
            assert await Container(io, "echo", "last words").wait() == 0
            await io.drain()
            assert on_fifo(out) == 1

    run_clean(scenario())


def test_output_unread_at_the_end_without_descriptors_ends_as_it_always_did(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """At the limit of descriptors the stream ends as in the reference, with a log line."""
    (out,) = fifos(tmp_path, ["out"])

    async def scenario() -> None:
        reader = FifoReader(out)
        async with opened(stdout=out) as io:
            await io.connect()
            os.write(io.fds[1], b"last words")
            await eventually(lambda: bytes_waiting(reader.number), "the bytes")
            reader.close()
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
            try:
                io.spawned()
                await io.drain()
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            assert on_fifo(out) == 0

    run_clean(scenario())
    texts = [r.getMessage() for r in caplog.records]
    assert texts == ["output without a reader is not kept: [Errno 24] Too many open files"]
