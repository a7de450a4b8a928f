"""The server's and the client's end of a connection, as state machines without I/O.  Pure.

The driver (`session`, `client`, `blocking`) does the I/O and keeps the deadlines:

1. It passes the bytes it has read to `feed`.
2. It calls `next_event` until that returns None, and acts on each event.
3. It writes the bytes that the other methods return, in the order they were returned.

Events are taken one by one, because the driver's reaction decides how the next frame is read.  For
example, the driver calls `open_stream` for a streaming method.

The order of the checks, and the texts, are those of the Go implementation (v1.2.9).
"""

from collections import deque
from collections.abc import Iterable
from enum import Enum, auto
from typing import Final

from ttrpc import codec, wire
from ttrpc.codes import Code
from ttrpc.errors import (
    LocalProtocolError,
    RemoteProtocolError,
    StatusError,
    StreamClosed,
    too_long,
)
from ttrpc.events import (
    ClientEvent,
    DataReceived,
    ErrorReply,
    HalfClosed,
    RequestReceived,
    ResponseReceived,
    ServerEvent,
    StrayFrame,
)

MAX_STREAM_ID: Final = 2**32 - 1


class _Inbound(Enum):
    """What the client may still send on a stream."""

    NOTHING = auto()  # a unary call: there is no stream
    OPEN = auto()
    CLOSED = auto()  # the client closed its side


