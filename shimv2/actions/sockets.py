"""The shim's socket in the file system: who may bind it, join it, remove it.

Everything here is done under a lock on the socket folder, so that a `start` cannot take a name
for dead that another one is about to listen on, and nobody removes a name that has meanwhile
become somebody else's.  The lock is held for a few system calls that do not wait.
"""

import contextlib
import errno
import fcntl
import os
import socket
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from shimv2.gocompat.gotext import os_error, quote, strerror
from shimv2.values.errors import Refused

MAX_PATH_BYTES: Final = 107
"""What sun_path holds beside its NUL: 42 for the folder, a slash, and 64 hex digits (CLI-24)."""

MAX_SERVED_PATH_BYTES: Final = 106  # the reference's limit for `-socket`
INHERITED_FD: Final = 3  # where a server that is executed finds its listening socket
BACKLOG: Final = 4096  # as Go: the kernel caps it at net.core.somaxconn

LOCK_LIMIT_S: Final = 5.0
UNLINK_LOCK_LIMIT_S: Final = 1.0  # the server's loop stands still for it, `delete` has 5 s in all
_LOCK_FIRST_PAUSE_S: Final = 0.0005
_LOCK_LAST_PAUSE_S: Final = 0.02


@dataclass(frozen=True, slots=True)
class BoundSocket:
    """A name in the file system that a shim bound; only that very file is ever removed."""

    path: str
    device: int
    inode: int
    made_at_ns: int  # the inode's number may be used again once the socket is closed

    @classmethod
    def at(cls, path: str) -> "BoundSocket":
        """Remember the socket that is there now.

        Raises:
            OSError: there is nothing.
        """
        found = os.lstat(path)
        return cls(path, found.st_dev, found.st_ino, found.st_mtime_ns)

    def unlink(self) -> None:
        """Remove the name unless it is gone or another's by now.

        Raises:
            OSError: it cannot be removed, or the folder stays locked.
        """
        with contextlib.suppress(FileNotFoundError), _locked(self.path, UNLINK_LOCK_LIMIT_S):
            if self.at(self.path) == self:
                os.unlink(self.path)


def bind_or_join(path: str) -> tuple[socket.socket, BoundSocket] | None:
    """Listen at `path`; None when a shim listens there already, which is then to be joined.

    A name that refuses connections is a dead shim's and is taken over.  The folder is made when
    it is missing, for its owner only; the socket is its owner's only, whatever the umask.

    Raises:
        Refused: with the reference's text.
    """
    length = len(os.fsencode(path))
    if length > MAX_PATH_BYTES:
        why = f"bind: invalid argument: {length} bytes, at most {MAX_PATH_BYTES} are possible"
        raise Refused(f"create new shim socket: listen unix {path}: {why}")
    try:
        _make_folder(os.path.dirname(path))
        with _locked(path, LOCK_LIMIT_S):
            try:
                return _listen(path)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
            return None if _answers(path) else _take_over(path)
    except OSError as error:
        raise Refused(f"create new shim socket: {os_error(error)}") from None


def unlink_if_dead(path: str) -> None:
    """Remove the socket that a dead shim left at `path`; a live one's is not touched.

    Nothing but a socket is removed, and nothing there is fine.

    Raises:
        OSError: it cannot be removed, or the folder stays locked.
    """
    gone = contextlib.suppress(FileNotFoundError, NotADirectoryError)
    with gone, _locked(path, UNLINK_LOCK_LIMIT_S):
        if stat.S_ISSOCK(os.lstat(path).st_mode) and not _answers(path):
            os.unlink(path)


def listener_of_server(path: str) -> tuple[socket.socket, BoundSocket | None]:
    """The socket of a server that was executed: `path` (`-socket`), else the inherited fd 3.

    Raises:
        Refused: the path is too long or taken, or fd 3 is no listening socket.
    """
    if not path:
        return _inherited(INHERITED_FD)
    if len(os.fsencode(path)) > MAX_SERVED_PATH_BYTES:
        why = f"unix socket path too long (> {MAX_SERVED_PATH_BYTES})"
        raise Refused(f"{quote(path)}: {why}")
    made = bind_or_join(path)
    if made is None:
        raise Refused(f"listen unix {path}: bind: {strerror(errno.EADDRINUSE)}")
    return made


