"""Input that ends after its last client disconnected without CloseIO, because of an annotation."""

import asyncio
import os
from pathlib import Path

import pytest

from shimv2.shimctl.testbed.until import stays
from shimv2.values.settings import IoPolicy
from tests.support.aio import LOOPS, LoopName
from tests.support.streams import (
    REST_WAKEUPS,
    Container,
    FifoReader,
    eventually,
    fifos,
    open_fds,
    opened,
    run_clean,
    wakeups_at_rest,
)

SHORT_S = 0.3
LONG_S = 60.0


def policy(hangup_s: float) -> IoPolicy:
    return IoPolicy(stdin_hangup_s=hangup_s)


def writer(path: str) -> int:
    return os.open(path, os.O_WRONLY | os.O_NONBLOCK)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("hangup_s", [0.0, SHORT_S])
def test_input_ends_when_its_last_client_has_been_gone_for_the_time(
    tmp_path: Path, hangup_s: float, loop: LoopName
) -> None:
    """All earlier input arrives first; the last of two clients counts."""
    stdin, out, _ = fifos(tmp_path)

    async def scenario() -> None:
        reader = FifoReader(out)
        async with opened(stdin=stdin, stdout=out, policy=policy(hangup_s)) as io:
            child = Container(io, "cat")
            await io.connect()
            first, second = writer(stdin), writer(stdin)
            os.write(first, b"one\n")
            os.close(first)
            assert await wakeups_at_rest() <= REST_WAKEUPS
            assert not child.exited
            os.write(second, b"two\n")
            left_at = asyncio.get_running_loop().time()
            os.close(second)
            assert await reader.read_all() == b"one\ntwo\n"
            assert asyncio.get_running_loop().time() - left_at >= hangup_s
            assert await child.wait() == 0
            assert stdin not in open_fds().values()
        reader.close()

    run_clean(scenario(), loop=loop)


@pytest.mark.parametrize("loop", LOOPS)
def test_nothing_wakes_while_the_time_runs(tmp_path: Path, loop: LoopName) -> None:
    """A FIFO without writers is always readable: the loop must not watch it."""
    (stdin,) = fifos(tmp_path, ["in"])

    async def scenario() -> None:
        async with opened(stdin=stdin, policy=policy(LONG_S)) as io:
            child = Container(io, "cat")
            await io.connect()
            assert await wakeups_at_rest() <= REST_WAKEUPS  # before there was a client
            os.close(writer(stdin))
            assert await wakeups_at_rest() <= REST_WAKEUPS
            assert not child.exited
            child.kill()

    run_clean(scenario(), loop=loop)


def test_input_that_no_client_has_opened_does_not_end(tmp_path: Path) -> None:
    """The time counts from the disconnect of a client, not from the start."""
    stdin, out, _ = fifos(tmp_path)

    async def scenario() -> None:
        reader = FifoReader(out)
        async with opened(stdin=stdin, stdout=out, policy=policy(0.05)) as io:
            child = Container(io, "cat")
            await io.connect()
            await stays(lambda: not child.exited, "it runs", for_s=0.2)
            client = writer(stdin)
            os.write(client, b"late\n")
            os.close(client)
            assert await reader.read_all() == b"late\n"
            assert await child.wait() == 0
        reader.close()

    run_clean(scenario())


@pytest.mark.parametrize("size_bytes", [1, 50_000])
def test_client_that_writes_within_the_time_starts_it_again(
    tmp_path: Path, size_bytes: int
) -> None:
    """For bytes that are copied and bytes that are spliced, and for a client that stays or
    disconnects."""
    stdin, out, _ = fifos(tmp_path)
    data = os.urandom(size_bytes)

    async def scenario() -> None:
        reader = FifoReader(out)
        async with opened(stdin=stdin, stdout=out, policy=policy(SHORT_S)) as io:
            child = Container(io, "cat")
            await io.connect()
            os.close(writer(stdin))
            await asyncio.sleep(SHORT_S * 0.7)  # within the time
            second = writer(stdin)
            os.write(second, data)
            os.close(second)
            assert await reader.read(size_bytes) == data
            await stays(lambda: not child.exited, "it runs", for_s=SHORT_S * 0.6)
            third = writer(stdin)
            os.write(third, data)
            # The time has passed, but the client is connected.
            await stays(lambda: not child.exited, "it runs", for_s=SHORT_S * 2)
            os.close(third)
            assert await reader.read_all() == data
            assert await child.wait() == 0
        reader.close()

    run_clean(scenario())


