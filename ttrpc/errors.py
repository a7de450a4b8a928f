"""The library's exceptions, and the conversion of any exception to a status.  Pure.

There are four kinds, because callers react differently to each: the peer answered with a status
(`StatusError`), the connection ended (`ConnectionClosed`), the peer violated the protocol
(`RemoteProtocolError`), this end did (`LocalProtocolError`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ttrpc.codes import Code


class TtrpcError(Exception):
    """Base class of this library's exceptions."""


@dataclass(frozen=True, slots=True)
class Detail:
    """One typed message attached to a status (`google.protobuf.Any`)."""

    type_url: str
    value: bytes


class StatusError(TtrpcError):
    """A status other than OK.  A client's call raises it; a handler raises it to answer with it.

    `code` is a `Code`, or a plain int if the peer sent an unknown code.
    """

    def __init__(self, code: int, message: str, details: Sequence[Detail] = ()) -> None:
        super().__init__(code, message, details)
        self.code = Code(code) if code in _KNOWN else code
        self.message = message
        self.details = tuple(details)

    def __str__(self) -> str:
        return self.message


_KNOWN: Final = frozenset(int(code) for code in Code)


class ConnectionClosed(TtrpcError):
    """The connection ended, closed by either side or by an I/O error."""

    def __init__(self) -> None:
        super().__init__("ttrpc: closed")


class StreamClosed(TtrpcError):
    """This end of the stream cannot send any more."""

    def __init__(self) -> None:
        super().__init__("ttrpc: stream closed")


class LocalProtocolError(TtrpcError):
    """The caller asked for a step that the protocol does not allow."""


class RemoteProtocolError(TtrpcError):
    """The peer sent something that the protocol does not allow."""


def deadline_exceeded() -> StatusError:
    return StatusError(Code.DEADLINE_EXCEEDED, "context deadline exceeded")


def canceled() -> StatusError:
    return StatusError(Code.CANCELED, "context canceled")


def too_long(length_bytes: int, limit_bytes: int) -> StatusError:
    text = f"message length {length_bytes} exceed maximum message size of {limit_bytes}"
    return StatusError(Code.RESOURCE_EXHAUSTED, text)


CODES: Final[dict[type[BaseException], Code]] = {
    EOFError: Code.OUT_OF_RANGE,
    TimeoutError: Code.DEADLINE_EXCEEDED,
    FileExistsError: Code.ALREADY_EXISTS,
    FileNotFoundError: Code.NOT_FOUND,
    PermissionError: Code.PERMISSION_DENIED,
}


def to_status(exc: BaseException) -> StatusError:
    """Convert an exception to a status by its nearest base class in the table; else UNKNOWN."""
    if isinstance(exc, StatusError):
        return exc
    for cls in type(exc).__mro__:
        if cls in CODES:
            return StatusError(CODES[cls], str(exc))
    return StatusError(Code.UNKNOWN, f"{type(exc).__name__}: {exc}")
