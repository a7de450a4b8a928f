"""The shim's socket in the file system: bind it, join it, remove it.

All steps hold a lock on the socket directory.  So a `start` cannot mistake a name for a dead shim's
while another `start` is between bind and listen, and no process removes a name that another shim
has bound meanwhile.  The lock is held for a few system calls that do not wait.
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
"""The limit of sun_path without its NUL (unix(7)): 42 for the directory, a slash, 64 hex digits."""

MAX_SERVED_PATH_BYTES: Final = 106  # the Go shim's limit for `-socket`
INHERITED_FD: Final = 3  # the listening socket that server mode inherits
BACKLOG: Final = 4096  # as in Go; the kernel caps it at net.core.somaxconn

LOCK_LIMIT_S: Final = 5.0
UNLINK_LOCK_LIMIT_S: Final = 1.0  # it blocks the server's loop, and `delete` has 5 s in all
_LOCK_FIRST_PAUSE_S: Final = 0.0005
_LOCK_LAST_PAUSE_S: Final = 0.02


@dataclass(frozen=True, slots=True)
class BoundSocket:
    """A socket file that a shim bound.  `unlink` removes only this file, never a later one."""

    path: str
    device: int
    inode: int
    made_at_ns: int  # the kernel may reuse the inode number of a removed socket

    @classmethod
    def at(cls, path: str) -> "BoundSocket":
        """Return the identity of the socket file at `path`.

        Raises:
            OSError: there is no such file.
        """
        found = os.lstat(path)
        return cls(path, found.st_dev, found.st_ino, found.st_mtime_ns)

    def unlink(self) -> None:
        """Remove the file, unless it is gone or another file has its name.

        Raises:
            OSError: it cannot be removed, or the directory stays locked.
        """
        with contextlib.suppress(FileNotFoundError), _locked(self.path, UNLINK_LOCK_LIMIT_S):
            if self.at(self.path) == self:
                os.unlink(self.path)


def bind_or_join(path: str) -> tuple[socket.socket, BoundSocket] | None:
    """Listen at `path`; return None if a shim listens there already, which the caller joins.

    A socket that refuses connections is a dead shim's and is replaced.  A missing directory is made
    with mode 0700; the socket gets mode 0600, whatever the umask.

    Raises:
        Refused: with the Go shim's text.
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
            return None if _has_listener(path) else _take_over(path)
    except OSError as error:
        raise Refused(f"create new shim socket: {os_error(error)}") from None


def unlink_if_dead(path: str) -> None:
    """Remove a dead shim's socket at `path`; keep it if a shim listens there.

    A file of another type is kept; a missing one is no error.

    Raises:
        OSError: it cannot be removed, or the directory stays locked.
    """
    gone = contextlib.suppress(FileNotFoundError, NotADirectoryError)
    with gone, _locked(path, UNLINK_LOCK_LIMIT_S):
        if stat.S_ISSOCK(os.lstat(path).st_mode) and not _has_listener(path):
            os.unlink(path)


def listener_of_server(path: str) -> tuple[socket.socket, BoundSocket | None]:
    """Return the listening socket of server mode: at `path` (`-socket`), else fd 3.

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
    if not isinstance(name, str) or not os.path.isabs(name):  # unnamed or abstract: no file
        return sock, None
    try:
        return sock, BoundSocket.at(name)
    except OSError:
        return sock, None


# --- under the lock -----------------------------------------------------------------------------


@contextlib.contextmanager
def _locked(path: str, limit_s: float) -> Iterator[None]:
    """Hold the lock on the directory of `path`.

    Raises:
        OSError: there is no such directory, or another process held the lock for `limit_s`.
    """
    folder = os.path.dirname(path) or "."
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        end, pause_s = time.monotonic() + limit_s, _LOCK_FIRST_PAUSE_S
        while not _try_lock(fd):  # flock has no time limit of its own
            if time.monotonic() >= end:
                raise _go_error(errno.ETIMEDOUT, f"another process holds it: {folder}", op="lock")
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _LOCK_LAST_PAUSE_S)
        yield
    finally:
        os.close(fd)  # releases the lock


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _has_listener(path: str) -> bool:
    """Whether a process listens at `path`; also true if its backlog is full (EAGAIN).

    Raises:
        OSError: connect(2) failed in another way.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(path)
        except BlockingIOError:
            return True
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError as error:
            raise _go_error(error.errno or 0, path, op="connect") from None
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
        os.fchmod(sock.fileno(), 0o600)  # bind(2) gives the file this mode, less the umask
        try:
            sock.bind(path)
        except OSError as error:
            raise _go_error(error.errno or 0, f"unix {path}: bind", op="listen") from None
        try:
            os.chmod(path, 0o600)  # the umask or a default ACL may have removed bits
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
    """Make a directory and its missing parents; existing ones keep their mode."""
    if not folder or os.path.isdir(folder):
        return
    _make_folder(os.path.dirname(folder))
    try:
        os.mkdir(folder, 0o700)
        os.chmod(folder, 0o700)  # the umask may have removed the owner's bits
    except FileExistsError:
        if not os.path.isdir(folder):
            raise _go_error(errno.ENOTDIR, folder, op="mkdir") from None
    except OSError as error:
        raise _go_error(error.errno or 0, folder, op="mkdir") from None


def _go_error(number: int, what: str, *, op: str) -> OSError:
    """Make an error whose text in Go's form is `<op> <what>: <reason>`."""
    error = OSError(number, os.strerror(number), what)
    error.op = op  # type: ignore[attr-defined] # `gotext.os_error` reads it
    return error
