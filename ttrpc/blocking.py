"""A client without asyncio, for short-lived tools: one call at a time, on the caller's thread."""

import socket
import time
from collections.abc import Sequence
from typing import Self, TypeVar

from ttrpc.client import result, timeout_ns
from ttrpc.connection import ClientConnection
from ttrpc.errors import ConnectionClosed, deadline_exceeded
from ttrpc.events import ResponseReceived
from ttrpc.message import Message
from ttrpc.transport import READ_BYTES, peer_credentials, socket_path

R = TypeVar("R", bound=Message)


class BlockingClient:
    """One connection to a server.  Not for use by several threads at once."""

    def __init__(self, sock: socket.socket) -> None:
        """Take ownership of a connected Unix socket."""
        self._sock = sock
        self._connection = ClientConnection()
        self.peer = peer_credentials(sock)

    @classmethod
    def connect(cls, path: str, *, timeout_s: float) -> Self:
        """Connect to a server's socket.

        Raises:
            OSError: no server listens there.  TimeoutError: its backlog stayed full.
        """
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(timeout_s)
            try:
                sock.connect(socket_path(path))
            except BlockingIOError:  # Linux: the server's backlog stayed full
                raise TimeoutError("timed out") from None
            return cls(sock)
        except BaseException:
            sock.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        self._sock.close()

    def call(
        self,
        service: str,
        method: str,
        request: Message,
        response_type: type[R],
        *,
        timeout_s: float | None = None,
        metadata: Sequence[tuple[str, str]] = (),
    ) -> R:
        """Call a unary method.

        Raises:
            StatusError: the server's answer; DEADLINE_EXCEEDED also when there was none in time.
            ConnectionClosed: the connection ended before the answer.
            RemoteProtocolError: the server's answer cannot be parsed.
        """
        if self._sock.fileno() < 0:
            raise ConnectionClosed
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        stream_id, frame = self._connection.request(
            service,
            method,
            request.SerializeToString(),
            timeout_ns=timeout_ns(timeout_s),
            metadata=metadata,
        )
        try:
            self._write(frame, deadline)
            return result(self._read(stream_id, deadline), response_type)
        except OSError:
            self.close()
            raise ConnectionClosed from None
        finally:
            self._connection.forget(stream_id)

    def _write(self, frame: bytes, deadline: float | None) -> None:
        left = memoryview(frame)
        try:
            while left:
                self._limit(deadline)
                left = left[self._sock.send(left) :]
        except TimeoutError:
            if len(left) < len(frame):
                self.close()  # part of a frame was written: no other frame can follow
            raise deadline_exceeded() from None

    def _read(self, stream_id: int, deadline: float | None) -> ResponseReceived:
        """Read until this call's answer; answers of earlier, timed-out calls are dropped."""
        while True:
            while (event := self._connection.next_event()) is not None:
                if isinstance(event, ResponseReceived) and event.stream_id == stream_id:
                    return event
            try:
                self._limit(deadline)
                chunk = self._sock.recv(READ_BYTES)
            except TimeoutError:
                raise deadline_exceeded() from None
            if not chunk:
                self.close()
                raise ConnectionClosed
            self._connection.feed(chunk)

    def _limit(self, deadline: float | None) -> None:
        left_s = None if deadline is None else deadline - time.monotonic()
        if left_s is not None and left_s <= 0:
            raise TimeoutError
        if left_s != self._sock.gettimeout():  # setting it is a system call
            self._sock.settimeout(left_s)
