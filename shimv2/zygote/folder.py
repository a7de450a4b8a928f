"""The folder of sockets: which keys have a zygote, and which keys had a warm-up that failed.

    KEY.sock      a zygote listens here, once it is ready
    KEY.warmup    locked while a zygote warms up; afterwards it holds why the warm-up failed
    warm-PID/     what the warm-up of process PID works in

Every change of the folder is made under a lock on the folder itself, which is held for a few system
calls.  What a killed process left is removed by the next warm-up.
"""

import contextlib
import fcntl
import os
import shutil
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

RETRY_S: Final = 60.0  # from a failed warm-up to the next one with the same key
_BACKLOG: Final = 4096
_SOCKET: Final = ".sock"
_MARKER: Final = ".warmup"
_WORKING: Final = "warm-"
_REASON_BYTES: Final = 4096
_SOCKET_UMASK: Final = 0o177


class RecentFailure(Exception):
    """The last warm-up with this key failed less than RETRY_S ago; the text says why."""


@dataclass(frozen=True, slots=True)
class Bound:
    """A listening socket and its name in the file system."""

    listener: socket.socket
    path: str
    identity: tuple[int, int]  # device and inode

    def unlink(self) -> None:
        """Remove the name, unless it is gone or another zygote's by now."""
        with _locked(os.path.dirname(self.path)), contextlib.suppress(FileNotFoundError):
            found = os.lstat(self.path)
            if (found.st_dev, found.st_ino) == self.identity:
                os.unlink(self.path)


def claim(path: str) -> int | None:
    """Claim the warm-up of a zygote that is to listen at `path`: an fd that holds the claim.

    The claim ends when the fd and its copies are closed.  None when a zygote listens there already,
    or another process has the claim.

    Raises:
        RecentFailure.
        OSError: the folder cannot be made, or others can enter it.
    """
    folder = os.path.dirname(path)
    os.makedirs(os.path.dirname(folder), mode=0o755, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        os.mkdir(folder, 0o700)
    with _locked(folder):
        if _answers(path):
            return None
        _remove_leftovers(folder)
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(_marker(path), flags, 0o600)
        with contextlib.ExitStack() as undo:
            undo.callback(os.close, fd)
            if not _lock_now(fd):
                return None
            if reason := _recent_failure(fd):
                raise RecentFailure(reason)
            record_failure(fd, "it was killed")  # until it ends in another way
            undo.pop_all()
        return fd


def record_failure(claim_fd: int, reason: str) -> None:
    """Write down why a warm-up failed, for the starts of the next minute."""
    os.ftruncate(claim_fd, 0)
    os.pwrite(claim_fd, reason.encode("utf-8", "replace")[:_REASON_BYTES], 0)


def working_folder(path: str, pid: int) -> str:
    """Name the folder that the warm-up in process `pid` works in."""
    return os.path.join(os.path.dirname(path), f"{_WORKING}{pid}")


def listen(path: str) -> Bound:
    """Bind and listen: from now on launchers find the zygote.  The claim's file is removed.

    Raises:
        OSError: the name is taken, or the folder is not this user's alone.
    """
    with _locked(os.path.dirname(path)), contextlib.ExitStack() as undo:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        undo.callback(listener.close)
        umask = os.umask(_SOCKET_UMASK)
        try:
            listener.bind(path)
        finally:
            os.umask(umask)
        found = os.lstat(path)
        listener.listen(_BACKLOG)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(_marker(path))
        undo.pop_all()
    return Bound(listener, path, (found.st_dev, found.st_ino))


def _marker(path: str) -> str:
    return path.removesuffix(_SOCKET) + _MARKER


@contextlib.contextmanager
def _locked(folder: str) -> Iterator[None]:
    """Hold the lock of the folder.

    Raises:
        OSError: there is no folder, or others can enter it.
    """
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        found = os.fstat(fd)
        if found.st_uid != os.geteuid() or found.st_mode & 0o77:
            raise PermissionError(f"{folder} is not this user's alone")
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _lock_now(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _recent_failure(fd: int) -> str:
    """Return why the last warm-up failed; empty if there was none in the last minute."""
    age_s = time.time() - os.fstat(fd).st_mtime
    if not 0 <= age_s < RETRY_S:  # in the future: the clock was set back
        return ""
    return os.pread(fd, _REASON_BYTES, 0).decode("utf-8", "replace")


def _remove_leftovers(folder: str) -> None:
    """Remove what killed zygotes of any key left, and what is known of failures long ago."""
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        with contextlib.suppress(FileNotFoundError):
            if name.endswith(_SOCKET) and not _answers(path):
                os.unlink(path)
            elif name.startswith(_WORKING) and not os.path.exists(
                f"/proc/{name.removeprefix(_WORKING)}"
            ):
                shutil.rmtree(path, ignore_errors=True)
            elif name.endswith(_MARKER):
                _remove_old_marker(path)


def _remove_old_marker(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if _lock_now(fd) and not _recent_failure(fd):
            os.unlink(path)
    finally:
        os.close(fd)


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(path)
        except BlockingIOError:
            return True
        except OSError:
            return False
    return True
