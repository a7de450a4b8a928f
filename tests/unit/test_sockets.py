"""The socket's name in the file system: bind, join, remove."""

import fcntl
import os
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from shimv2.actions import sockets
from shimv2.actions.sockets import BoundSocket, bind_or_join, listener_of_server, unlink_if_dead
from shimv2.values.errors import Refused
from tests.support.boot import dead_socket, listening


@pytest.fixture
def folder() -> Iterator[Path]:
    path = tempfile.mkdtemp(prefix="b", dir="/tmp")  # pytest's own is too long for a socket
    yield Path(path)
    shutil.rmtree(path)


@pytest.fixture
def short_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "LOCK_LIMIT_S", 0.05)
    monkeypatch.setattr(sockets, "UNLINK_LOCK_LIMIT_S", 0.05)


def bound(path: Path) -> BoundSocket:
    """Bind `path` and close the socket: the file remains."""
    made = bind_or_join(str(path))
    assert made is not None
    made[0].close()
    return made[1]


def connects(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        return sock.connect_ex(str(path)) == 0


# --- binding ------------------------------------------------------------------------------------


@pytest.mark.rule("cli.socket.3")
@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777])
def test_modes_do_not_depend_on_the_umask(folder: Path, umask: int) -> None:
    """New folders 0700, the socket 0600, also under umask 0 and 0777."""
    path = folder / "run" / "s" / "sock"
    before = os.umask(umask)
    try:
        bound(path)
    finally:
        os.umask(before)

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [stat.S_IMODE(p.stat().st_mode) for p in path.parents[:2]] == [0o700, 0o700]


def test_existing_folder_keeps_its_mode(folder: Path) -> None:
    """CVE-2021-41103: the mode of a folder that the daemon made is not changed."""
    folder.chmod(0o711)

    bound(folder / "sock")

    assert stat.S_IMODE(folder.stat().st_mode) == 0o711


@pytest.mark.rule("cli.reply.7")
def test_bound_socket_accepts_connections_at_once(folder: Path) -> None:
    """Connectable before a server accepts; not inherited by children."""
    made = bind_or_join(str(folder / "sock"))
    assert made is not None

    with made[0] as listener:
        assert connects(folder / "sock")
        assert not listener.get_inheritable()


@pytest.mark.rule("cli.socket.6")
def test_taken_name_is_joined(folder: Path) -> None:
    """A socket with a listening server is not replaced."""
    path = folder / "sock"
    with listening(str(path)):
        inode = path.stat().st_ino

        assert bind_or_join(str(path)) is None
        assert path.stat().st_ino == inode


