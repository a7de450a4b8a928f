"""The client without asyncio."""

import asyncio
import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.wrappers_pb2 import StringValue

from tests.support.aio import run
from tests.support.ttrpc_peer import LIMIT_S, SERVICE, Things, serving
from ttrpc import (
    BlockingClient,
    Code,
    ConnectionClosed,
    PeerCredentials,
    RemoteProtocolError,
    StatusError,
    codec,
    wire,
)

MUTE_S = 0.05


@contextlib.contextmanager
def server() -> Iterator[str]:
    """Yield the path of a server that runs in a thread of its own."""
    paths: list[str] = []
    ready = threading.Event()
    stops: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def serve() -> None:
        stop = asyncio.Event()
        async with serving(Things().registry) as (_server, path):
            paths.append(path)
            stops.append((asyncio.get_running_loop(), stop))
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: run(serve(), timeout_s=60))
    thread.start()
    assert ready.wait(LIMIT_S)
    try:
        yield paths[0]
    finally:
        current, stop = stops[0]
        current.call_soon_threadsafe(stop.set)
        thread.join()


@contextlib.contextmanager
def pair() -> Iterator[tuple[BlockingClient, socket.socket]]:
    """Yield a client and the other end of its connection."""
    ours, theirs = socket.socketpair()
    with BlockingClient(ours) as client, theirs:
        yield client, theirs


def echo(client: BlockingClient, value: str = "x", **options: float) -> str:
    timeout_s = options.get("timeout_s", LIMIT_S)
    request = StringValue(value=value)
    return client.call(SERVICE, "Echo", request, StringValue, timeout_s=timeout_s).value


def answer(stream_id: int, value: str) -> bytes:
    payload = StringValue(value=value).SerializeToString()
    return wire.encode_frame(stream_id, wire.RESPONSE, 0, codec.encode_response(payload))


def test_calls_one_after_another_over_a_real_server() -> None:
    """Small and large calls, with and without a timeout, and errors in between."""
    with server() as path, BlockingClient.connect(f"unix://{path}", timeout_s=LIMIT_S) as client:
        assert client.peer == PeerCredentials(os.getpid(), os.geteuid(), os.getegid())
        for value in ("a", "b" * 3_000_000, "c"):
            assert echo(client, value) == value
        unlimited = client.call(
            SERVICE, "Slowly", StringValue(value="d"), StringValue, metadata=[("k", "v")]
        )
        assert unlimited.value == "d"
        with pytest.raises(StatusError, match="method Nowhere"):
            client.call(SERVICE, "Nowhere", StringValue(), StringValue)
        with pytest.raises(StatusError, match="context deadline exceeded"):
            client.call(SERVICE, "Wait", StringValue(), StringValue, timeout_s=MUTE_S)
        assert echo(client, "e") == "e"


def test_mute_server_costs_the_time_that_was_given_and_its_late_answer_is_dropped() -> None:
    """The answer may be cut anywhere, also inside a frame."""
    with pair() as (client, peer):
        late = answer(1, "late")
        peer.sendall(late[:7])
        with pytest.raises(StatusError) as refused:
            echo(client, timeout_s=MUTE_S)
        assert refused.value.code is Code.DEADLINE_EXCEEDED
        peer.sendall(late[7:] + answer(99, "stray") + answer(3, "x"))
        assert echo(client) == "x"


def test_call_without_time_is_not_sent() -> None:
    """If the deadline has passed, no request is sent."""
    with pair() as (client, peer):
        with pytest.raises(StatusError, match="context deadline exceeded"):
            echo(client, timeout_s=0)
        client.close()
        assert peer.recv(1) == b""


def test_server_that_does_not_read_costs_the_time_and_the_connection() -> None:
    """Part of a frame is sent, so no other frame can follow."""
    with pair() as (client, _peer):
        with pytest.raises(StatusError, match="context deadline exceeded"):
            echo(client, "x" * 3_000_000, timeout_s=MUTE_S)
        with pytest.raises(ConnectionClosed):
            echo(client)


def test_request_that_was_not_begun_in_time_keeps_the_connection() -> None:
    """No byte of it was sent."""
    with pair() as (client, peer):
        client._sock.setblocking(False)
        filled = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                filled += client._sock.send(bytes(1000))
        with pytest.raises(StatusError, match="context deadline exceeded"):
            echo(client, timeout_s=MUTE_S)
        while filled:
            filled -= len(peer.recv(min(filled, 65536)))
        peer.sendall(answer(3, "x"))
        assert echo(client) == "x"


@pytest.mark.parametrize("rest", [b"", b"\0\0"])
def test_lost_server_is_reported(rest: bytes) -> None:
    """End of file, also inside a frame; then EPIPE or a closed socket."""
    with pair() as (client, peer):
        peer.sendall(rest)
        peer.shutdown(socket.SHUT_WR)
        with pytest.raises(ConnectionClosed, match="ttrpc: closed"):
            echo(client)
        with pytest.raises(ConnectionClosed):
            echo(client)


def test_server_that_is_gone_before_the_call_is_reported() -> None:
    """EPIPE on write, ECONNRESET on read."""
    with pair() as (client, peer):
        peer.close()
        with pytest.raises(ConnectionClosed):
            echo(client)
    with pair() as (client, peer):
        client._sock.send(b"something unread")
        peer.close()
        with pytest.raises(ConnectionClosed):
            echo(client)


def test_answer_that_is_none_is_a_protocol_error() -> None:
    """The bytes of the answer cannot be decoded."""
    with pair() as (client, peer):
        peer.sendall(wire.encode_frame(1, wire.RESPONSE, 0, b"\x0a\x05a"))
        with pytest.raises(RemoteProtocolError):
            echo(client)


def test_missing_server_is_reported(tmp_path: Path) -> None:
    """No file; no server that accepts."""
    with pytest.raises(FileNotFoundError):
        BlockingClient.connect(str(tmp_path / "none"), timeout_s=LIMIT_S)
    path = str(tmp_path / "full")
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as other:
        listener.bind(path)
        listener.listen(0)
        other.connect(path)
        with pytest.raises(TimeoutError):
            BlockingClient.connect(path, timeout_s=MUTE_S)
