"""A connection on which frames are written by hand."""

import asyncio
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from ttrpc import codec, wire

_CHUNK_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Answer:
    """A frame of the shim, as the outcome of a call."""

    stream_id: int
    kind: int
    flags: int
    outcome: str

    def __str__(self) -> str:
        return f"stream {self.stream_id} kind {self.kind} flags {self.flags}: {self.outcome}"


class Frames:
    """A context manager that owns its connection."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._decoder = wire.FrameDecoder()

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_unix_connection(self._path)
        return self

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except ConnectionError:
            return  # the shim has closed already

    def send(self, stream_id: int, kind: int, flags: int, data: bytes) -> None:
        self.write(wire.HEADER.pack(len(data), stream_id, kind, flags) + data)

    def write(self, data: bytes) -> None:
        """Send any bytes."""
        self._writer.write(data)

    async def receive(self) -> Answer:
        """Return the next frame; the end of the connection is an answer too."""
        while (frame := self._decoder.next_frame()) is None:
            try:
                chunk = await self._reader.read(_CHUNK_BYTES)
            except ConnectionError:
                chunk = b""
            if not chunk:
                return Answer(0, 0, 0, "closed")
            self._decoder.feed(chunk)
        assert isinstance(frame, wire.Frame)  # no shim sends an oversized frame
        _, error = codec.decode_response(frame.data)
        outcome = "OK" if error is None else f"{int(error.code)} `{error.message}`"
        return Answer(frame.stream_id, frame.kind, frame.flags, outcome)


async def one_call(path: str, service: str, method: str, payload: bytes, deadline_s: float) -> str:
    """Make a call whose deadline only the shim checks; return its outcome."""
    timeout_ns = int(deadline_s * 1_000_000_000)
    async with Frames(path) as frames:
        envelope = codec.encode_request(service, method, payload, timeout_ns=timeout_ns)
        frames.send(1, wire.REQUEST, 0, envelope)
        return (await frames.receive()).outcome
