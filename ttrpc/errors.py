"""What can go wrong on a connection, and how an exception is told to the other end.  Pure.

Four things are kept apart, because callers act differently on them: the other end answered with a
status (`StatusError`), the connection is gone (`ConnectionClosed`), the other end broke the
protocol (`RemoteProtocolError`), we did (`LocalProtocolError`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ttrpc.codes import Code


class TtrpcError(Exception):
    """Everything this library raises by itself."""


@dataclass(frozen=True, slots=True)
class Detail:
    """One typed message that comes with a status (`google.protobuf.Any`)."""

    type_url: str
    value: bytes


class StatusError(TtrpcError):
    """A call ended with a status other than OK: raised by a client's call and by handlers.

    `code` is a `Code`, or a plain int where the other end sent a number that is none.
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
    """The connection ended, whichever side and whatever errno ended it."""

    def __init__(self) -> None:
        super().__init__("ttrpc: closed")


class StreamClosed(TtrpcError):
    """Something was to be sent on a stream whose sending side is over."""

    def __init__(self) -> None:
        super().__init__("ttrpc: stream closed")


class LocalProtocolError(TtrpcError):
    """The code that uses a connection asked for a step the protocol does not have."""


class RemoteProtocolError(TtrpcError):
    """The other end sent what the protocol does not allow."""


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
    """Say `exc` in the protocol's words; the nearest listed base class decides, else UNKNOWN."""
    if isinstance(exc, StatusError):
        return exc
    for cls in type(exc).__mro__:
        if cls in CODES:
            return StatusError(CODES[cls], str(exc))
    return StatusError(Code.UNKNOWN, f"{type(exc).__name__}: {exc}")
