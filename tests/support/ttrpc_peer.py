"""A server with a small service, and a peer that writes frames by hand, on one loop."""

import asyncio
import contextlib
import socket
import tempfile
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any, Self

from google.protobuf.empty_pb2 import Empty
from google.protobuf.wrappers_pb2 import StringValue

from ttrpc import Call, Client, Code, Registry, Server, ServerStream, StatusError, codec, wire
from ttrpc.wire import Frame

SERVICE = "test.v1.Things"
LIMIT_S = 10.0

Handlers = ServerStream[StringValue, StringValue]


class Things:
    """A service whose methods end as the tests need it; it counts calls."""

    def __init__(self) -> None:
        self.answered = 0
        self.calls: deque[Call] = deque(maxlen=1000)  # the latest
        self.waiting = 0
        self.cancelled = 0
        self.received: list[str] = []
        self.release = asyncio.Event()
        registry = Registry()
        registry.unary(SERVICE, "Echo", StringValue, self.echo)
        registry.unary(SERVICE, "Slowly", StringValue, self.slowly)
        registry.unary(SERVICE, "Wait", StringValue, self.wait)
        registry.unary(SERVICE, "Stubborn", StringValue, self.stubborn)
        registry.unary(SERVICE, "Repeat", StringValue, self.repeat)
        registry.unary(SERVICE, "Nothing", StringValue, lambda _request, _call: Empty())
        registry.client_stream(SERVICE, "Join", StringValue, self.join)
        registry.server_stream(SERVICE, "Split", StringValue, self.split)
        registry.bidi(SERVICE, "Talk", StringValue, self.talk)
        registry.bidi(SERVICE, "Deaf", StringValue, self.deaf)
        self.registry = registry

    def echo(self, request: StringValue, call: Call) -> StringValue:
        """Answer in the callback that read the request."""
        self.answered += 1
        self.calls.append(call)
        return request

    async def slowly(self, request: StringValue, call: Call) -> StringValue:
        """Answer in a task, one step later."""
        self.answered += 1
        self.calls.append(call)
        await asyncio.sleep(0)
        return request

    async def wait(self, request: StringValue, _call: Call) -> StringValue:
        """Answer after `release`."""
        self.waiting += 1
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.waiting -= 1
        return request

    async def stubborn(self, request: StringValue, _call: Call) -> StringValue:
        """Return a result although it was cancelled."""
        self.waiting += 1
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            if request.value == "raise":
                raise StatusError(Code.UNKNOWN, "killed") from None
        finally:
            self.waiting -= 1
        return request

    def repeat(self, request: StringValue, _call: Call) -> StringValue:
        """Answer the request `N` with N characters."""
        return StringValue(value="x" * int(request.value))

    async def join(self, stream: Handlers, _call: Call) -> StringValue:
        """Answer once, for all requests."""
        return StringValue(value=",".join([request.value async for request in stream]))

    async def split(self, stream: Handlers, _call: Call) -> StringValue | None:
        """Answer `a,b,!c` with one message each; the one that begins with ! is returned, not
        sent."""
        request = await stream.receive()
        for part in request.value.split(","):
            if part.startswith("!"):
                return StringValue(value=part[1:])
            await stream.send(StringValue(value=part))
        return None

    async def talk(self, stream: Handlers, _call: Call) -> None:
        """Send every message back; `fail` fails, `bye` ends the stream."""
        async for request in stream:
            self.received.append(request.value)
            if request.value == "fail":
                raise StatusError(Code.ABORTED, "as asked")
            if request.value == "bye":
                return
            await stream.send(request)

    async def deaf(self, stream: Handlers, _call: Call) -> None:
        """Receive nothing until `release`, then everything."""
        self.waiting += 1
        try:
            await self.release.wait()
            async for request in stream:
                self.received.append(request.value)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.waiting -= 1


@contextlib.asynccontextmanager
async def serving(registry: Registry, **options: Any) -> AsyncIterator[tuple[Server, str]]:
    """Yield a server and the path of its socket; the server is closed at the end."""
    with tempfile.TemporaryDirectory(prefix="ttrpc") as folder:
        path = f"{folder}/s"
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen(256)
        server = Server(registry, **options)
        server.listen(listener)
        try:
            yield server, path
        finally:
            await server.close()


class Peer:
    """The other end of a connection, which reads and writes frames by hand."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self._decoder = wire.FrameDecoder()
        self._loop = asyncio.get_running_loop()

    @classmethod
    def connect(cls, path: str) -> Self:
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.connect(path)
        except BaseException:
            sock.close()
            raise
        return cls(sock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.sock.close()

    async def send(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            try:
                left = left[self.sock.send(left) :]
            except BlockingIOError:
                await self._ready(self._loop.add_writer, self._loop.remove_writer)

    async def request(self, stream_id: int, method: str, value: str = "", **options: Any) -> None:
        await self.send(request_frame(stream_id, method, value, **options))

    async def data(self, stream_id: int, value: str = "", *, flags: int = 0) -> None:
        payload = StringValue(value=value).SerializeToString()
        await self.send(wire.encode_frame(stream_id, wire.DATA, flags, payload))

    async def frame(self) -> Frame | None:
        """Return the next frame, None at the end of the connection."""
        while True:
            frame = self._decoder.next_frame()
            if frame is not None:
                assert isinstance(frame, Frame)
                return frame
            try:
                chunk = self.sock.recv(1 << 20)
            except BlockingIOError:
                await self._ready(self._loop.add_reader, self._loop.remove_reader)
                continue
            except ConnectionResetError:
                return None
            if not chunk:
                return None
            self._decoder.feed(chunk)

    async def response(self) -> tuple[int, str | StatusError]:
        """Return the next response: its stream and its value, or its error."""
        frame = await self.frame()
        assert frame is not None, "the connection has ended"
        assert (frame.kind, frame.flags) == (wire.RESPONSE, 0)
        payload, error = codec.decode_response(frame.data)
        return frame.stream_id, error or StringValue.FromString(payload).value

    async def refusal(self) -> tuple[int, int, str]:
        """Return the next response, which has to be an error: its stream, code and text."""
        stream_id, error = await self.response()
        assert isinstance(error, StatusError), error
        return stream_id, error.code, error.message

    async def _ready(self, add: Callable[..., object], remove: Callable[..., object]) -> None:
        ready = asyncio.Event()
        add(self.sock.fileno(), ready.set)
        try:
            async with asyncio.timeout(LIMIT_S):
                await ready.wait()
        finally:
            remove(self.sock.fileno())


def request_frame(
    stream_id: int,
    method: str,
    value: str = "",
    *,
    service: str = SERVICE,
    flags: int = 0,
    timeout_ns: int = 0,
    metadata: tuple[tuple[str, str], ...] = (),
) -> bytes:
    payload = StringValue(value=value).SerializeToString()
    envelope = codec.encode_request(
        service, method, payload, timeout_ns=timeout_ns, metadata=metadata
    )
    return wire.encode_frame(stream_id, wire.REQUEST, flags, envelope)


@contextlib.asynccontextmanager
async def connected(path: str) -> AsyncIterator[Client]:
    client = await Client.connect(path, timeout_s=LIMIT_S)
    try:
        yield client
    finally:
        await client.close()


async def echo(client: Client, value: str = "x", method: str = "Echo", **options: Any) -> str:
    """Call a unary method of the service with a text; return the text of the answer."""
    request = StringValue(value=value)
    answer = await client.call(SERVICE, method, request, StringValue, **options)
    return answer.value
