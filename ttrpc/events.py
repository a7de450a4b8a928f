"""What a connection reports to the code that drives it.  Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from ttrpc.errors import RemoteProtocolError, StatusError


@dataclass(frozen=True, slots=True)
class RequestReceived:
    """A call begins.  It is answered with `respond`, `fail` or - a stream - `finish`."""

    stream_id: int
    service: str
    method: str
    payload: bytes
    timeout_ns: int  # 0: none; negative: it was over when it was sent
    metadata: Sequence[tuple[str, str]]
    flags: int  # meaningful for streaming methods only


@dataclass(frozen=True, slots=True)
class DataReceived:
    """One message of a stream."""

    stream_id: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class HalfClosed:
    """The other end sends no more on this stream; at a client: the call ended well."""

    stream_id: int


@dataclass(frozen=True, slots=True)
class ErrorReply:
    """The client broke a rule: send this to it, with `refuse`.  The connection stays usable.

    `on_stream`: it is about an open stream, and an error is the last a client looks at: send it
    with `fail`, which ends the stream.
    """

    stream_id: int
    error: StatusError
    on_stream: bool = False


@dataclass(frozen=True, slots=True)
class ResponseReceived:
    """A call has ended, by an answer or by what cannot be one."""

    stream_id: int
    payload: bytes
    error: StatusError | RemoteProtocolError | None


@dataclass(frozen=True, slots=True)
class StrayFrame:
    """Something came for a call this client does not have (any more): usual after a timeout."""

    stream_id: int
    kind: int


ServerEvent = RequestReceived | DataReceived | HalfClosed | ErrorReply
ClientEvent = ResponseReceived | DataReceived | HalfClosed | StrayFrame