class ServerConnection:
    """The accepting end of a connection."""

    __slots__ = ("_calls", "_decoder", "_last_id", "_queue")

    def __init__(self) -> None:
        self._decoder = wire.FrameDecoder()
        self._calls: dict[int, _Inbound] = {}  # stream id -> state, of calls without an answer
        self._last_id = 0
        self._queue: deque[ServerEvent] = deque()  # one frame may cause three events

    @property
    def mid_frame(self) -> bool:
        return self._decoder.mid_frame

    @property
    def calls(self) -> int:
        """The number of calls without an answer."""
        return len(self._calls)

    def feed(self, chunk: bytes) -> None:
        self._decoder.feed(chunk)

    def next_event(self) -> ServerEvent | None:
        """Take the next event, or None when more bytes are needed."""
        if self._queue:
            return self._queue.popleft()
        while (frame := self._decoder.next_frame()) is not None:
            event = self._read(frame)
            if event is not None:
                return event
        return None

    def open_stream(self, stream_id: int, *, half_closed: bool) -> None:
        """Mark the call as a streaming one: from now on its Data frames give events."""
        self._require(stream_id)
        self._calls[stream_id] = _Inbound.CLOSED if half_closed else _Inbound.OPEN

    def respond(self, stream_id: int, payload: bytes) -> bytes:
        """End a call with a result: a unary call, or one whose server side does not stream.

        A result that does not fit into a frame becomes an error of this call.  The Go
        implementation closes the connection, which containerd takes for the death of the shim.
        """
        data = codec.encode_response(payload)
        if len(data) > wire.MAX_DATA_BYTES:
            return self.fail(stream_id, too_long(len(data), wire.MAX_DATA_BYTES))
        frame = wire.encode_frame(stream_id, wire.RESPONSE, 0, data)
        self._end(stream_id)
        return frame

    def fail(self, stream_id: int, error: StatusError) -> bytes:
        """End a call of any kind with an error."""
        frame = self.refuse(ErrorReply(stream_id, error))
        self._end(stream_id)
        return frame

    def refuse(self, reply: ErrorReply) -> bytes:
        """Build the frame of an `ErrorReply`; no call changes its state."""
        data = codec.encode_error(reply.error)
        if len(data) > wire.MAX_DATA_BYTES:  # the details are too long: leave them out
            data = codec.encode_error(StatusError(reply.error.code, reply.error.message))
        return wire.encode_frame(reply.stream_id, wire.RESPONSE, 0, data)

    def send(self, stream_id: int, payload: bytes) -> bytes:
        """Send one message of a stream.

        Raises:
            StatusError: RESOURCE_EXHAUSTED, the message is too long; the stream stays open.
            StreamClosed: the stream has ended.
        """
        if self._calls.get(stream_id, _Inbound.NOTHING) is _Inbound.NOTHING:
            raise StreamClosed
        return wire.encode_frame(stream_id, wire.DATA, 0, payload)

    def finish(self, stream_id: int, payload: bytes | None) -> bytes:
        """End a stream without an error, with a last message or None."""
        flags = wire.REMOTE_CLOSED | (wire.NO_DATA if payload is None else 0)
        if payload is not None and len(payload) > wire.MAX_DATA_BYTES:
            return self.fail(stream_id, too_long(len(payload), wire.MAX_DATA_BYTES))
        frame = wire.encode_frame(stream_id, wire.DATA, flags, payload or b"")
        self._end(stream_id)
        return frame

    def _end(self, stream_id: int) -> None:
        self._require(stream_id)
        del self._calls[stream_id]

    def _require(self, stream_id: int) -> None:
        if stream_id not in self._calls:
            raise LocalProtocolError(f"stream {stream_id} has no call to answer")

    def _read(self, frame: wire.Frame | wire.Oversized) -> ServerEvent | None:
        stream_id = frame.stream_id
        if isinstance(frame, wire.Oversized):
            return ErrorReply(stream_id, too_long(frame.length_bytes, wire.MAX_DATA_BYTES))
        if not stream_id & 1:
            return _invalid(stream_id, "StreamID must be odd for client initiated streams")
        if frame.kind == wire.REQUEST:
            return self._read_request(frame)
        if frame.kind == wire.DATA:
            return self._read_data(frame)
        return None  # an unknown kind is ignored

    def _read_request(self, frame: wire.Frame) -> ServerEvent:
        stream_id = frame.stream_id
        if stream_id <= self._last_id:
            return _invalid(stream_id, "StreamID cannot be re-used and must increment")
        self._last_id = stream_id
        try:
            request = codec.decode_request(frame.data)
        except RemoteProtocolError as exc:
            return _invalid(stream_id, str(exc))
        self._calls[stream_id] = _Inbound.NOTHING
        metadata = request.metadata
        return RequestReceived(
            stream_id,
            request.service,
            request.method,
            request.payload,
            request.timeout_nano,
            [(pair.key, pair.value) for pair in metadata] if metadata else (),
            frame.flags,
        )

    def _read_data(self, frame: wire.Frame) -> ServerEvent | None:
        stream_id = frame.stream_id
        inbound = self._calls.get(stream_id, _Inbound.NOTHING)
        if inbound is _Inbound.NOTHING:
            # Also for a unary call without an answer yet, where the Go implementation crashes.
            # That call continues and gets its own answer.
            return _invalid(stream_id, "StreamID is no longer active")
        if not frame.flags & wire.NO_DATA:
            if inbound is _Inbound.CLOSED:
                return _invalid(stream_id, f"data handling error: {StreamClosed()}", on_stream=True)
            self._queue.append(DataReceived(stream_id, frame.data))
        if frame.flags & wire.REMOTE_CLOSED:
            if inbound is _Inbound.OPEN:
                self._calls[stream_id] = _Inbound.CLOSED
                self._queue.append(HalfClosed(stream_id))
            if frame.data:
                text = "data close message cannot include data"
                self._queue.append(_invalid(stream_id, text, on_stream=True))
        return self._queue.popleft() if self._queue else None


def _invalid(stream_id: int, text: str, *, on_stream: bool = False) -> ErrorReply:
    return ErrorReply(stream_id, StatusError(Code.INVALID_ARGUMENT, text), on_stream)


class _Call:
    """A client's state of one call."""

    __slots__ = ("receives_data", "sends_data")

    def __init__(self, *, sends_data: bool, receives_data: bool) -> None:
        self.sends_data = sends_data
        self.receives_data = receives_data


