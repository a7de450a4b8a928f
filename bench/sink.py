"""An events service without an event loop: in a process of its own, or served by the caller."""

import contextlib
import os
import selectors
import signal
import socket
import time
from collections.abc import Callable
from typing import Final

from google.protobuf.empty_pb2 import Empty

from protos import ttrpc_events_pb2
from ttrpc.connection import ServerConnection
from ttrpc.events import RequestReceived

_BACKLOG: Final = 1024
_READ_BYTES: Final = 64 * 1024


class Sink:
    """Acknowledges every event.  Owns its socket; `close` removes it."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(path)
        self._listener.listen(_BACKLOG)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._connections: dict[socket.socket, ServerConnection] = {}

    def close(self) -> None:
        self._selector.close()
        for sock in (self._listener, *self._connections):
            sock.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)

    def wait_for(self, topic: str, limit_s: float) -> float:
        """Serve until an event of that topic arrives; return its time (perf_counter).

        Raises:
            TimeoutError: none arrives.
        """
        end = time.monotonic() + limit_s
        while time.monotonic() < end:
            for came, at in self._turn(end - time.monotonic()):
                if came == topic:
                    return at
        raise TimeoutError(f"no {topic} within {limit_s} s")

    def fork(self) -> Callable[[], None]:
        """Serve in a process of its own; return a function that ends it."""
        alive, ours = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.close(ours)
                for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                    signal.signal(number, signal.SIG_IGN)  # this process ends with its parent
                self._serve_while(alive)
            finally:
                os._exit(0)
        os.close(alive)

        def end() -> None:
            os.close(ours)
            os.waitpid(child, 0)
            self.close()

        return end

    def _serve_while(self, alive: int) -> None:
        self._selector.register(alive, selectors.EVENT_READ)
        while True:
            ready = self._selector.select()
            if any(key.fd == alive for key, _ in ready):
                return
            self._take(ready)

    def _turn(self, limit_s: float) -> list[tuple[str, float]]:
        return self._take(self._selector.select(limit_s))

    def _take(self, ready: list[tuple[selectors.SelectorKey, int]]) -> list[tuple[str, float]]:
        events = []
        for key, _ in ready:
            sock = key.fileobj
            assert isinstance(sock, socket.socket)
            if sock is self._listener:
                accepted, _ = sock.accept()
                self._connections[accepted] = ServerConnection()
                self._selector.register(accepted, selectors.EVENT_READ)
            else:
                events += self._hear(sock)
        return events

    def _hear(self, sock: socket.socket) -> list[tuple[str, float]]:
        connection = self._connections[sock]
        try:
            chunk = sock.recv(_READ_BYTES)
        except ConnectionResetError:
            chunk = b""
        at = time.perf_counter()
        if not chunk:
            self._selector.unregister(sock)
            del self._connections[sock]
            sock.close()
            return []
        connection.feed(chunk)
        events = []
        while (event := connection.next_event()) is not None:
            if isinstance(event, RequestReceived):
                request = ttrpc_events_pb2.ForwardRequest.FromString(event.payload)
                events.append((request.envelope.topic, at))
                with contextlib.suppress(BrokenPipeError):
                    sock.sendall(connection.respond(event.stream_id, Empty().SerializeToString()))
        return events
