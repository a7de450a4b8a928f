"""Names that are no FIFO: files, devices, and URIs that create a file."""

import asyncio
import os
import stat
from pathlib import Path

import pytest

from shimv2.io.stdio import open_io
from shimv2.kernel.linux import bytes_waiting
from shimv2.values.errors import Refused
from shimv2.values.model import Stdio
from shimv2.values.settings import IoPolicy
from tests.support.streams import (
    REST_WAKEUPS,
    Container,
    FifoReader,
    eventually,
    fifos,
    nothing_leaked,
    open_fds,
    opened,
    run_clean,
    wakeups_at_rest,
)


async def _write_both(stdout: str, stderr: str) -> None:
    async with opened(stdout=stdout, stderr=stderr) as io:
        await io.connect()
        assert await Container(io, "sh", "-c", "echo o; echo e >&2").wait() == 0
        await io.drain()


@pytest.mark.rule("io.pipes.5")
def test_plain_file_is_appended_to_and_shared(tmp_path: Path) -> None:
    """If stdout and stderr are equal, one fd is used for both, and closed after both."""
    path = tmp_path / "log"
    path.write_text("pre\n")

    run_clean(_write_both(str(path), str(path)))

    assert sorted(path.read_text().splitlines()) == ["e", "o", "pre"]
    assert path.read_text().startswith("pre\n")


@pytest.mark.rule("io.pipes.5")
def test_plain_file_shared_stays_open_until_both_streams_end(tmp_path: Path) -> None:
    """The stream that ends first must not close the other one's file."""
    path = tmp_path / "log"
    path.touch()

    async def scenario() -> None:
        async with opened(stdout=str(path), stderr=str(path)) as io:
            await io.connect()
            assert list(open_fds().values()).count(str(path)) == 1
            ended = io.counters()
            child = Container(io, "sh", "-c", "exec >&-; sleep 0.1; echo e >&2")
            await child.wait()
            await io.drain()
            assert ended.stderr.relayed_bytes == 2
            assert list(open_fds().values()).count(str(path)) == 0

    run_clean(scenario())
    assert path.read_text() == "e\n"


def test_stderr_to_dev_null_beside_a_fifo(tmp_path: Path) -> None:
    """epoll cannot wait for /dev/null; this is not needed."""
    (out,) = fifos(tmp_path, ["out"])

    async def scenario() -> None:
        reader = FifoReader(out)
        async with opened(stdout=out, stderr="/dev/null") as io:
            await io.connect()
            assert await Container(io, "sh", "-c", "echo o; echo e >&2").wait() == 0
            assert await reader.read_all() == b"o\n"
            await io.drain()
            assert io.counters().stderr.relayed_bytes == 2
        reader.close()

    run_clean(scenario())


@pytest.mark.rule("io.file.1", "io.file.2")
@pytest.mark.parametrize("stderr", ["", "/no/such/place"])
def test_file_uri_is_used_for_both_streams(tmp_path: Path, stderr: str) -> None:
    """The file is created with its folders and appended to; stderr's name is ignored."""
    path = tmp_path / "a" / "b" / "log"
    before = os.umask(0)
    try:
        run_clean(_write_both(f"file://{path}", stderr))
    finally:
        os.umask(before)

    assert sorted(path.read_text().splitlines()) == ["e", "o"]
    modes = [stat.S_IMODE(p.stat().st_mode) for p in (path, path.parent, path.parent.parent)]
    assert modes == [0o644, 0o755, 0o755]


@pytest.mark.rule("io.file.2")
def test_file_uri_existing_file_is_appended_to(tmp_path: Path) -> None:
    """It is opened with O_APPEND and never truncated."""
    path = tmp_path / "log"
    path.write_text("pre\n")

    run_clean(_write_both(f"file://{path}", ""))

    assert path.read_text().startswith("pre\n")
    assert len(path.read_text()) == 8


def test_file_uri_of_a_fifo_is_used_as_one(tmp_path: Path) -> None:
    """As in the reference the type of the file decides; our open does not block."""
    (out,) = fifos(tmp_path, ["out"])

    async def scenario() -> None:
        async with opened(stdout=f"file://{out}") as io:
            reader = FifoReader(out)
            await io.connect()
            assert await Container(io, "sh", "-c", "echo o; echo e >&2").wait() == 0
            assert sorted((await reader.read_all()).splitlines()) == [b"e", b"o"]
            reader.close()

    run_clean(scenario())


@pytest.mark.rule("io.file.4")
@pytest.mark.parametrize(
    ("uri", "text"),
    [
        ("file:///dev/null/a/b", "mkdir /dev/null: not a directory"),
        ("file:///dev", "open /dev: is a directory"),
        ("file:name", "open : no such file or directory"),
        ("file:///a%00b", "open /a\0b: invalid argument"),
    ],
)
def test_file_uri_that_cannot_be_opened_is_refused(uri: str, text: str) -> None:
    """Create reports it, before anything runs."""
    with nothing_leaked(), pytest.raises(Refused) as caught:
        open_io(Stdio(stdout=uri), uid=0, gid=0, policy=IoPolicy())

    assert str(caught.value) == text


def test_file_io_closed_before_it_is_connected_leaves_nothing(tmp_path: Path) -> None:
    """This happens if Create fails in the runtime."""

    async def scenario() -> None:
        async with opened(stdin="/x", stdout=f"file://{tmp_path}/log"):
            pass

    run_clean(scenario())


def test_terminal_named_as_output_is_a_file_that_may_be_full() -> None:
    """A tty accepts what fits, never blocks the loop, and never becomes the shim's controlling
    terminal."""
    master, slave = os.openpty()
    data = b"x" * 99 + b"\n"

    async def scenario() -> None:
        async with opened(stdout=os.ttyname(slave)) as io:
            await io.connect()
            child = Container(io, "sh", "-c", "yes " + "x" * 99 + " | head -n 500")
            await eventually(lambda: io.counters().stdout.relayed_bytes > 1000, "the tty to fill")
            assert await wakeups_at_rest() <= REST_WAKEUPS
            received = b""
            while len(received) < 500 * (len(data) + 1):  # the line discipline adds a \r
                received += os.read(master, 65536) if bytes_waiting(master) else b""
                await asyncio.sleep(0.001)  # between two checks
            assert received == data.replace(b"\n", b"\r\n") * 500
            assert await child.wait() == 0

    run_clean(scenario())
    os.close(master)
    os.close(slave)
