"""The server's side of one connection: its requests and their handlers."""

import asyncio
import functools
import logging
import socket
from collections.abc import Awaitable, Callable
from typing import Any, Final

from ttrpc import wire
from ttrpc.call import NO_METADATA, Call, Metadata, PeerCredentials
from ttrpc.codes import Code
from ttrpc.connection import ServerConnection
from ttrpc.errors import (
    ConnectionClosed,
    StatusError,
    StreamClosed,
    canceled,
    deadline_exceeded,
)
from ttrpc.events import DataReceived, ErrorReply, RequestReceived, ServerEvent
from ttrpc.inbox import FULL, Inbox
from ttrpc.message import parse
from ttrpc.registry import Method, Registry
from ttrpc.streams import ServerStream
from ttrpc.transport import Transport

log = logging.getLogger("ttrpc")

_NS_PER_S: Final = 1_000_000_000


class _Running:
    """A handler that has a task."""

    __slots__ = ("expired", "inbox", "over", "started", "task", "timer")

    task: asyncio.Task[None]  # set before the loop runs again

    def __init__(self, inbox: Inbox | None) -> None:
        self.inbox = inbox  # of a stream
        self.timer: asyncio.TimerHandle | None = None
        self.started = False
        self.expired = False  # its deadline has passed
        self.over = False  # its answer would have no receiver

    def expire(self) -> None:
        """Cancel at the deadline, but never before the handler's first step.

        So a handler that does not wait answers even after its deadline.  And a handler that began a
        change can report how far it got.
        """
        if self.started:
            self.expired = True
            self.task.cancel()
        else:
            self.task.get_loop().call_soon(self.expire)


