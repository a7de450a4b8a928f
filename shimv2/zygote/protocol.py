"""What launcher (launcher.c), spare and zygote tell each other."""

import os
import socket
import struct
from dataclasses import dataclass
from typing import Final

# What a spare tells its zygote: that it has a request, so that there is no spare; later, followed
# by runs of pages, what it had touched when it came to rest (pagesharing/memory.py).
TAKEN: Final = b"t"
TOUCHED: Final = b"p"

_LENGTH: Final = struct.Struct("=I")
_GIVEN: Final = 4  # stdin, stdout, stderr, the working directory
_WORD_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class Birth:
    """What the launcher knows of a zygote to be: where it listens, and whom it serves."""

    path: str
    key: bytes
    program: str  # the launcher

    @classmethod
    def read(cls, fd: int) -> "Birth":
        """Take it from the file in memory that the launcher left open; closes it."""
        path, key, program = _sections(fd)
        return cls(os.fsdecode(path), key, os.fsdecode(program))


@dataclass(frozen=True, slots=True)
class Request:
    """One command line to be done as if the launcher itself did it."""

    key: bytes
    state: bytes  # see attributes.py
    daemon_oom_score: str  # of the launcher's parent, as /proc has it; "" = unreadable
    argv: list[str]
    environ: list[bytes]  # NAME=value

    @classmethod
    def receive(cls, connection: socket.socket) -> "Request | None":
        """Receive one; None when it is none, or nobody is there.

        Raises:
            OSError, ValueError: it cannot be read.
        """
        word, fds = _hear(connection)
        if word != b"request" or len(fds) != 1:
            _close(fds)
            return None
        key, state, score, argv, environ = _sections(fds[0])
        return cls(
            key=key,
            state=state,
            daemon_oom_score=score.decode("ascii").strip(),
            argv=[os.fsdecode(word) for word in argv.split(b"\0")[:-1]],
            environ=environ.split(b"\0")[:-1],
        )


@dataclass(frozen=True, slots=True)
class Given:
    """The fds that a launcher hands over when the work is to begin; the receiver's own."""

    streams: tuple[int, int, int]
    folder: int

    @classmethod
    def receive(cls, connection: socket.socket) -> "Given | None":
        """Receive them; None when the launcher has gone another way.

        Raises:
            OSError: it does not say which.
        """
        word, fds = _hear(connection)
        if word != b"go" or len(fds) != _GIVEN:
            _close(fds)
            return None
        return cls((fds[0], fds[1], fds[2]), fds[3])


def _hear(connection: socket.socket) -> tuple[bytes, list[int]]:
    word, fds, _, _ = socket.recv_fds(connection, _WORD_BYTES, _GIVEN)
    return word, fds


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)


def _sections(fd: int) -> list[bytes]:
    """Read the parts of a file in memory, each with its length before it; closes it."""
    try:
        data = os.pread(fd, os.fstat(fd).st_size, 0)
    finally:
        os.close(fd)
    parts, at = [], 0
    while at < len(data):
        (length,) = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size
        parts.append(data[at : at + length])
        at += length
    return parts
