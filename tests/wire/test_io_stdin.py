"""Input from clients to a process: detach, attach again, CloseIO, and a process that has exited."""

import asyncio
import errno
import itertools
import os
from pathlib import Path

import pytest

from shimv2.io.stdio import ProcessIO
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


def writer(path: str) -> int:
    """Open a client's end; it fails if the shim has not opened the other one."""
    return os.open(path, os.O_WRONLY | os.O_NONBLOCK)


def writing_fails(number: int) -> bool:
    try:
        os.write(number, b"x")
    except BrokenPipeError:
        return True
    return False


@pytest.mark.rule("io.open.5", "io.closeio.1", "io.closeio.2", "io.closeio.4")
@pytest.mark.parametrize("loop", LOOPS)
def test_stdin_client_detaches_and_another_attaches(tmp_path: Path, loop: LoopName) -> None:
    """Only CloseIO and then the last writer end the input."""
    stdin, out, _ = fifos(tmp_path)

    async def scenario() -> None:
        reader = FifoReader(out)
        async with opened(stdin=stdin, stdout=out) as io:
            child = Container(io, "cat")
            await io.connect()
            first = writer(stdin)
            os.write(first, b"abc\n")
            os.close(first)
            assert await reader.read(4) == b"abc\n"
            assert await wakeups_at_rest() <= REST_WAKEUPS
            assert not child.exited  # detached: no end
            second = writer(stdin)
            os.write(second, b"def\n")
            io.close_stdin()
            assert await reader.read(4) == b"def\n"
            assert await wakeups_at_rest() <= REST_WAKEUPS
            assert not child.exited  # CloseIO, but a client's writer is open
            os.write(second, b"end\n")
            os.close(second)
            assert await reader.read_all() == b"end\n"
            assert await child.wait() == 0
            io.close_stdin()
            assert stdin not in open_fds().values()
        reader.close()

    run_clean(scenario(), loop=loop)


@pytest.mark.rule("io.pipes.8", "io.closeio.3")
def test_close_io_without_any_writer_ends_the_input(tmp_path: Path) -> None:
    """Stdin alone is enough (the reference hangs)."""
    (stdin,) = fifos(tmp_path, ["in"])

    async def scenario() -> None:
        async with opened(stdin=stdin) as io:
            child = Container(io, "cat")
            await io.connect()
            assert await wakeups_at_rest() <= REST_WAKEUPS
            assert not child.exited
            io.close_stdin()
            io.close_stdin()
            assert await child.wait() == 0
            io.close_stdin()

    run_clean(scenario())


@pytest.mark.rule("io.closeio.5")
def test_close_io_before_the_process_runs_is_delivered_once_it_does(tmp_path: Path) -> None:
    """CloseIO on a created init."""
    (stdin,) = fifos(tmp_path, ["in"])

    async def scenario() -> None:
        async with opened(stdin=stdin) as io:
            child = Container(io, "sh", "-c", "sleep 0.1; cat")
            await io.connect()
            io.close_stdin()
            assert await child.wait() == 0

    run_clean(scenario())


@pytest.mark.rule("io.closeio.6")
@pytest.mark.parametrize("client", [True, False])
def test_close_io_before_connect_is_remembered(tmp_path: Path, client: bool) -> None:
    """A CloseIO before the Start of an exec takes effect after it."""
    stdin, out, _ = fifos(tmp_path)

    async def scenario() -> None:
        reader = FifoReader(out)
        async with opened(stdin=stdin, stdout=out) as io:
            io.close_stdin()
            child = Container(io, "cat")
            if client:  # it blocks in open until the shim opens its end
                other = Container(ProcessIO(), "sh", "-c", f"echo hello > {stdin}")
                await eventually(lambda: "partner" in other.waits_in, "the client to be stuck")
            await io.connect()
            assert await reader.read_all() == (b"hello\n" if client else b"")
            assert await child.wait() == 0
            if client:
                assert await other.wait() == 0
        reader.close()

    run_clean(scenario())


@pytest.mark.rule("io.closeio.8")
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("script", ["exec <&-; sleep 60", "true"])
def test_stdin_closed_by_the_process_breaks_the_clients_pipe(
    tmp_path: Path, script: str, loop: LoopName
) -> None:
    """The process closes it or exits; a client must not block for ever."""
    (stdin,) = fifos(tmp_path, ["in"])

    async def scenario() -> None:
        async with opened(stdin=stdin) as io:
            Container(io, "sh", "-c", f"read go; {script}")
            await io.connect()
            client = writer(stdin)
            os.write(client, b"go\n")
            await eventually(lambda: writing_fails(client), "the client to see EPIPE")
            assert await wakeups_at_rest() <= REST_WAKEUPS
            os.close(client)
            with pytest.raises(OSError, match="No such device") as caught:
                writer(stdin)
            assert caught.value.errno == errno.ENXIO
            io.close_stdin()

    run_clean(scenario(), loop=loop)


