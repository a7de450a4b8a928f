"""Reads the logs of all shims, as a daemon does: a shim without a reader of its log waits."""

import contextlib
import os
import select
import signal
from typing import Final

_READ_BYTES: Final = 64 * 1024


class Logs:
    """Reads and drops what shims log.  Owns its process, which `close` ends."""

    def __init__(self) -> None:
        paths, self._paths = os.pipe()
        self._child = os.fork()
        if self._child == 0:
            try:
                os.close(self._paths)
                for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                    signal.signal(number, signal.SIG_IGN)  # the parent ends it, or its death does
                _read_all(paths)
            finally:
                os._exit(0)
        os.close(paths)

    def follow(self, path: str) -> None:
        """Read a FIFO, until it has no writers any more; its path has no newline in it."""
        os.write(self._paths, f"{path}\n".encode())

    def close(self) -> None:
        os.close(self._paths)
        os.waitpid(self._child, 0)


def _read_all(paths: int) -> None:
    """Read the FIFOs whose paths come, until no more paths can come."""
    poll = select.epoll()
    poll.register(paths, select.EPOLLIN)
    rest = b""
    while True:
        for fd, _ in poll.poll():
            try:
                chunk = os.read(fd, _READ_BYTES)
            except BlockingIOError:
                continue
            if fd != paths:
                if not chunk:
                    os.close(fd)
                continue
            if not chunk:
                return
            *whole, rest = (rest + chunk).split(b"\n")
            for path in whole:
                with contextlib.suppress(FileNotFoundError):  # its shim is gone already
                    poll.register(os.open(path, os.O_RDONLY | os.O_NONBLOCK), select.EPOLLIN)
