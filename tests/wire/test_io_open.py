"""Opening FIFOs whose other end is missing, late or stuck, and names that cannot be opened."""

import asyncio
import os
import resource
import stat
from pathlib import Path

import pytest

from shimv2.io.fifo import Pinned
from shimv2.io.stdio import NoReader, open_io
from shimv2.shimctl.testbed.until import stays
from shimv2.values.errors import Refused
from shimv2.values.model import Stdio
from shimv2.values.settings import IoPolicy
from tests.support.aio import LOOPS, LoopName
from tests.support.streams import (
    Container,
    FifoReader,
    eventually,
    fifos,
    nothing_leaked,
    open_fds,
    opened,
    run_clean,
)

PREFIX = "failed to start io pipe copy: unable to copy pipes: containerd-shim: "
SHORT = IoPolicy(open_limit_s=0.1)


# --- readers -----------------------------------------------------------------------------------


@pytest.mark.rule("io.open.2")
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("missing", ["out", "err"])
def test_connect_without_reader_times_out(tmp_path: Path, missing: str, loop: LoopName) -> None:
    """Create fails with code 4 and names the FIFO without a reader."""
    paths = dict(zip(("in", "out", "err"), fifos(tmp_path), strict=True))

    async def scenario() -> None:
        reader = FifoReader(paths["err" if missing == "out" else "out"])
        async with opened(
            stdin=paths["in"], stdout=paths["out"], stderr=paths["err"], policy=SHORT
        ) as io:
            before = open_fds()
            with pytest.raises(NoReader) as caught:
                await io.connect()
            assert open_fds() == before
        reader.close()
        path = paths[missing]
        assert isinstance(caught.value, TimeoutError)
        assert str(caught.value) == (
            f'{PREFIX}opening w/o fifo "{path}" failed: context deadline exceeded'
        )

    run_clean(scenario(), loop=loop)


@pytest.mark.rule("io.open.2")
def test_connect_callers_limit_counts_when_it_is_shorter(tmp_path: Path) -> None:
    """30 s or the call's deadline, whichever is earlier."""
    (out,) = fifos(tmp_path, ["out"])

    async def scenario() -> float:
        async with opened(stdout=out) as io:
            start = asyncio.get_running_loop().time()
            with pytest.raises(NoReader):
                await io.connect(timeout_s=0.05)
            return asyncio.get_running_loop().time() - start

    assert 0.05 <= run_clean(scenario()) < 2


@pytest.mark.rule("io.open.2")
@pytest.mark.parametrize("loop", LOOPS)
def test_connect_waits_for_a_late_reader(tmp_path: Path, loop: LoopName) -> None:
    """Create waits until both outputs have a reader."""
    _, out, err = fifos(tmp_path)

    async def scenario() -> None:
        async with opened(stdout=out, stderr=err) as io:
            connecting = asyncio.ensure_future(io.connect())
            await stays(lambda: not connecting.done(), "Connect waits", for_s=0.02)
            first = FifoReader(out)
            await stays(lambda: not connecting.done(), "Connect waits", for_s=0.15)
            second = FifoReader(err)
            await connecting
            first.close()
            second.close()

    run_clean(scenario(), loop=loop)


@pytest.mark.rule("io.open.4")
def test_connect_reader_that_is_itself_stuck_in_open_counts(tmp_path: Path) -> None:
    """A client with a blocking open waits for our end while we wait for its end."""
    (out,) = fifos(tmp_path, ["out"])

    async def scenario() -> None:
        async with opened(stdout=out) as io, opened(stdout=str(tmp_path / "copy")) as other:
            (tmp_path / "copy").touch()
            connecting = asyncio.ensure_future(io.connect())
            await stays(lambda: not connecting.done(), "Connect waits", for_s=0.02)
            client = Container(other, "cat", out)
            await connecting
            await other.connect()
            assert await Container(io, "echo", "hello").wait() == 0
            assert await client.wait() == 0
            await other.drain()
        assert (tmp_path / "copy").read_text() == "hello\n"

    run_clean(scenario())


def test_connect_reader_that_came_and_left_is_not_waited_for(tmp_path: Path) -> None:
    """If a reader disconnects after the open, the stream stays usable."""
    (out,) = fifos(tmp_path, ["out"])

    async def scenario() -> None:
        async with opened(stdout=out) as io:
            FifoReader(out).close()
            reader = FifoReader(out)
            await io.connect()
            reader.close()
            child = Container(io, "sh", "-c", "echo hello; sleep 0.1; echo again")
            await eventually(lambda: io.counters().stdout.relayed_bytes, "the first line")
            reader = FifoReader(out)
            assert await reader.read_all() == b"hello\nagain\n"
            await child.wait()
            reader.close()

    run_clean(scenario())