def test_full_backlog_counts_as_alive(folder: Path) -> None:
    """A shim that accepts slowly must not lose its socket, and so its containers."""
    path = str(folder / "sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as busy:
        busy.bind(path)
        busy.listen(0)
        with socket.socket(socket.AF_UNIX) as first, socket.socket(socket.AF_UNIX) as second:
            for client in (first, second):
                client.setblocking(False)
                client.connect_ex(path)

            assert bind_or_join(path) is None
            unlink_if_dead(path)
            assert os.path.exists(path)


@pytest.mark.rule("cli.socket.6")
def test_stale_name_is_replaced(folder: Path) -> None:
    """EADDRINUSE and a refused connection: unlinked and bound again."""
    path = folder / "sock"
    dead_socket(str(path))

    made = bind_or_join(str(path))

    assert made is not None
    with made[0]:
        assert connects(path)


def test_stale_name_that_cannot_be_removed_is_an_error(folder: Path) -> None:
    path = folder / "sock"
    path.mkdir()

    with pytest.raises(Refused) as raised:
        bind_or_join(str(path))

    assert str(raised.value) == f"remove pre-existing socket: remove {path}: is a directory"


def test_too_long_path_is_refused_with_its_length(folder: Path) -> None:
    """Go's text, with the length."""
    path = f"{folder}/{'x' * 60}/{'0' * 64}"

    with pytest.raises(Refused) as raised:
        bind_or_join(path)

    text = f"create new shim socket: listen unix {path}: bind: invalid argument"
    assert str(raised.value) == f"{text}: {len(path)} bytes, at most 107 are possible"
    assert os.listdir(folder) == []


def test_longest_path_is_bound(folder: Path) -> None:
    """A folder of 42 bytes is the longest that leaves room for 64 hex digits."""
    path = folder / ("x" * (41 - len(str(folder)))) / ("0" * 64)
    assert len(str(path)) == 107

    bound(path)


def test_folder_that_is_a_file_is_an_error(folder: Path) -> None:
    (folder / "s").write_text("")

    with pytest.raises(Refused) as raised:
        bind_or_join(str(folder / "s" / "sock"))

    expected = f"create new shim socket: mkdir {folder}/s: not a directory"
    assert str(raised.value) == expected


def test_socket_of_another_kind_is_not_replaced(folder: Path) -> None:
    """A socket is removed only if it is known to be stale."""
    path = folder / "sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(path))

        with pytest.raises(Refused, match=f"connect {path}: protocol wrong type for socket"):
            bind_or_join(str(path))

    assert path.is_socket()


# --- the lock -----------------------------------------------------------------------------------


def test_locked_folder_is_waited_for_up_to_a_limit(folder: Path, short_limits: None) -> None:
    """Every wait has a limit, and its error names what it waited for."""
    holder = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(holder, fcntl.LOCK_EX)
        with pytest.raises(Refused, match="create new shim socket: lock another process holds it"):
            bind_or_join(str(folder / "sock"))
    finally:
        os.close(holder)

    bound(folder / "sock")


def test_name_is_not_removed_without_the_lock(folder: Path, short_limits: None) -> None:
    """Server and `delete` unlink under the lock under which `start` binds."""
    ours = bound(folder / "sock")
    holder = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(holder, fcntl.LOCK_EX)
        with pytest.raises(TimeoutError):
            ours.unlink()
        with pytest.raises(TimeoutError):
            unlink_if_dead(ours.path)
    finally:
        os.close(holder)

    assert os.path.exists(ours.path)


# --- removing -----------------------------------------------------------------------------------


def test_own_name_is_removed_once(folder: Path) -> None:
    ours = bound(folder / "sock")

    ours.unlink()
    ours.unlink()

    assert os.listdir(folder) == []


@pytest.mark.rule("cli.end.3")
def test_name_that_another_took_over_is_left(folder: Path) -> None:
    """The late unlink of an old shim must not remove the socket of a new one."""
    ours = bound(folder / "sock")
    theirs = bound(folder / "sock")

    ours.unlink()

    assert BoundSocket.at(theirs.path) == theirs


def test_reused_inode_does_not_count_as_our_own(folder: Path) -> None:
    """File systems reuse the number of a removed inode."""
    ours = bound(folder / "sock")
    later = ours.made_at_ns + 1
    os.utime(ours.path, ns=(later, later))  # the same inode number, made later

    ours.unlink()

    assert os.path.exists(ours.path)


def test_missing_folder_is_fine_when_unlinking(folder: Path) -> None:
    ours = bound(folder / "s" / "sock")
    shutil.rmtree(folder / "s")

    ours.unlink()
    unlink_if_dead(ours.path)
    unlink_if_dead(f"{folder}/none")


def test_stale_socket_is_unlinked_and_a_used_one_is_not(folder: Path) -> None:
    """`delete` removes only sockets that refuse connections."""
    dead_socket(str(folder / "dead"))
    with listening(str(folder / "live")):
        unlink_if_dead(str(folder / "dead"))
        unlink_if_dead(str(folder / "live"))

    assert os.listdir(folder) == ["live"]


@pytest.mark.parametrize("kind", ["file", "folder", "link", "fifo"])
def test_only_sockets_are_unlinked(folder: Path, kind: str) -> None:
    """The path comes from a file in the bundle, so only sockets are removed."""
    path = folder / "thing"
    dead_socket(str(folder / "dead"))
    if kind == "file":
        path.write_text("precious")
    elif kind == "folder":
        path.mkdir()
    elif kind == "link":
        path.symlink_to(folder / "dead")
    else:
        os.mkfifo(path)

    unlink_if_dead(str(path))

    assert path.exists()


# --- a server that was executed -----------------------------------------------------------------


def test_given_path_is_bound_and_a_live_one_refused(folder: Path) -> None:
    path = f"{folder}/sock"
    sock, ours = listener_of_server(path)
    with sock:
        assert ours == BoundSocket.at(path)
        with pytest.raises(Refused, match=f"listen unix {path}: bind: address already in use"):
            listener_of_server(path)


@pytest.fixture
def fd_3(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A socket at the fd number that a server inherits."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        monkeypatch.setattr(sockets, "INHERITED_FD", sock.fileno())
        yield sock


def test_inherited_socket_is_used_with_its_name(folder: Path, fd_3: socket.socket) -> None:
    """The path that is bound is unlinked later."""
    fd_3.bind(f"{folder}/sock")
    fd_3.listen()

    sock, ours = listener_of_server("")

    assert ours == BoundSocket.at(f"{folder}/sock")
    assert sock.detach() == fd_3.fileno()


def test_inherited_socket_without_a_name_is_served_nevertheless(fd_3: socket.socket) -> None:
    fd_3.bind("\0b-test-sockets")
    fd_3.listen()

    sock, ours = listener_of_server("")

    assert ours is None
    sock.detach()


def test_inherited_socket_that_does_not_listen_is_refused(fd_3: socket.socket) -> None:
    with pytest.raises(Refused, match="not a listening unix socket"):
        listener_of_server("")


def test_inherited_file_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        monkeypatch.setattr(sockets, "INHERITED_FD", fd)
        with pytest.raises(Refused, match=f"listen on fd {fd}: socket operation on non-socket"):
            listener_of_server("")
    finally:
        os.close(fd)
