"""An asyncio client: any number of calls at once on one connection."""

import asyncio
import functools
import logging
import socket
from collections.abc import Sequence
from typing import Final, TypeVar

from ttrpc.connection import ClientConnection
from ttrpc.errors import (
    ConnectionClosed,
    LocalProtocolError,
    RemoteProtocolError,
    deadline_exceeded,
)
from ttrpc.events import ClientEvent, DataReceived, HalfClosed, ResponseReceived
from ttrpc.inbox import FULL, Inbox
from ttrpc.message import UNREADABLE, Message, reason
from ttrpc.streams import ClientStream
from ttrpc.transport import Transport, peer_credentials, socket_path

log = logging.getLogger("ttrpc")

CONNECT_PAUSE_S: Final = 0.01  # between attempts while the server's backlog is full

R = TypeVar("R", bound=Message)


def timeout_ns(timeout_s: float | None) -> int:
    """Convert a timeout to the request's field in nanoseconds; 0 = no timeout.

    Raises:
        StatusError: DEADLINE_EXCEEDED, the timeout has expired: the request need not be sent.
    """
    if timeout_s is None:
        return 0
    if timeout_s <= 0:
        raise deadline_exceeded()
    return max(1, int(timeout_s * 1_000_000_000))


def result(event: ResponseReceived, response_type: type[R]) -> R:
    """Return the message of a response.

    Raises:
        StatusError: the server answered with one.
        RemoteProtocolError: the server's answer cannot be parsed.
    """
    try:
        response = response_type.FromString(event.payload)
    except UNREADABLE as exc:
        raise RemoteProtocolError(f"unmarshal response error: {reason(exc)}") from None
    if event.error is not None:
        raise event.error
    return response


