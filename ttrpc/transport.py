"""Moves bytes between a connected Unix socket and a connection.

It does not interpret the bytes.  It uses `add_reader`, `add_writer`, `call_soon` and futures of the
loop.  It is responsible for:

* Order: bytes are sent in the order of `write`: at once, or later if the socket is full.
* Back-pressure: if a client leaves more than `limit_bytes` unread, the server stops reading from
  its connection.  So a client that does not read stalls only itself, and its memory is bounded.
* Fairness: after `EVENTS_PER_STEP` events other connections and tasks get their turn.
* The end: `lost` is called exactly once, for each way in which the connection can end.
"""

import asyncio
import logging
import socket
import struct
from collections.abc import Callable
from typing import Final, Generic, Protocol, TypeVar

from ttrpc.call import PeerCredentials
from ttrpc.errors import ConnectionClosed

log = logging.getLogger("ttrpc")

READ_BYTES: Final = 64 * 1024
EVENTS_PER_STEP: Final = 64  # requests answered before other connections get a turn
LIMIT_BYTES: Final = 1024 * 1024
_LOW_PART: Final = 4  # reading continues when a quarter of the limit is left

E_co = TypeVar("E_co", covariant=True)
E = TypeVar("E")


class Connection(Protocol[E_co]):
    @property
    def mid_frame(self) -> bool: ...

    def feed(self, chunk: bytes) -> None: ...

    def next_event(self) -> E_co | None: ...


def socket_path(address: str) -> str:
    """Return the path in a daemon's address, which is `unix://PATH` or a plain path."""
    return address.removeprefix("unix://")


def peer_credentials(sock: socket.socket) -> PeerCredentials:
    """Return the process at the other end: the one that connected, or the one that listens."""
    size = struct.calcsize("3i")
    data = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    return PeerCredentials(*struct.unpack("3i", data))


class Transport(Generic[E]):
    """Owns the socket.  Does nothing before `start`."""

    __slots__ = (
        "_connection",
        "_fd",
        "_handle",
        "_held",
        "_limit_bytes",
        "_loop",
        "_lost",
        "_out",
        "_reading",
        "_sock",
        "_stop_when_congested",
        "_waiters",
        "_write_failed",
        "closed",
        "congested",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        connection: Connection[E],
        *,
        handle: Callable[[E], None],
        lost: Callable[[], None],
        stop_when_congested: bool,
        limit_bytes: int = LIMIT_BYTES,
    ) -> None:
        self._loop = loop
        self._sock = sock
        self._fd = sock.fileno()
        self._connection = connection
        self._handle = handle
        self._lost = lost
        self._stop_when_congested = stop_when_congested
        self._limit_bytes = limit_bytes
        self._out = bytearray()  # bytes that the kernel has not accepted yet
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []
        self._reading = False
        self._held = False
        self._write_failed = False
        self.closed = False
        self.congested = False  # `_out` has more bytes than the limit

    def start(self) -> None:
        self._resume_reading()

    # --- out ------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Send a frame, at once if the kernel accepts it.  After the end the frame is dropped."""
        if self._out:
            self._out += data
        elif not self.closed and not self._write_failed:
            try:
                sent = self._sock.send(data)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError:
                self._fail_writing()
                return
            if sent == len(data):
                return
            self._out += memoryview(data)[sent:]
            self._loop.add_writer(self._fd, self._on_writable)
        if len(self._out) > self._limit_bytes:
            self.congested = True

    async def wait_below(self, limit_bytes: int | None = None) -> None:
        """Wait until at most `limit_bytes` (by default: a quarter of the limit) are unsent.

        Returns also if the connection has ended: then no bytes are unsent.
        """
        if limit_bytes is None:
            limit_bytes = self._limit_bytes // _LOW_PART
        if len(self._out) > limit_bytes:
            waiter: asyncio.Future[None] = self._loop.create_future()
            self._waiters.append((limit_bytes, waiter))
            await waiter

    async def drain(self) -> None:
        """Wait while the connection is congested.

        Raises:
            ConnectionClosed: the connection ended before the call or during it.
        """
        while self.congested:
            await self.wait_below()
        if self.closed:
            raise ConnectionClosed

    def _on_writable(self) -> None:
        try:
            sent = self._sock.send(self._out)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._fail_writing()
            return
        del self._out[:sent]
        self._written()

    def _written(self) -> None:
        waiting = len(self._out)
        if not waiting:
            self._loop.remove_writer(self._fd)
        if self._waiters:
            for limit_bytes, waiter in self._waiters:
                if waiting <= limit_bytes and not waiter.done():
                    waiter.set_result(None)
            self._waiters = [one for one in self._waiters if not one[1].done()]
        if self.congested and waiting <= self._limit_bytes // _LOW_PART:
            self.congested = False
            self.pump()

    def _fail_writing(self) -> None:
        """Note that the client reads no more: drop all output, but read until end of file.

        So requests that the client has sent before (a Kill) are still served.
        """
        self._write_failed = True
        self._out.clear()
        self._written()
        self._loop.call_soon(self.pump)

    def _end_if_nothing_to_read(self) -> None:
        if self.closed:
            return
        try:
            self._sock.recv(1, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            self.close()  # the client shut down its reading side: no call can be answered
        except OSError:
            pass  # `_on_readable` gets the same error

    # --- in -------------------------------------------------------------------------------

    def hold(self) -> None:
        """Handle no more events until `release`: the last event cannot be delivered yet."""
        self._held = True

    def release(self) -> None:
        self._held = False
        self._loop.call_soon(self.pump)

    def pump(self) -> None:
        """Handle the events that have come, then read more, unless back-pressure forbids it."""
        next_event = self._connection.next_event
        budget = EVENTS_PER_STEP
        while not self.closed:
            if self._held or (self.congested and self._stop_when_congested):
                self._pause_reading()
                return
            event = next_event()
            if event is None:
                self._resume_reading()
                if self._write_failed:
                    self._loop.call_soon(self._end_if_nothing_to_read)
                return
            self._handle(event)
            budget -= 1
            if not budget:
                self._pause_reading()
                self._loop.call_soon(self.pump)
                return

    def _on_readable(self) -> None:
        try:
            chunk = self._sock.recv(READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as exc:  # ECONNRESET: the peer closed with unread bytes
            log.debug("reading from a connection failed", extra={"error": str(exc)})
            chunk = b""
        if not chunk:
            if self._connection.mid_frame:
                log.debug("a connection ended inside a frame")
            self.close()
            return
        self._connection.feed(chunk)
        self.pump()

    def _pause_reading(self) -> None:
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._fd)

    def _resume_reading(self) -> None:
        if not self._reading:
            self._reading = True
            self._loop.add_reader(self._fd, self._on_readable)

    # --- end ------------------------------------------------------------------------------

    @property
    def waiting_bytes(self) -> int:
        """The number of written bytes that the kernel has not accepted yet."""
        return len(self._out)

    def close(self) -> None:
        """End the connection at once, and drop unsent bytes.  Idempotent."""
        if self.closed:
            return
        self.closed = True
        self.congested = False
        self._pause_reading()
        if self._out:
            self._loop.remove_writer(self._fd)
            self._out.clear()
        for _limit, waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()
        self._sock.close()
        lost = self._lost
        self._handle = self._lost = _nothing  # no cycle: the memory is freed at once
        lost()


def _nothing(*_ignored: object) -> None:
    pass
