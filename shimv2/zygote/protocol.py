"""The messages between launcher (launcher.c), waiting child and zygote."""

import os
import socket
import stat
import struct
from dataclasses import dataclass
from typing import Final

# From a waiting child to its zygote.
FORK_NEXT: Final = b"t"  # the child works for a launcher, or cannot be used any more
RETIRE: Final = b"r"  # the settings have changed: the zygote ends
USED_PAGES: Final = b"p"  # followed by the runs of pages that the child used until it was idle

_LENGTH: Final = struct.Struct("=I")
_HANDED_FDS: Final = 4  # stdin, stdout, stderr, the working directory
_WORD_BYTES: Final = 16
_LIMIT_BYTES: Final = 16 << 20  # for one file in memory; the kernel allows 6 MB of arguments


@dataclass(frozen=True, slots=True)
class NewZygote:
    """The launcher's description of the zygote that a cold start makes."""

    path: str  # of its socket
    key: bytes
    program: str  # the launcher's path

    @classmethod
    def read(cls, fd: int) -> "NewZygote":
        """Read it from the file in memory that the launcher left open, and close the file.

        Raises:
            OSError, ValueError: it cannot be read.
        """
        path, key, program = _sections(fd)
        return cls(os.fsdecode(path), key, os.fsdecode(program))


@dataclass(frozen=True, slots=True)
class Request:
    """A command line that the waiting child runs in the launcher's place."""

    key: bytes
    state: bytes  # see attributes.py
    daemon_oom_score: str  # of the launcher's parent, as in /proc; "": not readable
    argv: list[str]
    environ: list[bytes]  # NAME=value

    @classmethod
    def receive(cls, connection: socket.socket) -> "Request | None":
        """Receive a request; None if the message is not a request.

        Raises:
            OSError, ValueError: no message came, or its parts cannot be read.
        """
        word, fds = _receive(connection)
        if word != b"request" or len(fds) != 1:
            _close(fds)
            return None
        key, state, score, argv, environ = _sections(fds[0])
        words = _strings(argv)
        if not words:
            raise ValueError("a command line without a program")
        return cls(
            key=key,
            state=state,
            daemon_oom_score=score.decode("ascii").strip(),
            argv=[os.fsdecode(word) for word in words],
            environ=_strings(environ),
        )

    def variable(self, name: str) -> str:
        """Return the value of an environment variable; empty if it is not set."""
        start = os.fsencode(name) + b"="
        return next((os.fsdecode(p[len(start) :]) for p in self.environ if p.startswith(start)), "")


@dataclass(frozen=True, slots=True)
class Handover:
    """The fds that a launcher sends with "go".  The receiver owns them."""

    streams: tuple[int, int, int]
    folder: int

    @classmethod
    def receive(cls, connection: socket.socket) -> "Handover | None":
        """Receive the fds; None if the launcher has chosen a cold start.

        Raises:
            OSError: no message came.
        """
        word, fds = _receive(connection)
        if word != b"go" or len(fds) != _HANDED_FDS:
            _close(fds)
            return None
        return cls((fds[0], fds[1], fds[2]), fds[3])


def _receive(connection: socket.socket) -> tuple[bytes, list[int]]:
    word, fds, _, _ = socket.recv_fds(connection, _WORD_BYTES, _HANDED_FDS)
    return word, fds


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)


def _strings(section: bytes) -> list[bytes]:
    if section and not section.endswith(b"\0"):
        raise ValueError("a word without its end")
    return section.split(b"\0")[:-1]


def _sections(fd: int) -> list[bytes]:
    """Read the parts of a file in memory, and close it.  Each part begins with its length.

    Raises:
        OSError, ValueError: the file is not of this form.
    """
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_size > _LIMIT_BYTES:
            raise ValueError("no file in memory")
        data = os.pread(fd, found.st_size, 0)
    finally:
        os.close(fd)
    parts, at = [], 0
    while at < len(data):
        if len(data) - at < _LENGTH.size:
            raise ValueError("a part without its length")
        (length,) = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size
        if length > len(data) - at:
            raise ValueError("a part without its end")
        parts.append(data[at : at + length])
        at += length
    return parts
