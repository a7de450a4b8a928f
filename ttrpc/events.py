"""The events that `connection` returns to its driver.  Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from ttrpc.errors import RemoteProtocolError, StatusError


@dataclass(slots=True)  # not frozen, for the reason that `wire.Frame` gives
class RequestReceived:
    """A call begins.  Answer it with `respond` or `fail`; a streaming one with `finish`."""

    stream_id: int
    service: str
    method: str
    payload: bytes
    timeout_ns: int  # 0: no timeout; negative: it had expired when the request was sent
    metadata: Sequence[tuple[str, str]]
    flags: int  # meaningful for streaming methods only


@dataclass(frozen=True, slots=True)
class DataReceived:
    """One message of a stream."""

    stream_id: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class HalfClosed:
    """The peer sends no more on this stream.  For a client: the call ended without an error."""

    stream_id: int


@dataclass(frozen=True, slots=True)
class ErrorReply:
    """The client violated a rule.  Send this error with `refuse`; the connection stays usable.

    With `on_stream` the error concerns an open stream.  Send it with `fail`, which ends the stream:
    a client reads nothing of a stream after an error.
    """

    stream_id: int
    error: StatusError
    on_stream: bool = False


@dataclass(frozen=True, slots=True)
class ResponseReceived:
    """A call has ended, with a result, a status, or an answer that cannot be parsed."""

    stream_id: int
    payload: bytes
    error: StatusError | RemoteProtocolError | None


@dataclass(frozen=True, slots=True)
class StrayFrame:
    """A frame of a call that the client does not know or has forgotten: usual after a timeout."""

    stream_id: int
    kind: int


ServerEvent = RequestReceived | DataReceived | HalfClosed | ErrorReply
ClientEvent = ResponseReceived | DataReceived | HalfClosed | StrayFrame
