"""Keep the last bytes of an output for a client that is away.

If a process ends while its client restarts, its last bytes are in a FIFO without a reader.  The
kernel drops them when the last fd of the FIFO is closed; the Go shim closes its fds at once.  This
shim keeps the writing end open until a client opens the FIFO, or until Delete.  The client then
reads the bytes and the end of file.  inotify reports the open, so that the shim does not poll.

dockerd opens the FIFO when it is back, and asks for Delete at once.  At the answer it closes its
end, whatever is in it.  So the shim opens a reading end then, and Delete waits for what is unread.
"""

import asyncio
import contextlib
import ctypes
import logging
import os
from collections.abc import Callable
from typing import Final

from shimv2.io.fifo import NO_SURPRISES, Fd, has_reader
from shimv2.kernel.linux import bytes_waiting

_IN_OPEN: Final = 0x20
_EVENTS_BYTES: Final = 4096

log = logging.getLogger(__name__)

_libc = ctypes.CDLL(None, use_errno=True)


class Unread:
    """Owns the writing end of a FIFO whose stream has ended, the last of the shim's ends.

    `on_client` gets a reading end, and owns it, once a client has opened the FIFO.
    """

    def __init__(self, writer: Fd, on_client: Callable[[Fd], None]) -> None:
        self._writer = writer
        self._on_client = on_client
        self._events = Fd(-1)
        if not self._is_wanted():
            self.close()
            return
        self._loop = asyncio.get_running_loop()
        try:
            self._events = _watch_opens(writer.number)
        except OSError as exc:  # inotify instances are limited, 128 for each user
            log.warning("output without a reader is not kept: %s", exc)
            self.close()
            return
        self._loop.add_reader(self._events.number, self.look_for_client)
        self.look_for_client()  # one may have come before the watch was there

    def _is_wanted(self) -> bool:
        """Whether the FIFO has bytes and no reader."""
        number = self._writer.number
        return bytes_waiting(number) > 0 and not has_reader(number)

    def look_for_client(self) -> None:
        """End the stream if a client has opened the FIFO, also before inotify's event is read."""
        if self._events.number < 0:
            return
        with contextlib.suppress(BlockingIOError):
            os.read(self._events.number, _EVENTS_BYTES)  # which events they are does not matter
        if self._is_wanted():
            return
        # Out of descriptors, Delete does not wait.
        with contextlib.suppress(OSError):
            path = f"/proc/self/fd/{self._writer.number}"
            self._on_client(Fd(os.open(path, os.O_RDONLY | NO_SURPRISES)))
        self.close()

    def close(self) -> None:
        """End the FIFO.  Idempotent."""
        if self._events.number >= 0:
            self._loop.remove_reader(self._events.number)
        self._events.close()
        self._writer.close()


def _watch_opens(number: int) -> Fd:
    """Return an inotify that reports each open of the file behind the descriptor `number`."""
    events = Fd(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
    path = f"/proc/self/fd/{number}".encode()
    if events.number >= 0 and _libc.inotify_add_watch(events.number, path, _IN_OPEN) >= 0:
        return events
    error = ctypes.get_errno()
    events.close()
    raise OSError(error, os.strerror(error))