@pytest.mark.parametrize("clients", ["none yet", "gone", "there"])
def test_close_io_ends_the_input_without_waiting(tmp_path: Path, clients: str) -> None:
    """As always, CloseIO ends the input once no client is left."""
    stdin, out, _ = fifos(tmp_path)

    async def scenario() -> None:
        reader = FifoReader(out)
        async with opened(stdin=stdin, stdout=out, policy=policy(LONG_S)) as io:
            child = Container(io, "cat")
            await io.connect()
            client = -1
            if clients != "none yet":
                client = writer(stdin)
                os.write(client, b"x")
                assert await reader.read(1) == b"x"
            if clients == "gone":
                os.close(client)
                await asyncio.sleep(0.02)  # some turns of the loop
            io.close_stdin()
            io.close_stdin()
            if clients == "there":
                assert await wakeups_at_rest() <= REST_WAKEUPS
                assert not child.exited
                os.close(client)
            assert await reader.read_all() == b""
            assert await child.wait() == 0
        reader.close()

    run_clean(scenario())


def test_close_io_before_connect_ends_the_input(tmp_path: Path) -> None:
    """CloseIO takes effect once there is an input."""
    (stdin,) = fifos(tmp_path, ["in"])

    async def scenario() -> None:
        async with opened(stdin=stdin, policy=policy(LONG_S)) as io:
            io.close_stdin()
            child = Container(io, "cat")
            await io.connect()
            assert await child.wait() == 0

    run_clean(scenario())


def test_process_that_ends_within_the_time_leaves_no_timer(tmp_path: Path) -> None:
    """Neither a descriptor nor a callback for closed files remains."""
    (stdin,) = fifos(tmp_path, ["in"])

    async def scenario() -> None:
        async with opened(stdin=stdin, policy=policy(0.1)) as io:
            child = Container(io, "sleep", "60")
            await io.connect()
            os.close(writer(stdin))
            await asyncio.sleep(0.02)  # the timer runs
            child.kill()
            await eventually(lambda: stdin not in open_fds().values(), "the FIFO to be closed")
            await asyncio.sleep(0.15)  # until after its time

    run_clean(scenario())


def test_full_pipe_is_delivered_before_the_end(tmp_path: Path) -> None:
    """A process that reads late gets all bytes of a client that disconnected long before."""
    stdin, out, _ = fifos(tmp_path)
    data = os.urandom(100_000)

    async def scenario() -> None:
        reader = FifoReader(out)
        async with opened(stdin=stdin, stdout=out, policy=policy(0.05)) as io:
            child = Container(io, "sh", "-c", "sleep 0.4; exec cat")
            await io.connect()
            client = writer(stdin)
            written = 0
            while written < len(data):
                try:
                    written += os.write(client, data[written:])
                except BlockingIOError:
                    await asyncio.sleep(0.001)  # until there is room again
            os.close(client)
            assert await reader.read_all() == data
            assert await child.wait() == 0
        reader.close()

    run_clean(scenario())


def test_regular_file_ends_at_its_end(tmp_path: Path) -> None:
    """There is no client that could leave."""
    (out,) = fifos(tmp_path, ["out"])
    (tmp_path / "data").write_bytes(b"data")

    async def scenario() -> None:
        reader = FifoReader(out)
        name = str(tmp_path / "data")
        async with opened(stdin=name, stdout=out, policy=policy(LONG_S)) as io:
            child = Container(io, "cat")
            await io.connect()
            assert await reader.read_all() == b"data"
            assert await child.wait() == 0
        reader.close()

    run_clean(scenario())