def _inherited(fd: int) -> tuple[socket.socket, BoundSocket | None]:
    try:
        sock = socket.socket(fileno=fd)
    except OSError as error:
        raise Refused(f"listen on fd {fd}: {os_error(error)}") from None
    listens = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    if not listens or sock.family != socket.AF_UNIX:
        sock.detach()
        raise Refused(f"listen on fd {fd}: not a listening unix socket")
    sock.set_inheritable(False)
    name = sock.getsockname()
    if not isinstance(name, str) or not os.path.isabs(name):  # nothing in the file system to remove
        return sock, None
    try:
        return sock, BoundSocket.at(name)
    except OSError:
        return sock, None


# --- under the lock -----------------------------------------------------------------------------


@contextlib.contextmanager
def _locked(path: str, limit_s: float) -> Iterator[None]:
    """Hold the lock on the folder `path` is in.

    Raises:
        OSError: there is no such folder, or somebody held the lock for `limit_s`.
    """
    folder = os.path.dirname(path) or "."
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        end, pause_s = time.monotonic() + limit_s, _LOCK_FIRST_PAUSE_S
        while not _take(fd):  # flock has no time limit of its own
            if time.monotonic() >= end:
                raise _said(errno.ETIMEDOUT, f"another process holds it: {folder}", op="lock")
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _LOCK_LAST_PAUSE_S)
        yield
    finally:
        os.close(fd)  # gives the lock back


def _take(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _answers(path: str) -> bool:
    """Whether somebody listens at `path`.

    One that does not take connections fast enough is alive, too: its backlog is full (EAGAIN).

    Raises:
        OSError: it cannot be told.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(path)
        except BlockingIOError:
            return True
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError as error:
            raise _said(error.errno or 0, path, op="connect") from None
    return True


def _take_over(path: str) -> tuple[socket.socket, BoundSocket]:
    try:
        os.unlink(path)
    except OSError as error:
        raise Refused(f"remove pre-existing socket: {os_error(error, op='remove')}") from None
    try:
        return _listen(path)
    except OSError as error:
        raise Refused(f"try create new shim socket 2x: {os_error(error)}") from None


def _listen(path: str) -> tuple[socket.socket, BoundSocket]:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        os.fchmod(sock.fileno(), 0o600)  # what bind gives the file, less the umask
        try:
            sock.bind(path)
        except OSError as error:
            raise _said(error.errno or 0, f"unix {path}: bind", op="listen") from None
        try:
            os.chmod(path, 0o600)  # the umask, or a default ACL, may have left less
            bound = BoundSocket.at(path)
            sock.listen(BACKLOG)
        except BaseException:
            os.unlink(path)
            raise
    except BaseException:
        sock.close()
        raise
    return sock, bound


def _make_folder(folder: str) -> None:
    """Make a folder and those above it that are missing; what is there keeps its mode."""
    if not folder or os.path.isdir(folder):
        return
    _make_folder(os.path.dirname(folder))
    try:
        os.mkdir(folder, 0o700)
        os.chmod(folder, 0o700)  # a umask may have left less, which is of no use to its owner
    except FileExistsError:
        if not os.path.isdir(folder):
            raise _said(errno.ENOTDIR, folder, op="mkdir") from None
    except OSError as error:
        raise _said(error.errno or 0, folder, op="mkdir") from None


def _said(number: int, what: str, *, op: str) -> OSError:
    """Make an error that reads `<op> <what>: <reason>` in Go's words."""
    error = OSError(number, os.strerror(number), what)
    error.op = op  # type: ignore[attr-defined] # what `gotext.os_error` looks for
    return error
