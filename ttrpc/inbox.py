"""The bounded queue of received messages of one stream.

The protocol has no flow control.  When a queue is full, the connection is not read for up to
`PATIENCE_S`.  If the consumer takes no message in that time, its stream ends with an error; the
connection and its other calls continue (as in the Go implementation since 1.2.8).
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from ttrpc.errors import LocalProtocolError
from ttrpc.transport import Transport

DEPTH: Final = 64  # messages
PATIENCE_S: Final = 1.0  # how long a full inbox may stop the reading of its connection
FULL: Final = "ttrpc: stream buffer full"


class Inbox:
    """The queue between a connection and a stream's only consumer.

    `overflow` is called when the queue stayed full for `PATIENCE_S`.  It must end the stream and
    call `fail`.
    """

    __slots__ = ("_end", "_items", "_late", "_loop", "_overflow", "_timer", "_transport", "_waiter")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        transport: Transport[Any],
        overflow: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._transport = transport
        self._overflow = overflow
        self._items: deque[bytes] = deque()
        self._late: bytes | None = (
            None  # the message beyond the bound: while it waits, reading stops
        )
        self._timer: asyncio.TimerHandle | None = None
        self._end: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None

    def put(self, payload: bytes) -> None:
        if len(self._items) < DEPTH:
            self._items.append(payload)
            self._wake()
            return
        self._late = payload
        self._timer = self._loop.call_at(self._loop.time() + PATIENCE_S, self._overflow)
        self._transport.hold()

    def close(self) -> None:
        """End the queue: no more messages follow.  Queued ones can still be taken."""
        self._end = EOFError("EOF")
        self._wake()

    def fail(self, error: Exception) -> None:
        """End the queue with an error, which `get` raises after the queued messages."""
        if self._late is not None:
            self._late = None
            self._release()
        self._end = error
        self._wake()

    async def get(self) -> bytes:
        """Wait for the next message.

        Raises:
            EOFError: the peer has closed its side.
            Exception: the error that was given to `fail`.
            LocalProtocolError: another caller is waiting.
        """
        while not self._items:
            if self._end is not None:
                raise self._end.with_traceback(None)
            if self._waiter is not None:
                raise LocalProtocolError("a stream has one receiver at a time")
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        payload = self._items.popleft()
        if self._late is not None:
            self._items.append(self._late)
            self._late = None
            self._release()
        return payload

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _release(self) -> None:
        assert self._timer is not None  # `put` set it with the late message
        self._timer.cancel()
        self._timer = None  # a TimerHandle refers to its callback: break the cycle
        self._transport.release()
