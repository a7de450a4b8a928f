"""What launcher (launcher.c), waiting child and zygote send each other."""

import os
import socket
import stat
import struct
from dataclasses import dataclass
from typing import Final

# From a waiting child to its zygote.
TAKEN: Final = b"t"  # it works for a launcher, or is of no more use: fork the next one
RETIRE: Final = b"r"  # the settings have changed: serve no more
TOUCHED: Final = b"p"  # and runs of pages: those it had touched when it came to rest

_LENGTH: Final = struct.Struct("=I")
_HANDED_FDS: Final = 4  # stdin, stdout, stderr, the working directory
_WORD_BYTES: Final = 16
_LIMIT_BYTES: Final = 16 << 20  # of one file in memory; the kernel allows 6 MB of arguments


@dataclass(frozen=True, slots=True)
class NewZygote:
    """What the launcher knows of a zygote that is to be made."""

    path: str  # where it listens
    key: bytes
    program: str  # the launcher

    @classmethod
    def read(cls, fd: int) -> "NewZygote":
        """Read it from the file in memory that the launcher left open; closes it.

        Raises:
            OSError, ValueError: it cannot be read.
        """
        path, key, program = _sections(fd)
        return cls(os.fsdecode(path), key, os.fsdecode(program))


@dataclass(frozen=True, slots=True)
class Request:
    """A command line that is to be done as if the launcher itself did it."""

    key: bytes
    state: bytes  # see attributes.py
    daemon_oom_score: str  # of the launcher's parent, as in /proc; "" = it could not be read
    argv: list[str]
    environ: list[bytes]  # NAME=value

    @classmethod
    def receive(cls, connection: socket.socket) -> "Request | None":
        """Receive one; None when what came is no request.

        Raises:
            OSError, ValueError: nothing came, or its parts cannot be read.
        """
        word, fds = _receive(connection)
        if word != b"request" or len(fds) != 1:
            _close(fds)
            return None
        key, state, score, argv, environ = _sections(fds[0])
        words = _words(argv)
        if not words:
            raise ValueError("a command line without a program")
        return cls(
            key=key,
            state=state,
            daemon_oom_score=score.decode("ascii").strip(),
            argv=[os.fsdecode(word) for word in words],
            environ=_words(environ),
        )

    def variable(self, name: str) -> str:
        """Return the value of an environment variable; empty when it is not set."""
        start = os.fsencode(name) + b"="
        return next((os.fsdecode(p[len(start) :]) for p in self.environ if p.startswith(start)), "")


@dataclass(frozen=True, slots=True)
class Handover:
    """The fds that a launcher hands over when the work is to begin; the receiver's own."""

    streams: tuple[int, int, int]
    folder: int

    @classmethod
    def receive(cls, connection: socket.socket) -> "Handover | None":
        """Receive them; None when the launcher has chosen a cold start.

        Raises:
            OSError: nothing came.
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


def _words(section: bytes) -> list[bytes]:
    if section and not section.endswith(b"\0"):
        raise ValueError("a word without its end")
    return section.split(b"\0")[:-1]


def _sections(fd: int) -> list[bytes]:
    """Read the parts of a file in memory, each with its length before it; closes it.

    Raises:
        OSError, ValueError: it is no such file.
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
