"""A terminal's streams with a real pty: hang-ups, ends, sizes, and clients that disconnect and
return."""

import asyncio
import fcntl
import os
import signal
import struct
import termios
import time
from pathlib import Path

import pytest

from shimv2.io import pty as shim_console
from shimv2.values.settings import IoPolicy
from tests.support.consoles import Session, console, hand_over, open_console, slave
from tests.support.streams import (
    REST_WAKEUPS,
    FifoReader,
    eventually,
    fifos,
    run_clean,
    wakeups_at_rest,
)

OLD_KERNEL = pytest.mark.parametrize("old", [False, True], ids=["", "before 4.13"])


def write_to(name: str, data: bytes) -> None:
    """Open the terminal only for this write."""
    with slave(name) as tty:
        os.write(tty, data)


def filled(reader_of: str) -> FifoReader:
    """A connected client that does not read: its FIFO is full."""
    reader = FifoReader(reader_of)
    writer = os.open(reader_of, os.O_WRONLY | os.O_NONBLOCK)
    try:
        while True:
            os.write(writer, b"f" * 4096)
    except BlockingIOError:
        os.close(writer)
    return reader


@pytest.mark.rule("io.terminal.8")
@OLD_KERNEL
def test_terminal_that_no_process_has_open_has_not_ended(
    tmp_path: Path, old: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EIO means wait until the process has ended; the loop sleeps meanwhile."""
    if old:  # the slave cannot be opened
        monkeypatch.setattr(shim_console, "_TIOCGPTPEER", 0)
    (out,) = fifos(tmp_path, ["out"])

    async def scenario() -> None:
        reader = FifoReader(out)
        async with console(out) as (io, name):
            for word in (b"one\n", b"two\n"):
                write_to(name, word)
                assert await reader.read(5) == word.replace(b"\n", b"\r\n")
                if not old:  # without an open slave the shim polls ten times a second
                    assert await wakeups_at_rest() <= REST_WAKEUPS
            write_to(name, b"last\n")
            io.process_ended()
            assert await reader.read_all() == b"last\r\n"
            await io.drain()
        reader.close()

    run_clean(scenario())


@pytest.mark.rule("io.terminal.8")
@OLD_KERNEL
def test_terminal_that_its_session_hung_up_is_opened_again(
    tmp_path: Path, old: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of a session also hangs up the shim's own slave; the next session works."""
    if old:
        monkeypatch.setattr(shim_console, "_TIOCGPTPEER", 0)
    stdin, out = fifos(tmp_path, ["in", "out"])

    async def scenario() -> None:
        reader = FifoReader(out)
        async with console(out, stdin=stdin) as (io, name):
            for word in (b"one", b"two"):
                assert await Session(name, f"echo {word.decode()}").wait() == 0
                assert await reader.read(5) == word + b"\r\n"
            if not old:
                assert await wakeups_at_rest() <= REST_WAKEUPS
            io.process_ended()
            assert await reader.read_all() == b""
        reader.close()

    run_clean(scenario())


@pytest.mark.rule("io.terminal.10")
@OLD_KERNEL
def test_input_after_a_hangup_waits_even_if_no_client_reads_the_output(
    tmp_path: Path, old: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Input that arrives while no process has the terminal open is kept for the next reader."""
    if old:
        monkeypatch.setattr(shim_console, "_TIOCGPTPEER", 0)
    stdin, out = fifos(tmp_path, ["in", "out"])

    async def scenario() -> None:
        reader = filled(out)
        async with console(out, stdin=stdin) as (io, name):
            # The FIFO of its output is full, so the master is not read and the hang-up not noticed.
            assert await Session(name, "echo some output").wait() == 0
            typing = os.open(stdin, os.O_WRONLY | os.O_NONBLOCK)
            os.write(typing, b"typed\n")
            await eventually(lambda: waiting(typing) == 0, "the input to be taken")
            os.close(typing)
            with slave(name) as tty:
                await eventually(lambda: waiting(tty) == 6, "the input to come")
                assert os.read(tty, 100) == b"typed\n"
            assert io.counters().stdin.dropped_bytes == 0
        reader.close()

    run_clean(scenario())


def waiting(number: int) -> int:
    return int(struct.unpack("i", fcntl.ioctl(number, termios.FIONREAD, b"\0" * 4))[0])


@pytest.mark.rule("io.terminal.6")
def test_end_of_input_hangs_up_after_what_was_written(tmp_path: Path) -> None:
    """The container's processes get SIGHUP; their earlier output arrives."""
    stdin, out = fifos(tmp_path, ["in", "out"])

    async def scenario() -> None:
        reader = FifoReader(out)
        async with console(out, stdin=stdin) as (io, name):
            session = Session(name, "echo ready; exec sleep 1000")
            assert await reader.read(7) == b"ready\r\n"
            io.close_stdin()
            io.close_stdin()
            assert await session.wait() == -signal.SIGHUP
            assert await reader.read_all() == b""
            io.resize(80, 24)  # without effect
            io.process_ended()
            await io.drain()
        reader.close()

    run_clean(scenario())


def test_close_io_before_there_is_a_terminal_takes_effect_later(tmp_path: Path) -> None:
    """A CloseIO from before the terminal hangs it up once it exists."""
    stdin, out = fifos(tmp_path, ["in", "out"])

    async def scenario() -> None:
        reader = FifoReader(out)
        io = open_console(out, stdin=stdin)
        io.close_stdin()
        master, tty = os.openpty()
        hand_over(io.console_socket, [master])
        os.close(master)
        await io.connect()
        assert await reader.read_all() == b""
        with pytest.raises(OSError, match="Input/output"):
            os.write(tty, b"x")
        os.close(tty)
        await io.close()
        reader.close()

    run_clean(scenario())


@pytest.mark.rule("io.terminal.11")
def test_process_that_ended_is_not_waited_for_when_others_have_the_terminal(
    tmp_path: Path,
) -> None:
    """A background child keeps the slave open: the stream ends nevertheless, with all output, and
    the child gets SIGHUP."""
    (out,) = fifos(tmp_path, ["out"])
    patient = IoPolicy(drain_grace_s=60, drain_limit_s=60)  # more than the test takes

    async def scenario() -> None:
        reader = FifoReader(out)
        async with console(out, policy=patient) as (io, name):
            with slave(name) as background:
                os.write(background, b"x" * 3000)
                os.write(background, b"last\n")
                io.process_ended()
                await io.drain()
                assert await reader.read_all() == b"x" * 3000 + b"last\r\n"
                with pytest.raises(OSError, match="Input/output"):
                    os.write(background, b"nobody hears that\n")
        reader.close()

    run_clean(scenario())


@pytest.mark.rule("io.terminal.9")
def test_output_of_a_mebibyte_outlives_its_process_and_a_disconnected_client(
    tmp_path: Path,
) -> None:
    """Output in the terminal at the exit is read to its end, however slow the client is."""
    (out,) = fifos(tmp_path, ["out"])
    size = 1 << 20
    script = f"stty -opost; head -c {size} /dev/zero | tr '\\0' x"

    async def scenario() -> None:
        reader = FifoReader(out)
        async with console(out) as (io, name):
            session = Session(name, script)
            assert len(await reader.read(size // 2)) == size // 2
            reader.close()  # disconnected, and connected again
            assert await wakeups_at_rest() <= REST_WAKEUPS
            reader = FifoReader(out)
            half = await reader.read(size // 2 - 50_000)
            assert await session.wait() == 0
            io.process_ended()
            draining = asyncio.create_task(io.drain())
            half += await reader.read_all()
            await draining
            assert half == b"x" * (size // 2)
        reader.close()

    run_clean(scenario())


@pytest.mark.rule("io.terminal.12")
@pytest.mark.parametrize(
    ("asked", "got"),
    [
        ((80, 24), (80, 24)),
        ((0, 0), (0, 0)),
        ((65535, 65535), (65535, 65535)),
        ((70000, 65536), (4464, 0)),
        (((1 << 32) - 1, 1 << 31), (65535, 0)),
    ],
)
def test_size_is_cut_to_16_bits(
    tmp_path: Path, asked: tuple[int, int], got: tuple[int, int]
) -> None:
    """Width and height of the request have up to 32 bits."""
    (out,) = fifos(tmp_path, ["out"])

    async def scenario() -> None:
        reader = FifoReader(out)
        async with console(out) as (io, name):
            with slave(name) as tty:
                io.resize(*asked)
                size = fcntl.ioctl(tty, termios.TIOCGWINSZ, b"\0" * 8)
                rows, columns, _, _ = struct.unpack("HHHH", size)
                assert (columns, rows) == got
        reader.close()

    run_clean(scenario())


@pytest.mark.rule("io.end.4")
def test_output_that_no_client_reads_is_dropped_at_the_end(tmp_path: Path) -> None:
    """A client that does not return delays Delete for the time in the settings only."""
    (out,) = fifos(tmp_path, ["out"])
    policy = IoPolicy(drain_limit_s=0.2, drain_grace_s=0.05)

    async def scenario() -> None:
        reader = filled(out)
        async with console(out, policy=policy) as (io, name):
            write_to(name, b"unread")
            io.process_ended()
            before = time.monotonic()
            await io.drain()
            assert time.monotonic() - before >= 0.15
            await io.close()
            assert io.counters().stdout.dropped_bytes == 6
        reader.close()

    run_clean(scenario())
