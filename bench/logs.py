"""Reads the logs of all shims, as a daemon does: some shims block on a log that is not read."""

import contextlib
import os
import select
import signal
from typing import Final

_READ_BYTES: Final = 64 * 1024


class Logs:
    """Reads and drops the logs of shims, in a process of its own.  `close` ends that process."""

    def __init__(self) -> None:
        paths, self._paths = os.pipe()
        self._child = os.fork()
        if self._child == 0:
            try:
                os.close(self._paths)
                for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                    signal.signal(number, signal.SIG_IGN)  # this process ends with its parent
                _read_all(paths)
            finally:
                os._exit(0)
        os.close(paths)

    def follow(self, path: str) -> None:
        """Read a FIFO until it has no writers any more; its path must not contain a newline."""
        os.write(self._paths, f"{path}\n".encode())

    def close(self) -> None:
        os.close(self._paths)
        os.waitpid(self._child, 0)


def _read_all(paths: int) -> None:
    """Read the FIFOs whose paths arrive on the pipe, until the end of that pipe."""
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