@pytest.mark.rule("io.open.4")
def test_connect_cancelled_leaves_nothing_open(tmp_path: Path) -> None:
    """After a lost connection the opens are cancelled, and no thread or fd is left behind."""
    _, out, err = fifos(tmp_path)

    async def scenario() -> None:
        reader = FifoReader(out)
        async with opened(stdin=str(tmp_path / "in"), stdout=out, stderr=err) as io:
            before = open_fds()
            connecting = asyncio.ensure_future(io.connect())
            await eventually(lambda: open_fds() != before, "stdout to be opened")
            connecting.cancel()
            await asyncio.wait([connecting])
            assert connecting.cancelled()
            assert open_fds() == before
        reader.close()

    run_clean(scenario())


def test_connect_closed_while_it_waits_fails_and_leaves_nothing(tmp_path: Path) -> None:
    """The streams may be closed during the wait."""
    (out,) = fifos(tmp_path, ["out"])

    async def scenario() -> None:
        async with opened(stdout=out) as io:
            connecting = asyncio.ensure_future(io.connect())
            await stays(lambda: not connecting.done(), "Connect waits", for_s=0.02)
            await io.close()
            reader = FifoReader(out)
            with pytest.raises(Refused):
                await connecting
            reader.close()

    run_clean(scenario())


# --- names -------------------------------------------------------------------------------------


def _connect_error(stdio: Stdio) -> str:
    async def scenario() -> str:
        io = open_io(stdio, uid=os.geteuid(), gid=os.getegid(), policy=SHORT)
        with pytest.raises(Refused) as caught:
            await io.connect()
        await io.close()
        return str(caught.value)

    return run_clean(scenario())


def test_connect_missing_file_is_reported(tmp_path: Path) -> None:
    """A missing path is treated as a file, which is not created."""
    path = f"{tmp_path}/nofile"

    text = _connect_error(Stdio(stdout=path))

    assert text == f'{PREFIX}opening file "{path}" failed: open {path}: no such file or directory'
    assert not os.path.exists(path)


@pytest.mark.rule("io.pipes.6")
def test_connect_directory_is_reported() -> None:
    """A path that is missing, or a folder, fails the call."""
    text = _connect_error(Stdio(stdout="/"))

    assert text == f'{PREFIX}opening file "/" failed: open /: is a directory'


@pytest.mark.parametrize(
    ("path", "why"), [("/dev/null/x", "not a directory"), ("a\0b", "invalid argument")]
)
def test_connect_name_that_cannot_be_resolved_is_reported(path: str, why: str) -> None:
    """The error text of stat in the reference; a NUL byte must not cause a crash."""
    text = _connect_error(Stdio(stderr=path))

    assert text == f"failed to start io pipe copy: unable to copy pipes: stat {path}: {why}"


@pytest.mark.rule("io.open.9")
def test_connect_missing_stdin_is_reported(tmp_path: Path) -> None:
    """Stdin is opened first, with a text of its own."""
    path = f"{tmp_path}/in"

    text = _connect_error(Stdio(stdin=path))

    assert text == f"failed to open stdin fifo {path}: stat {path}: no such file or directory"


def test_connect_without_descriptors_left_is_reported(tmp_path: Path) -> None:
    """EMFILE at the second end of a FIFO is an error, and the first end is closed again."""
    (out,) = fifos(tmp_path, ["out"])

    async def scenario() -> str:
        reader = FifoReader(out)
        async with opened(stdout=out) as io:
            io.spawned()
            before = open_fds()
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            probe = [os.dup(reader.number) for _ in range(3)]  # handle, writer, reader
            top = max(probe)
            for number in probe:
                os.close(number)
            resource.setrlimit(resource.RLIMIT_NOFILE, (top, hard))
            try:
                with pytest.raises(Refused) as caught:
                    await io.connect()
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            assert open_fds() == before
        reader.close()
        return str(caught.value)

    text = run_clean(scenario())

    assert text == f'{PREFIX}opening r/o fifo "{out}" failed: open {out}: too many open files'


@pytest.mark.rule("io.open.1")
def test_pinned_file_is_opened_even_if_its_name_is_replaced(tmp_path: Path) -> None:
    """Rename, unlink or replace between stat and open is harmless."""
    (out,) = fifos(tmp_path, ["out"])
    with nothing_leaked(), Pinned(out) as pinned:
        assert pinned.is_fifo()
        os.unlink(out)
        Path(out).write_text("something else")
        fd = pinned.open(os.O_RDONLY)

        assert stat.S_ISFIFO(os.fstat(fd.number).st_mode)
        fd.close()
        fd.close()  # a second close is harmless


@pytest.mark.rule("io.select.3")
def test_fifo_scheme_is_removed_from_all_names(tmp_path: Path) -> None:
    """The reference fails to open `fifo://…`."""
    paths = fifos(tmp_path)

    async def scenario() -> None:
        reader, errors = FifoReader(paths[1]), FifoReader(paths[2])
        names = [f"fifo://{path}" for path in paths]
        async with opened(stdin=names[0], stdout=names[1], stderr=names[2]) as io:
            await io.connect()
            io.close_stdin()
            assert await Container(io, "sh", "-c", "cat; echo o; echo e >&2").wait() == 0
            assert await reader.read_all() == b"o\n"
            assert await errors.read_all() == b"e\n"
        reader.close()
        errors.close()

    run_clean(scenario())
