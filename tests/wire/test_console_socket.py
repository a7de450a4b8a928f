"""The console socket: its messages and its path."""

import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from shimv2.io.fifo import Fd
from shimv2.io.pty import ConsoleSocket
from shimv2.values.errors import Refused
from tests.support.consoles import NAME, console, hand_over, open_console, slave
from tests.support.streams import FifoReader, fifos, run_clean

FAILED = "failed to retrieve console master: "


@pytest.fixture(autouse=True)
def place(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for temporary files; files that remain in it are leaks."""
    folder = Path(tempfile.mkdtemp(prefix="c", dir="/tmp"))
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    return folder


@pytest.fixture(autouse=True)
def _nothing_stays(place: Path) -> Iterator[None]:
    yield
    left = list(place.rglob("*"))
    for path in reversed(left):
        path.rmdir() if path.is_dir() else path.unlink()
    place.rmdir()
    assert left == []


@pytest.mark.rule("io.terminal.2")
def test_terminal_is_received_and_its_folder_removed(tmp_path: Path, place: Path) -> None:
    """The socket is removed as soon as the master has arrived, not with the process."""
    (out,) = fifos(tmp_path, ["out"])

    async def scenario() -> None:
        reader = FifoReader(out)
        async with console(out) as (io, name):
            assert list(place.iterdir()) == []
            with slave(name) as tty:
                os.write(tty, b"hello\n")
            assert await reader.read(7) == b"hello\r\n"
            io.process_ended()
            assert await reader.read_all() == b""
        reader.close()

    run_clean(scenario())


@pytest.mark.rule("io.terminal.3", "io.terminal.4")
@pytest.mark.parametrize(
    ("masters", "pipes", "name", "error"),
    [
        (0, 0, NAME, "recvfd: number of fds is not 1: 0"),
        (2, 0, NAME, "recvfd: number of fds is not 1: 2"),
        (12, 0, NAME, "recvfd: number of fds is not 1: 8"),
        (0, 1, NAME, "provided file is not a console"),
        (1, 1, NAME, "recvfd: number of fds is not 1: 2"),
        (1, 0, b"x" * 4096, "recvfd: the name has more than 4095 bytes"),
        (0, 0, b"", "recvfd: number of fds is not 1: 0"),
    ],
)
def test_message_that_is_no_terminal_is_refused_and_all_its_fds_are_closed(
    tmp_path: Path, masters: int, pipes: int, name: bytes, error: str
) -> None:
    """Only one message with one fd of a terminal is accepted; the folder is removed in any case."""
    (out,) = fifos(tmp_path, ["out"])

    async def scenario() -> None:
        io = open_console(out)
        ptys = [os.openpty() for _ in range(max(masters, 1))]
        ends = [os.pipe() for _ in range(pipes)]
        sent = [master for master, _ in ptys[:masters]] + [reader for reader, _ in ends]
        hand_over(io.console_socket, sent, name=name)
        for pair in ptys + ends:
            for number in pair:
                os.close(number)
        with pytest.raises(Refused) as refused:
            await io.connect()
        assert str(refused.value) == FAILED + error
        await io.close()

    run_clean(scenario())


@pytest.mark.rule("io.terminal.3")
def test_name_of_the_longest_length_is_accepted(tmp_path: Path) -> None:
    """Up to 4095 bytes."""

    async def scenario() -> None:
        listening = ConsoleSocket()
        master, slave = os.openpty()
        hand_over(listening.path, [master], name=b"x" * 4095)
        fd: Fd = await listening.receive()
        assert os.isatty(fd.number)
        assert not os.get_blocking(fd.number)
        fd.close()
        listening.close()
        os.close(master)
        os.close(slave)

    run_clean(scenario())


def test_runtime_that_sends_nothing_is_not_waited_for_long() -> None:
    """A runtime sends the master before it exits; one that does not is reported as faulty."""

    async def scenario() -> None:
        listening = ConsoleSocket()
        with pytest.raises(TimeoutError, match="the runtime did not send it"):
            await listening.receive(limit_s=0.05)
        listening.close()
        listening.close()

    run_clean(scenario())


@pytest.mark.rule("io.terminal.1")
def test_runtime_folder_of_the_user_is_used_with_a_sticky_socket(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In XDG_RUNTIME_DIR, where clean-up tools ignore files with the sticky bit."""
    own = place / "xdg"
    own.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(own))

    listening = ConsoleSocket()
    folder = Path(listening.path).parent
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (folder, Path(listening.path))]
    listening.close()

    assert folder.parent == own
    assert folder.name.startswith("pty")
    assert modes == [0o700, 0o1755]
    own.rmdir()


@pytest.mark.rule("io.terminal.1")
def test_folder_whose_path_is_too_long_for_a_socket_is_skipped(
    tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A socket's path has at most 107 bytes: the longest path that fits is used, a longer one is
    not."""
    fits = tmp_path / ("x" * (107 - len(f"{tmp_path}//ptyxxxxxxxx/pty.sock")))
    long = tmp_path / f"{fits.name}x"
    for folder, parent in ((fits, fits), (long, place)):
        folder.mkdir()
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
        listening = ConsoleSocket()
        assert Path(listening.path).parent.parent == parent
        listening.close()
        assert list(folder.iterdir()) == []
    monkeypatch.setenv("TMPDIR", str(long))
    listening = ConsoleSocket()
    assert listening.path.startswith("/tmp/pty")
    listening.close()
    assert not os.path.exists(os.path.dirname(listening.path))


def test_folder_that_is_missing_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in the reference: the folder of the environment, or an error."""
    missing = tmp_path / "no"
    short = Path("/tmp/nosuchfolder")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short))
    with pytest.raises(Refused, match="failed to create OCI runtime console socket: "):
        open_console(str(missing))


@pytest.mark.rule("io.terminal.2")
def test_streams_that_are_never_connected_leave_nothing(tmp_path: Path) -> None:
    """The runtime failed: no socket, no folder."""

    async def scenario() -> None:
        io = open_console(str(tmp_path / "out"))
        assert os.path.exists(io.console_socket)
        io.resize(80, 24)
        io.close_stdin()
        await io.close()
        assert not os.path.exists(os.path.dirname(io.console_socket))

    run_clean(scenario())
