"""Keep the end of an output for a client that is away just now.

When a process ends while its client restarts, what it wrote last is in a FIFO without a reader; the
kernel drops it as soon as the shim closes its ends, as the reference does at once.  Here the
writing end stays open until somebody reads the FIFO - who then finds the bytes and, right after
them, the end of file - or until Delete.  Waiting is inotify's: nothing wakes up before that.
"""

import asyncio
import contextlib
import ctypes
import logging
import os
from typing import Final

from shimv2.io.fifo import Fd, has_reader
from shimv2.kernel.linux import bytes_waiting

_IN_OPEN: Final = 0x20
_EVENTS_BYTES: Final = 4096

log = logging.getLogger(__name__)

_libc = ctypes.CDLL(None, use_errno=True)


class Unread:
    """Owns the writing end of a FIFO that has ended, the last of the shim's ends."""

    def __init__(self, writer: Fd) -> None:
        self._writer = writer
        self._events = Fd(-1)
        if not self._is_wanted():
            self.close()
            return
        self._loop = asyncio.get_running_loop()
        try:
            self._events = _watch_opens(writer.number)
        except OSError as exc:  # inotify instances are limited, 128 for each user
            log.warning("output that nobody reads is not kept: %s", exc)
            self.close()
            return
        self._loop.add_reader(self._events.number, self._on_open)
        self._on_open()  # somebody may have come before the watch was there

    def _is_wanted(self) -> bool:
        """Whether there are bytes and nobody to read them."""
        number = self._writer.number
        return bytes_waiting(number) > 0 and not has_reader(number)

    def _on_open(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._events.number, _EVENTS_BYTES)  # what they say does not matter
        if not self._is_wanted():
            self.close()

    def close(self) -> None:
        """End the FIFO.  Idempotent."""
        if self._events.number >= 0:
            self._loop.remove_reader(self._events.number)
        self._events.close()
        self._writer.close()


def _watch_opens(number: int) -> Fd:
    """An inotify that tells when somebody opens the file behind our `number`."""
    events = Fd(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
    path = f"/proc/self/fd/{number}".encode()
    if events.number >= 0 and _libc.inotify_add_watch(events.number, path, _IN_OPEN) >= 0:
        return events
    error = ctypes.get_errno()
    events.close()
    raise OSError(error, os.strerror(error))