class Client:
    """One connection to a server.  Open it with `connect`; the caller must `close` it.

    The protocol has no cancel.  If a call is cancelled or times out, the client forgets it and the
    server continues it until the deadline in the request.
    """

    def __init__(self, sock: socket.socket) -> None:
        """Take ownership of a connected Unix socket.  Needs a running loop."""
        sock.setblocking(False)
        self._loop = asyncio.get_running_loop()
        self.peer = peer_credentials(sock)
        self._ended = asyncio.Event()
        self._calls: dict[int, asyncio.Future[ResponseReceived]] = {}
        self._streams: dict[int, tuple[Inbox, asyncio.TimerHandle | None]] = {}
        self._connection = ClientConnection()
        self._transport = Transport[ClientEvent](
            self._loop,
            sock,
            self._connection,
            handle=self._handle,
            lost=self._lost,
            stop_when_congested=False,  # reading makes room at the other end
        )
        self._transport.start()

    @classmethod
    async def connect(cls, path: str, *, timeout_s: float) -> "Client":
        """Connect to a server's socket.

        Raises:
            OSError: no server listens there.  TimeoutError: its backlog stayed full.
        """
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.setblocking(False)
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    try:
                        sock.connect(socket_path(path))
                    except BlockingIOError:  # a full backlog; there is nothing to wait for
                        await asyncio.sleep(CONNECT_PAUSE_S)
                    else:
                        return cls(sock)
        except BaseException:
            sock.close()
            raise

    @property
    def closed(self) -> bool:
        return self._transport.closed

    async def close(self) -> None:
        """Close the connection at once; unfinished calls fail with `ConnectionClosed`."""
        self._transport.close()

    async def wait_closed(self) -> None:
        """Wait until the connection has ended, whichever side ended it."""
        await self._ended.wait()

    async def call(
        self,
        service: str,
        method: str,
        request: Message,
        response_type: type[R],
        *,
        timeout_s: float | None = None,
        metadata: Sequence[tuple[str, str]] = (),
    ) -> R:
        """Call a unary method.

        Raises:
            StatusError: the server's answer; DEADLINE_EXCEEDED also when there was none in time.
            ConnectionClosed: the connection ended before the answer.
            RemoteProtocolError: the server's answer cannot be parsed.
        """
        timeout_s = await self._turn(timeout_s)
        stream_id, frame = self._connection.request(
            service,
            method,
            request.SerializeToString(),
            timeout_ns=timeout_ns(timeout_s),
            metadata=metadata,
        )
        answer: asyncio.Future[ResponseReceived] = self._loop.create_future()
        self._calls[stream_id] = answer
        timer = None
        if timeout_s is not None:
            timer = self._loop.call_at(self._loop.time() + timeout_s, _expire, answer)
        try:
            self._transport.write(frame)
            return result(await answer, response_type)
        finally:
            if timer is not None:
                timer.cancel()
            if self._calls.pop(stream_id, None) is not None:
                self._connection.forget(stream_id)

    async def stream(
        self,
        service: str,
        method: str,
        response_type: type[R],
        *,
        request: Message | None = None,
        client_streams: bool = False,
        server_streams: bool = True,
        timeout_s: float | None = None,
        metadata: Sequence[tuple[str, str]] = (),
    ) -> ClientStream[R]:
        """Begin a streaming call.  `client_streams` and `server_streams` are as in the .proto file.

        `request` is the first message; a method whose client side does not stream needs it.
        Raises the same errors as `call`.
        """
        if request is None and not client_streams:
            raise LocalProtocolError("a client side that does not stream sends one request")
        timeout_s = await self._turn(timeout_s)
        stream_id, frame = self._connection.request(
            service,
            method,
            b"" if request is None else request.SerializeToString(),
            timeout_ns=timeout_ns(timeout_s),
            metadata=metadata,
            sends_data=client_streams,
            receives_data=server_streams,
        )
        end = functools.partial(self._end_stream, stream_id)
        inbox = Inbox(self._loop, self._transport, lambda: end(LocalProtocolError(FULL)))
        timer = None
        if timeout_s is not None:
            at = self._loop.time() + timeout_s
            timer = self._loop.call_at(at, end, deadline_exceeded())
        self._streams[stream_id] = inbox, timer
        self._transport.write(frame)
        return ClientStream(self._connection, self._transport, stream_id, inbox, response_type, end)

    async def _turn(self, timeout_s: float | None) -> float | None:
        """Wait while the write buffer is full (back-pressure); return the remaining timeout."""
        if self._transport.closed:
            raise ConnectionClosed
        if not self._transport.congested:
            return timeout_s
        began = self._loop.time()
        try:
            async with asyncio.timeout(timeout_s):
                await self._transport.drain()
        except TimeoutError:
            raise deadline_exceeded() from None
        return None if timeout_s is None else timeout_s - (self._loop.time() - began)

    def _handle(self, event: ClientEvent) -> None:
        stream_id = event.stream_id
        if isinstance(event, ResponseReceived):
            answer = self._calls.pop(stream_id, None)
            if answer is not None:
                if not answer.done():
                    answer.set_result(event)
                return
        if stream_id not in self._streams:
            # Usual after a timed-out call: its answer came late.
            log.debug("ttrpc: received message on inactive stream", extra={"stream": stream_id})
            return
        inbox, timer = self._streams[stream_id]
        if isinstance(event, DataReceived):
            inbox.put(event.payload)
        elif isinstance(event, HalfClosed | ResponseReceived):
            if timer is not None:
                timer.cancel()
            del self._streams[stream_id]
            if isinstance(event, HalfClosed):
                inbox.close()
            elif event.error is not None:
                inbox.fail(event.error)
            else:
                inbox.put(event.payload)
                inbox.close()

    def _end_stream(self, stream_id: int, error: Exception) -> None:
        """End a stream at this end only.  Idempotent."""
        self._connection.forget(stream_id)
        if stream_id in self._streams:
            inbox, timer = self._streams.pop(stream_id)
            if timer is not None:
                timer.cancel()
            inbox.fail(error)

    def _lost(self) -> None:
        for answer in self._calls.values():
            if not answer.done():
                answer.set_exception(ConnectionClosed())
        self._calls.clear()
        for stream_id in list(self._streams):
            self._end_stream(stream_id, ConnectionClosed())
        self._ended.set()


def _expire(answer: asyncio.Future[ResponseReceived]) -> None:
    if not answer.done():
        answer.set_exception(deadline_exceeded())