@pytest.mark.rule("io.open.4")
def test_stdin_of_a_process_that_ended_before_connect_is_closed(tmp_path: Path) -> None:
    """A client that blocks in open is released, and then gets an error."""
    (stdin,) = fifos(tmp_path, ["in"])

    async def scenario() -> None:
        async with opened(stdin=stdin) as io:
            assert await Container(io, "true").wait() == 0
            client = Container(ProcessIO(), "sh", "-c", f"exec > {stdin}; sleep 0.1; echo x")
            await eventually(lambda: "partner" in client.waits_in, "the client to be stuck")
            await io.connect()
            assert await client.wait() != 0
            assert stdin not in open_fds().values()

    run_clean(scenario())


@pytest.mark.parametrize("loop", LOOPS)
def test_stdin_that_is_not_read_waits_without_waking(tmp_path: Path, loop: LoopName) -> None:
    """Pipe and FIFO are full: the client blocks and the shim is idle; then all of it arrives."""
    stdin, out, _ = fifos(tmp_path)
    data = os.urandom(300_000)
    (tmp_path / "data").write_bytes(data)

    async def scenario() -> None:
        reader = FifoReader(out)
        async with opened(stdin=stdin, stdout=out) as io:
            child = Container(io, "sh", "-c", "while ! test -e go; do sleep 0.02; done; exec cat")
            await io.connect()
            client = Container(ProcessIO(), "sh", "-c", f"cat {tmp_path}/data > {stdin}")
            await eventually(lambda: io.counters().stdin.relayed_bytes >= 65536, "a full pipe")
            assert await wakeups_at_rest() <= REST_WAKEUPS
            assert not client.exited
            Path("go").touch()
            io.close_stdin()
            assert await reader.read_all() == data
            assert await child.wait() == 0
            assert await client.wait() == 0
        reader.close()

    before = os.getcwd()
    os.chdir(tmp_path)
    try:
        run_clean(scenario(), loop=loop)
    finally:
        os.chdir(before)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("size_bytes", [0, 10, 3 << 20])
def test_stdin_from_a_regular_file_is_copied_to_its_end(
    tmp_path: Path, size_bytes: int, loop: LoopName
) -> None:
    """As in the reference any file is read; epoll cannot wait for a regular file."""
    (out,) = fifos(tmp_path, ["out"])
    data = os.urandom(size_bytes)
    (tmp_path / "data").write_bytes(data)

    async def scenario() -> None:
        reader = FifoReader(out)
        async with opened(stdin=str(tmp_path / "data"), stdout=out) as io:
            child = Container(io, "sh", "-c", "sleep 0.02; cat")
            await io.connect()
            assert await reader.read_all() == data
            assert await child.wait() == 0
        reader.close()

    run_clean(scenario(), loop=loop)


def test_stdin_from_dev_null_ends_at_once() -> None:
    """/dev/null is handled like any other file."""

    async def scenario() -> None:
        async with opened(stdin="/dev/null") as io:
            child = Container(io, "cat")
            await io.connect()
            assert await child.wait() == 0

    run_clean(scenario())


@pytest.mark.parametrize("order", list(itertools.permutations(["client", "close_io", "process"])))
def test_stdin_peers_closing_in_any_order_leave_nothing(
    tmp_path: Path, order: tuple[str, ...]
) -> None:
    """The peers close in each order; no descriptor is left, and no thread is woken."""
    (stdin,) = fifos(tmp_path, ["in"])

    async def scenario() -> None:
        async with opened(stdin=stdin) as io:
            child = Container(io, "sleep", "60")
            await io.connect()
            client = writer(stdin)
            os.write(client, b"x")
            for who in order:
                if who == "client":
                    os.close(client)
                elif who == "close_io":
                    io.close_stdin()
                else:
                    child.kill()
                await asyncio.sleep(0.005)  # some iterations of the loop between two steps
            assert await wakeups_at_rest(0.05) <= REST_WAKEUPS
            assert stdin not in open_fds().values()

    run_clean(scenario())
