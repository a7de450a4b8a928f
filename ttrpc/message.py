"""The interface of a service's messages, and the error text for invalid ones.  Pure.

Every generated protobuf class fits, and any other class with these two methods.
"""

from typing import Final, Protocol, Self, TypeVar

from google.protobuf.message import DecodeError

from ttrpc.codes import Code
from ttrpc.errors import StatusError


class Message(Protocol):
    def SerializeToString(self) -> bytes: ...  # noqa: N802 - protobuf's name

    @classmethod
    def FromString(cls, s: bytes, /) -> Self: ...  # noqa: N802 - protobuf's name


M = TypeVar("M", bound=Message)

UNREADABLE: Final = (DecodeError, UnicodeDecodeError)  # the second: protobuf without its C core


def reason(exc: Exception) -> str:
    """Return the Go implementation's text for bytes that are not a message.

    Before 7.35 the C core of protobuf has one error for all invalid bytes, also for invalid UTF-8.
    The text is then that of an invalid wire format.
    """
    if isinstance(exc, UnicodeDecodeError) or "UTF-8" in str(exc):
        return "string field contains invalid UTF-8"
    return "proto: cannot parse invalid wire-format data"


def parse(message_type: type[M], payload: bytes) -> M:
    """Parse a payload.  A known field with a wrong wire type counts as an unknown field.

    Raises:
        StatusError: INTERNAL, with the text the Go implementation sends.
    """
    try:
        return message_type.FromString(payload)
    except UNREADABLE as exc:
        text = f"ttrpc: error unmarshalling payload: {reason(exc)}"
        raise StatusError(Code.INTERNAL, text) from None
