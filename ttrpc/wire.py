"""Frames of the ttrpc wire protocol, without any I/O.

A frame is a header of 10 bytes, big-endian, and its data.  The decoder never buffers more than one
frame and never raises: every sequence of bytes is a sequence of frames, of which some are longer
than allowed (`Oversized`).
"""

import struct
from dataclasses import dataclass
from typing import Final

from ttrpc.errors import too_long

HEADER: Final = struct.Struct(">IIBB")  # data length, stream id, kind, flags
MAX_DATA_BYTES: Final = 4 * 1024 * 1024

REQUEST: Final = 1
RESPONSE: Final = 2
DATA: Final = 3

REMOTE_CLOSED: Final = 0x01  # the sender sends no more on this stream
REMOTE_OPEN: Final = 0x02  # on a request: Data will follow
NO_DATA: Final = 0x04  # there is no message in this frame; without it 0 bytes are a message

_HEADER_BYTES: Final = HEADER.size


@dataclass(slots=True)
class Frame:
    """Not frozen: one is made for each request, and making a frozen one takes 4 times as long."""

    stream_id: int
    kind: int  # a plain int: a peer may send a kind that is not known yet
    flags: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Oversized:
    """A frame longer than the limit.  Its data was skipped; the next frame can be read."""

    stream_id: int
    length_bytes: int


def encode_frame(stream_id: int, kind: int, flags: int, data: bytes) -> bytes:
    """Build a frame.

    Raises:
        StatusError: RESOURCE_EXHAUSTED, `data` is longer than `MAX_DATA_BYTES`.
    """
    if len(data) > MAX_DATA_BYTES:
        raise too_long(len(data), MAX_DATA_BYTES)
    return HEADER.pack(len(data), stream_id, kind, flags) + data


class FrameDecoder:
    """Turns a byte stream, cut anywhere, into frames.  Raises nothing."""

    __slots__ = ("_buffer", "_max_data_bytes", "_oversized", "_position", "_skip_bytes")

    def __init__(self, *, max_data_bytes: int = MAX_DATA_BYTES) -> None:
        self._max_data_bytes = max_data_bytes
        # A chunk usually has whole frames: it is kept unchanged and parsed in place.  Only a frame
        # that arrives in pieces is collected in a bytearray.
        self._buffer: bytes | bytearray = b""
        self._position = 0
        self._skip_bytes = 0  # what is left of an oversized frame
        self._oversized: Oversized | None = None

    @property
    def mid_frame(self) -> bool:
        """Whether part of a frame is missing: the peer must not close the connection here."""
        return self._skip_bytes > 0 or self._position < len(self._buffer)

    def feed(self, chunk: bytes) -> None:
        if self._skip_bytes:
            skipped = min(self._skip_bytes, len(chunk))
            self._skip_bytes -= skipped
            chunk = chunk[skipped:]
        if self._position == len(self._buffer):
            self._buffer = chunk
        elif isinstance(self._buffer, bytearray):
            del self._buffer[: self._position]
            self._buffer += chunk
        else:
            self._buffer = bytearray(memoryview(self._buffer)[self._position :])
            self._buffer += chunk
        self._position = 0

    def next_frame(self) -> Frame | Oversized | None:
        """Take the next whole frame, or None when more bytes are needed."""
        if self._oversized is not None:
            return self._end_of_oversized()
        buffer = self._buffer
        start = self._position + _HEADER_BYTES
        if len(buffer) < start:
            return None
        length, stream_id, kind, flags = HEADER.unpack_from(buffer, self._position)
        if length > self._max_data_bytes:
            # Never buffer it: the peer chooses the length and may claim 4 GiB.
            have = min(length, len(buffer) - start)
            self._skip_bytes = length - have
            self._oversized = Oversized(stream_id, length)
            self._advance(start + have)
            return self._end_of_oversized()
        end = start + length
        if len(buffer) < end:
            return None
        # A view first: a slice of a bytearray would be one copy more.
        data = (
            buffer[start:end] if isinstance(buffer, bytes) else bytes(memoryview(buffer)[start:end])
        )
        self._advance(end)
        return Frame(stream_id, kind, flags, data)

    def _end_of_oversized(self) -> Oversized | None:
        """Return the oversized frame once its last byte was skipped, not before.

        The peer may not read a reply before it has written the whole frame.
        """
        if self._skip_bytes:
            return None
        oversized, self._oversized = self._oversized, None
        return oversized

    def _advance(self, position: int) -> None:
        if position == len(self._buffer):
            self._buffer = b""  # holds no memory between frames
            self._position = 0
        else:
            self._position = position
