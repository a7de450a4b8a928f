"""A streaming call as its handler sees it, and as its caller does."""

from collections.abc import Awaitable, Callable
from typing import Any, Generic, Self, TypeVar

from ttrpc.connection import ClientConnection
from ttrpc.errors import RemoteProtocolError, StreamClosed
from ttrpc.inbox import Inbox
from ttrpc.message import UNREADABLE, Message, parse, reason
from ttrpc.transport import Transport

Req = TypeVar("Req", bound=Message)
Resp = TypeVar("Resp", bound=Message)


class ServerStream(Generic[Req, Resp]):
    """Messages of one call in both directions.  It lives as long as its handler runs.

    `async for request in stream` ends when the client has closed its side.
    """

    __slots__ = ("_inbox", "_request_type", "_send")

    def __init__(
        self, inbox: Inbox, request_type: type[Req], send: Callable[[bytes], Awaitable[None]]
    ) -> None:
        self._inbox = inbox
        self._request_type = request_type
        self._send = send

    async def receive(self) -> Req:
        """Take the client's next message; for one receiver at a time.

        Raises:
            EOFError: the client has closed its side.
            StatusError: INTERNAL, these bytes are no such message.
        """
        return parse(self._request_type, await self._inbox.get())

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Req:
        try:
            return await self.receive()
        except EOFError:
            raise StopAsyncIteration from None

    async def send(self, message: Resp) -> None:
        """Send a message; waits while the client has too much to read already.

        Raises:
            StatusError: RESOURCE_EXHAUSTED, the message is too long; the stream goes on.
            StreamClosed: the call was ended because the client broke the rules of its stream.
            ConnectionClosed: the client is gone.
        """
        await self._send(message.SerializeToString())


class ClientStream(Generic[Resp]):
    """A streaming call at the client: a context manager that gives the call up when it is left.

    `async for response in stream` ends when the server has ended the call well.
    """

    __slots__ = ("_connection", "_end", "_inbox", "_response_type", "_transport", "stream_id")

    def __init__(
        self,
        connection: ClientConnection,
        transport: Transport[Any],
        stream_id: int,
        inbox: Inbox,
        response_type: type[Resp],
        end: Callable[[Exception], None],
    ) -> None:
        self._connection = connection
        self._transport = transport
        self.stream_id = stream_id
        self._inbox = inbox
        self._response_type = response_type
        self._end = end

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        self.close()

    async def send(self, message: Message) -> None:
        """Send a message; waits while the server has too much to read already.

        Raises:
            StatusError: RESOURCE_EXHAUSTED, the message is too long; the stream goes on.
            StreamClosed: this side is closed, or the call has ended; `receive` tells how.
            ConnectionClosed: the server is gone.
        """
        await self._transport.drain()
        self._transport.write(self._connection.send(self.stream_id, message.SerializeToString()))

    def close_send(self) -> None:
        """Say that no more will be sent.

        Raises:
            StreamClosed: it was said before, or the call has ended.
        """
        self._transport.write(self._connection.close_send(self.stream_id))

    async def receive(self) -> Resp:
        """Take the server's next message; for one receiver at a time.

        Raises:
            EOFError: the server has ended the call well.
            StatusError, ConnectionClosed, RemoteProtocolError: as for a unary call.
        """
        payload = await self._inbox.get()
        try:
            return self._response_type.FromString(payload)
        except UNREADABLE as exc:
            raise RemoteProtocolError(f"unmarshal response error: {reason(exc)}") from None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Resp:
        try:
            return await self.receive()
        except EOFError:
            raise StopAsyncIteration from None

    def close(self) -> None:
        """Give the call up, if it has not ended.  The server is not told: there is no way to."""
        self._end(StreamClosed())