class ClientConnection:
    """The connecting end of a connection."""

    __slots__ = ("_calls", "_decoder", "_next_id", "_queue")

    def __init__(self) -> None:
        self._decoder = wire.FrameDecoder()
        self._calls: dict[int, _Call] = {}
        self._next_id = 1
        self._queue: deque[ClientEvent] = deque()

    @property
    def mid_frame(self) -> bool:
        return self._decoder.mid_frame

    def feed(self, chunk: bytes) -> None:
        self._decoder.feed(chunk)

    def next_event(self) -> ClientEvent | None:
        """Take the next event, or None when more bytes are needed."""
        if self._queue:
            return self._queue.popleft()
        while (frame := self._decoder.next_frame()) is not None:
            event = self._read(frame)
            if event is not None:
                return event
        return None

    def request(
        self,
        service: str,
        method: str,
        payload: bytes,
        *,
        timeout_ns: int = 0,
        metadata: Iterable[tuple[str, str]] = (),
        sends_data: bool = False,
        receives_data: bool = False,
    ) -> tuple[int, bytes]:
        """Begin a call; return its stream id and its frame.

        Frames of several calls must be written in the order of their stream ids.

        Raises:
            StatusError: RESOURCE_EXHAUSTED, the request is too long; its id is used up.
            LocalProtocolError: all ids are used up; a new connection is needed.
        """
        stream_id = self._next_id
        if stream_id > MAX_STREAM_ID:
            raise LocalProtocolError("all stream ids of this connection are used up")
        self._next_id += 2
        data = codec.encode_request(
            service, method, payload, timeout_ns=timeout_ns, metadata=metadata
        )
        flags = 0
        if sends_data:
            flags = wire.REMOTE_OPEN
        elif receives_data:
            flags = wire.REMOTE_CLOSED
        frame = wire.encode_frame(stream_id, wire.REQUEST, flags, data)
        self._calls[stream_id] = _Call(sends_data=sends_data, receives_data=receives_data)
        return stream_id, frame

    def send(self, stream_id: int, payload: bytes) -> bytes:
        """Send one message of a stream.

        Raises:
            StatusError: RESOURCE_EXHAUSTED, the message is too long; the stream stays open.
            StreamClosed: this side was closed, or the call has ended.
        """
        call = self._calls.get(stream_id)
        if call is None or not call.sends_data:
            raise StreamClosed
        return wire.encode_frame(stream_id, wire.DATA, 0, payload)

    def close_send(self, stream_id: int) -> bytes:
        """Build the frame that closes this side of a stream.

        Raises:
            StreamClosed: this side was closed, or the call has ended.
        """
        call = self._calls.get(stream_id)
        if call is None or not call.sends_data:
            raise StreamClosed
        call.sends_data = False
        return wire.encode_frame(stream_id, wire.DATA, wire.REMOTE_CLOSED | wire.NO_DATA, b"")

    def forget(self, stream_id: int) -> None:
        """Forget a call.  The protocol has no cancel: frames that still come are stray frames."""
        self._calls.pop(stream_id, None)

    def _read(self, frame: wire.Frame | wire.Oversized) -> ClientEvent | None:
        stream_id = frame.stream_id
        call = self._calls.get(stream_id)
        if call is None:
            kind = frame.kind if isinstance(frame, wire.Frame) else 0
            return StrayFrame(stream_id, kind)
        if isinstance(frame, wire.Oversized):
            error = too_long(frame.length_bytes, wire.MAX_DATA_BYTES)
            return self._ended(stream_id, b"", error)
        if frame.kind == wire.RESPONSE:
            try:
                payload, failure = codec.decode_response(frame.data)
            except RemoteProtocolError as exc:
                return self._ended(stream_id, b"", exc)
            return self._ended(stream_id, payload, failure)
        if frame.kind == wire.DATA:
            return self._read_data(frame, call)
        return StrayFrame(stream_id, frame.kind)

    def _read_data(self, frame: wire.Frame, call: _Call) -> ClientEvent | None:
        stream_id = frame.stream_id
        if not call.receives_data:
            text = "received data from non-streaming server: protocol error"
            return self._ended(stream_id, b"", RemoteProtocolError(text))
        if not frame.flags & wire.NO_DATA:
            self._queue.append(DataReceived(stream_id, frame.data))
        if frame.flags & wire.REMOTE_CLOSED:
            del self._calls[stream_id]
            self._queue.append(HalfClosed(stream_id))
        return self._queue.popleft() if self._queue else None

    def _ended(
        self, stream_id: int, payload: bytes, error: StatusError | RemoteProtocolError | None
    ) -> ResponseReceived:
        del self._calls[stream_id]
        return ResponseReceived(stream_id, payload, error)
