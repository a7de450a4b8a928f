"""The messages of one stream that have come and are not taken yet.

Bounded, because the protocol has no flow control: when it is full the whole connection is not read
for a while; a consumer that does not come back in that time loses its stream, not the connection
its other calls (this is what the Go implementation does since 1.2.8).
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from ttrpc.errors import LocalProtocolError
from ttrpc.transport import Transport

DEPTH: Final = 64  # messages
PATIENCE_S: Final = 1.0  # how long a full inbox may stop its connection
FULL: Final = "ttrpc: stream buffer full"


class Inbox:
    """The queue between a connection and the one consumer of a stream.

    `overflow` is called when a message could not be delivered in time; it must end the stream and
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
        self._late: bytes | None = None  # the message that holds the connection
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
        """Nothing more will come.  What is here can still be taken."""
        self._end = EOFError("EOF")
        self._wake()

    def fail(self, error: Exception) -> None:
        """Nothing more will come, by an error.  What came before it can still be taken."""
        if self._late is not None:
            self._late = None
            self._release()
        self._end = error
        self._wake()

    async def get(self) -> bytes:
        """Take the next message.

        Raises:
            EOFError: the other end has closed its side.
            Exception: what `fail` was given.
            LocalProtocolError: somebody else waits here already.
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
        assert self._timer is not None  # it came with the late message
        self._timer.cancel()
        self._timer = None  # a timer knows its callback: no cycle
        self._transport.release()
