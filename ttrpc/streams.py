"""A streaming call at the server (`ServerStream`) and at the client (`ClientStream`)."""

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
    """The messages of one call in both directions.  Valid while its handler runs.

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
        """Wait for the client's next message.  Only one caller may wait at a time.

        Raises:
            EOFError: the client has closed its side.
            StatusError: INTERNAL, the message cannot be parsed.
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
        """Send a message; waits while the connection's write buffer is full (back-pressure).

        Raises:
            StatusError: RESOURCE_EXHAUSTED, the message is too long; the stream stays open.
            StreamClosed: the call was ended because the client violated a rule of streams.
            ConnectionClosed: the client has disconnected.
        """
        await self._send(message.SerializeToString())


class ClientStream(Generic[Resp]):
    """A streaming call at the client: a context manager that abandons the call on exit.

    `async for response in stream` ends when the server has ended the call without an error.
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
        """Send a message; waits while the connection's write buffer is full (back-pressure).

        Raises:
            StatusError: RESOURCE_EXHAUSTED, the message is too long; the stream stays open.
            StreamClosed: this side is closed, or the call has ended; `receive` raises its error.
            ConnectionClosed: the connection has ended.
        """
        await self._transport.drain()
        self._transport.write(self._connection.send(self.stream_id, message.SerializeToString()))

    def close_send(self) -> None:
        """Close this side of the stream: no more messages follow.

        Raises:
            StreamClosed: this side is closed already, or the call has ended.
        """
        self._transport.write(self._connection.close_send(self.stream_id))

    async def receive(self) -> Resp:
        """Wait for the server's next message.  Only one caller may wait at a time.

        Raises:
            EOFError: the server has ended the call without an error.
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
        """Abandon the call if it has not ended.  The server does not learn of it."""
        self._end(StreamClosed())
