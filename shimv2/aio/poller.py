"""What the loop waits for: files by epoll, and a pipe by which threads and signals wake it.

Holds at most one reader and one writer per fd.  Owns the epoll fd and both ends of the pipe.
"""

import asyncio
import contextlib
import errno
import logging
import os
import select
from collections import deque
from typing import Any, Final

READ: Final = select.EPOLLIN
WRITE: Final = select.EPOLLOUT

_EVENTS_PER_POLL: Final = 64  # more that are ready come with the next one, in turn

log = logging.getLogger(__name__)


class Poller:
    """Not thread-safe but for `wake`."""

    def __init__(self) -> None:
        # fd -> what is called for reading and for writing, by epoll's bit.
        self._watches: dict[int, dict[int, asyncio.Handle]] = {}
        self._epoll = select.epoll()
        # A pipe and not an eventfd: signal.set_wakeup_fd writes single bytes.
        self._wake_read, self.wake_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._epoll.register(self._wake_read, READ)

    def close(self) -> None:
        self._watches.clear()
        self._epoll.close()
        os.close(self._wake_read)
        os.close(self.wake_fd)

    def wake(self) -> None:
        with contextlib.suppress(BlockingIOError):  # full: it wakes as well
            os.write(self.wake_fd, b"\0")

    def add(self, fd: Any, side: int, handle: asyncio.Handle) -> None:
        """Have `handle` run while `fd` is ready for this side, in place of an earlier one.

        Raises:
            PermissionError: epoll cannot wait for this kind of file (a regular one).
        """
        number = _number(fd)
        watch = self._watches.get(number)
        if watch is None:
            self._epoll.register(number, side)
            self._watches[number] = {side: handle}
            return
        if side in watch:
            watch[side].cancel()
        watch[side] = handle
        try:
            self._epoll.modify(number, sum(watch))
        except FileNotFoundError:
            # It was closed without being removed, and the number now means another file.
            self._epoll.register(number, sum(watch))

    def remove(self, fd: Any, side: int) -> bool:
        """Whether there was something to remove.  It will not run, even if it is ready already."""
        number = _number(fd)
        watch = self._watches.get(number)
        if watch is None or side not in watch:
            return False
        watch.pop(side).cancel()
        try:
            if watch:
                self._epoll.modify(number, sum(watch))
            else:
                del self._watches[number]
                self._epoll.unregister(number)
        except OSError as exc:
            if exc.errno not in (errno.ENOENT, errno.EBADF):  # closed before: epoll forgot it
                raise
        return True

    def poll(self, timeout_s: float | None, ready: deque[asyncio.Handle]) -> None:
        """Wait for files or a wake-up and append what is to run; None waits without a limit."""
        for fd, events in self._epoll.poll(timeout_s, _EVENTS_PER_POLL):
            watch = self._watches.get(fd)
            if watch is not None:
                # EPOLLHUP and EPOLLERR wake both: each finds out by its own read or write.
                if events & ~WRITE and READ in watch:
                    ready.append(watch[READ])
                if events & ~READ and WRITE in watch:
                    ready.append(watch[WRITE])
            elif fd == self._wake_read:
                self._drain_wakes()
            else:
                self._rebuild()
                return

    def _drain_wakes(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while os.read(self._wake_read, 4096):
                pass

    def _rebuild(self) -> None:
        """Start a new epoll: the old one reports a file that nobody here waits for.

        That happens when an fd is closed before it is removed while a copy of it lives on, here or
        in another process: epoll then has no way to take it out, and would spin.
        """
        log.error("an fd was closed while it was still waited for: epoll is built anew")
        self._epoll.close()
        self._epoll = select.epoll()
        self._epoll.register(self._wake_read, READ)
        for fd, watch in self._watches.items():
            with contextlib.suppress(OSError):  # closed as well: nothing to wait for
                self._epoll.register(fd, sum(watch))


def _number(fd: Any) -> int:
    number = fd if isinstance(fd, int) else int(fd.fileno())
    if number < 0:
        raise ValueError(f"invalid file descriptor: {number}")
    return number
