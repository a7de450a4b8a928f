"""containerd's events service: receives what shims forward, in order; can stall on purpose."""

import asyncio
import contextlib
import os
import socket
from dataclasses import dataclass
from typing import Final

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from protos import events_pb2, ttrpc_events_pb2
from ttrpc import Call, Registry, Server

SERVICE: Final = "containerd.services.events.ttrpc.v1.Events"
_BACKLOG: Final = 128
_LAST_EVENT_LIMIT_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Event:
    """One Forward call, decoded."""

    topic: str
    namespace: str
    message: Message
    type_url: str
    at_ns: int
    metadata: tuple[str, ...] = ()  # containerd-namespace-ttrpc of the call

    @property
    def container_id(self) -> str:
        return str(getattr(self.message, "container_id", ""))

    @property
    def process_id(self) -> str:
        """The exec's id, or the container's for an event of its init."""
        for name in ("exec_id", "id"):
            if value := getattr(self.message, name, ""):
                return str(value)
        return self.container_id

    def __str__(self) -> str:
        return f"{self.topic.removeprefix('/tasks/')} {self.process_id}"


class EventsSink:
    """A ttrpc server for forwarded events.  Used by one event loop; `close` removes its socket.

    `events` grows without bound: this is for short-lived tools and tests.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.events: list[Event] = []
        self._server: Server | None = None
        self._answering = asyncio.Event()
        self._answering.set()
        self._arrived = asyncio.Condition()

    async def open(self) -> None:
        """Listen.  A socket file left by a killed process is replaced, as containerd does."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        listener.bind(self.path)
        listener.listen(_BACKLOG)
        registry = Registry()
        registry.unary(SERVICE, "Forward", ttrpc_events_pb2.ForwardRequest, self._forward)
        # containerd does not check the peer's credentials: its socket's directory is private.
        self._server = Server(registry, allow_peer=lambda _peer: True)
        self._server.listen(listener)

    async def close(self) -> None:
        """Close every connection at once, as the kernel does for a killed process."""
        server, self._server = self._server, None
        if server is not None:
            server.stop_listening()
            await server.close()
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path)

    def stall(self) -> None:
        """Receive calls, but do not answer them until `answer`."""
        self._answering.clear()

    def answer(self) -> None:
        self._answering.set()

    async def wait_for(
        self, topic: str, *, process_id: str | None = None, timeout_s: float = 10.0
    ) -> Event:
        """Return the first event of that topic (and process), waiting for it if necessary.

        Raises:
            TimeoutError: there was none; the text lists the other events.
        """

        def first() -> Event | None:
            for event in self.events:
                if event.topic == topic and process_id in {None, event.process_id}:
                    return event
            return None

        try:
            async with asyncio.timeout(timeout_s), self._arrived:
                await self._arrived.wait_for(lambda: first() is not None)
        except TimeoutError:
            came = ", ".join(map(str, self.events)) or "nothing"
            msg = f"no {topic} of {process_id or 'any process'} within {timeout_s} s; came: {came}"
            raise TimeoutError(msg) from None
        found = first()
        assert found is not None  # the list only grows
        return found

    async def wait_for_last_event(self, container_id: str) -> None:
        """Wait, for a limited time, for the last event of a deleted container.

        The event may have gone to another client, or the shim may be gone.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_EVENT_LIMIT_S), self._arrived:
                last = f"delete {container_id}"
                await self._arrived.wait_for(lambda: last in self.events_of(container_id))

    def events_of(self, container_id: str) -> list[str]:
        """Return the events of one container in order, each as short words: `exit e1`."""
        return [str(event) for event in self.events if event.container_id == container_id]

    async def _forward(self, request: ttrpc_events_pb2.ForwardRequest, call: Call) -> Empty:
        envelope = request.envelope
        stamp = envelope.timestamp
        event = Event(
            topic=envelope.topic,
            namespace=envelope.namespace,
            message=_decode(envelope.event.type_url, envelope.event.value),
            type_url=envelope.event.type_url,
            at_ns=stamp.seconds * 1_000_000_000 + stamp.nanos,
            metadata=tuple(call.metadata.get("containerd-namespace-ttrpc")),
        )
        async with self._arrived:
            self.events.append(event)
            self._arrived.notify_all()
        await self._answering.wait()
        return Empty()


def _decode(url: str, value: bytes) -> Message:
    """Decode by the bare type name, as Go clients do.

    Raises:
        ValueError: the type is unknown: the shim is wrong.
    """
    package, _, name = url.rpartition(".")
    if package != "containerd.events" or not hasattr(events_pb2, name):
        msg = f"not the type name of an event: {url!r}"
        raise ValueError(msg)
    message: Message = getattr(events_pb2, name).FromString(value)
    return message
