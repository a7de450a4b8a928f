"""The folder of sockets: which keys have a zygote, and which keys had a warm-up that failed.

    KEY.sock      the zygote's socket; it exists once the zygote can serve
    KEY.warmup    locked while a zygote warms up; after a failure it holds the reason
    warm-PID/     the working folder of the warm-up in process PID

Each change of the folder is made under a lock on the folder itself.  The lock is held for a few
system calls.  The next warm-up removes the files of killed processes.
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
    """The last warm-up with this key failed less than RETRY_S ago; the text is the reason."""


@dataclass(frozen=True, slots=True)
class Bound:
    """A listening socket and its name in the file system."""

    listener: socket.socket
    path: str
    identity: tuple[int, int]  # device and inode

    def unlink(self) -> None:
        """Remove the socket file, unless it is gone or belongs to another zygote by now."""
        with _locked(os.path.dirname(self.path)), contextlib.suppress(FileNotFoundError):
            found = os.lstat(self.path)
            if (found.st_dev, found.st_ino) == self.identity:
                os.unlink(self.path)


def claim(path: str) -> int | None:
    """Claim the warm-up of the zygote that will listen at `path`; return an fd with the claim.

    The claim ends when the fd and all its copies are closed.  The result is None if a zygote
    listens there already, or if another process has the claim.

    Raises:
        RecentFailure.
        OSError: the folder cannot be made, or other users can enter it.
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
            record_failure(fd, "it was killed")  # overwritten if the warm-up ends in another way
            undo.pop_all()
        return fd


def record_failure(claim_fd: int, reason: str) -> None:
    """Write why a warm-up failed into its file: the starts of the next RETRY_S log it."""
    os.ftruncate(claim_fd, 0)
    os.pwrite(claim_fd, reason.encode("utf-8", "replace")[:_REASON_BYTES], 0)


def withdraw(path: str) -> None:
    """Remove the file of a claim whose warm-up was stopped: the next start tries again."""
    with _locked(os.path.dirname(path)), contextlib.suppress(FileNotFoundError):
        os.unlink(_marker(path))


def working_folder(path: str, pid: int) -> str:
    """Return the path of the working folder for the warm-up in process `pid`."""
    return os.path.join(os.path.dirname(path), f"{_WORKING}{pid}")


def listen(path: str) -> Bound:
    """Bind the socket and listen: from now on launchers find the zygote.  Removes the claim's file.

    Raises:
        OSError: the path is in use, or other users can enter the folder.
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
        OSError: there is no folder, or other users can enter it.
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
    """Return why the last warm-up failed; empty if none failed in the last RETRY_S."""
    age_s = time.time() - os.fstat(fd).st_mtime
    if not 0 <= age_s < RETRY_S:  # negative: the clock was set back
        return ""
    return os.pread(fd, _REASON_BYTES, 0).decode("utf-8", "replace")


def _remove_leftovers(folder: str) -> None:
    """Remove the files of killed zygotes, of any key, and the reasons of old failures."""
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
