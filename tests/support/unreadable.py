"""Bytes that are no message, and the errors that a peer gets for them."""

from typing import Final

from google import protobuf

_WIRE: Final = "proto: cannot parse invalid wire-format data"
# Older C cores of protobuf have one error for both.
_HAS_REASONS: Final = tuple(map(int, protobuf.__version__.split(".")[:2])) >= (7, 35)

CUT_SHORT: Final = (b"\x0a\x05a", _WIRE)
NO_UTF8: Final = (
    b"\x0a\x02\xff\xfe",
    "string field contains invalid UTF-8" if _HAS_REASONS else _WIRE,
)