class Session:
    """Owns the connection.  Calls `on_end` once, when the connection has ended.

    If a call is over and its handler's task still runs, the task is put into `ending`.  The owner
    of that set waits for these tasks.
    """

    __slots__ = (
        "_connection",
        "_ending",
        "_loop",
        "_on_end",
        "_registry",
        "_running",
        "_to_status",
        "_transport",
        "peer",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        peer: PeerCredentials,
        *,
        registry: Registry,
        to_status: Callable[[Exception], StatusError],
        ending: set[asyncio.Task[None]],
        on_end: Callable[["Session"], None],
    ) -> None:
        self._loop = loop
        self._registry = registry
        self._to_status = to_status
        self._ending = ending
        self._on_end = on_end
        self._running: dict[int, _Running] = {}
        self._connection = ServerConnection()
        self._transport = Transport[ServerEvent](
            loop,
            sock,
            self._connection,
            handle=self._handle,
            lost=self._lost,
            stop_when_congested=True,
        )
        self.peer = peer

    def start(self) -> None:
        self._transport.start()

    @property
    def idle(self) -> bool:
        """Whether each request is answered, and the kernel has accepted each answer."""
        return not self._connection.calls and not self._transport.waiting_bytes

    @property
    def calls(self) -> int:
        return self._connection.calls

    async def flush(self) -> None:
        await self._transport.wait_below(0)

    def close(self) -> None:
        self._transport.close()

    # --- what came ------------------------------------------------------------------------

    def _handle(self, event: ServerEvent) -> None:
        if isinstance(event, RequestReceived):
            self._request(event)
        elif isinstance(event, ErrorReply):
            self._refuse(event)
        else:
            running = self._running.get(event.stream_id)
            if running is None or running.inbox is None:
                return  # the handler ended before this event was handled
            if isinstance(event, DataReceived):
                running.inbox.put(event.payload)
            else:
                running.inbox.close()

    def _request(self, event: RequestReceived) -> None:
        timeout_ns = event.timeout_ns
        call = Call(
            event.service,
            event.method,
            deadline=self._loop.time() + timeout_ns / _NS_PER_S if timeout_ns else None,
            metadata=Metadata(event.metadata) if event.metadata else NO_METADATA,
            peer=self.peer,
        )
        try:
            method = self._registry.find(event.service, event.method)
            if method.streams:
                self._open_stream(event, method, call)
                return
            request = parse(method.request_type, event.payload)
        except StatusError as exc:
            self._transport.write(self._connection.fail(event.stream_id, exc))
            return
        if method.is_coroutine:
            self._start(event.stream_id, method, method.handler, request, call)
        else:
            self._call_now(event.stream_id, method, request, call)

    def _refuse(self, event: ErrorReply) -> None:
        running = self._running.get(event.stream_id) if event.on_stream else None
        if running is None:
            self._transport.write(self._connection.refuse(event))
        else:
            self._abort(event.stream_id, running, event.error)

    def _open_stream(self, event: RequestReceived, method: Method, call: Call) -> None:
        stream_id = event.stream_id
        half_closed = not method.client_streams or bool(event.flags & wire.REMOTE_CLOSED)
        self._connection.open_stream(stream_id, half_closed=half_closed)
        inbox = Inbox(self._loop, self._transport, functools.partial(self._overflow, stream_id))
        if event.payload or not method.client_streams:  # an empty payload is a request, too
            inbox.put(event.payload)
        if half_closed:
            inbox.close()
        send = functools.partial(self._send, stream_id)
        stream: ServerStream[Any, Any] = ServerStream(inbox, method.request_type, send)
        self._start(stream_id, method, method.handler, stream, call, inbox)

    # --- handlers -------------------------------------------------------------------------

    def _call_now(self, stream_id: int, method: Method, request: Any, call: Call) -> None:
        """Answer in the step that read the request: no task, no timer."""
        payload = None
        error = None
        try:
            result = method.handler(request, call)
            if isinstance(result, Awaitable):
                self._start(stream_id, method, lambda *_: result, request, call)
                return
            payload = None if result is None else result.SerializeToString()
        except asyncio.CancelledError:  # not of this session: from a future that the handler read
            error = canceled()
        except Exception as exc:  # noqa: BLE001 - a handler's error ends its call only
            error = self._status(exc)
        self._answer(stream_id, method, payload, error)

    def _start(
        self,
        stream_id: int,
        method: Method,
        handler: Callable[..., Awaitable[Any]],
        first: Any,
        call: Call,
        inbox: Inbox | None = None,
    ) -> None:
        running = _Running(inbox)
        self._running[stream_id] = running
        running.task = self._loop.create_task(
            self._serve(stream_id, running, method, handler, first, call)
        )
        if call.deadline is not None:
            running.timer = self._loop.call_at(call.deadline, running.expire)

    async def _serve(
        self,
        stream_id: int,
        running: _Running,
        method: Method,
        handler: Callable[..., Awaitable[Any]],
        first: Any,
        call: Call,
    ) -> None:
        running.started = True
        payload = None
        error = None
        try:
            result = await handler(first, call)
            payload = None if result is None else result.SerializeToString()
        except asyncio.CancelledError:
            if running.over:
                raise
            error = deadline_exceeded() if running.expired else canceled()
        except Exception as exc:  # noqa: BLE001 - a handler's error ends its call only
            if running.over and isinstance(exc, ConnectionClosed | StreamClosed):
                return  # the connection ended during a send: not a bug of the handler
            error = self._status(exc)
        if running.over:
            return
        del self._running[stream_id]
        if running.timer is not None:
            running.timer.cancel()
        if running.inbox is not None:
            running.inbox.fail(StreamClosed())
        self._answer(stream_id, method, payload, error)

    def _answer(
        self, stream_id: int, method: Method, payload: bytes | None, error: StatusError | None
    ) -> None:
        connection = self._connection
        try:
            if error is not None:
                frame = connection.fail(stream_id, error)
            elif method.server_streams:
                frame = connection.finish(stream_id, payload)
            elif payload is not None:
                frame = connection.respond(stream_id, payload)
            else:
                nothing = StatusError(Code.UNKNOWN, "ttrpc: marshal called with nil")
                frame = connection.fail(stream_id, nothing)
        except Exception:  # the handler's result or error has a wrong type
            log.exception("an answer could not be encoded", extra={"method": method.handler})
            unsendable = StatusError(Code.INTERNAL, "the answer could not be encoded")
            frame = connection.fail(stream_id, unsendable)
        self._transport.write(frame)

    def _status(self, exc: Exception) -> StatusError:
        try:
            return self._to_status(exc)
        except Exception:
            log.exception("an error could not be converted")
            return StatusError(Code.INTERNAL, f"{type(exc).__name__}: {exc}")

    async def _send(self, stream_id: int, payload: bytes) -> None:
        await self._transport.drain()
        self._transport.write(self._connection.send(stream_id, payload))
        await asyncio.sleep(0)  # else a handler that only sends blocks the loop

    # --- ends -----------------------------------------------------------------------------

    def _overflow(self, stream_id: int) -> None:
        error = StatusError(Code.INVALID_ARGUMENT, f"data handling error: {FULL}")
        self._abort(stream_id, self._running[stream_id], error)

    def _abort(self, stream_id: int, running: _Running, error: StatusError) -> None:
        """End a stream whose handler has not ended."""
        self._transport.write(self._connection.fail(stream_id, error))
        del self._running[stream_id]
        self._abandon(running, StreamClosed())

    def _lost(self) -> None:
        running_calls = list(self._running.values())
        self._running.clear()
        for running in running_calls:
            self._abandon(running, ConnectionClosed())
        self._on_end(self)

    def _abandon(self, running: _Running, reason: Exception) -> None:
        """Cancel a handler whose answer has no receiver, and put its task into `ending`.

        The cancellation comes after its first step.  Reason: a client may send a Kill and close the
        connection at once, and the Kill has to take effect.
        """
        running.over = True
        if running.timer is not None:
            running.timer.cancel()
        if running.inbox is not None:
            running.inbox.fail(reason)
        self._ending.add(running.task)
        running.task.add_done_callback(self._ending.discard)
        self._loop.call_soon(running.task.cancel)
