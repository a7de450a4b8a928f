"""Streaming calls of all kinds, frame by frame."""

import pytest
from google.protobuf.wrappers_pb2 import StringValue

from shimv2.shimctl.testbed.until import eventually
from tests.support.aio import LoopName, run
from tests.support.ttrpc_peer import Peer, Things, serving
from ttrpc import (
    wire,
)

CLOSE = wire.REMOTE_CLOSED | wire.NO_DATA


def payload(value: str) -> bytes:
    return StringValue(value=value).SerializeToString()


@pytest.mark.rule("ttrpc.stream.2", "ttrpc.stream.4")
def test_frames_of_a_server_stream(loop: LoopName) -> None:
    """The final frame is 0x05, or 0x01 with a message; an empty request counts."""

    async def scenario() -> None:
        async with serving(Things().registry) as (_server, path):
            with Peer.connect(path) as peer:
                await peer.request(1, "Split", "a,b", flags=wire.REMOTE_CLOSED)
                await peer.request(3, "Split", "a,!b", flags=wire.REMOTE_CLOSED)
                await peer.request(5, "Split", "", flags=wire.REMOTE_CLOSED)
                frames: dict[int, list[tuple[int, bytes]]] = {1: [], 3: [], 5: []}
                for _ in range(3 + 2 + 2):
                    frame = await peer.frame()
                    assert frame is not None
                    assert frame.kind == wire.DATA
                    frames[frame.stream_id].append((frame.flags, frame.data))
                assert frames[1] == [(0, payload("a")), (0, payload("b")), (CLOSE, b"")]
                assert frames[3] == [(0, payload("a")), (1, payload("b"))]
                assert frames[5] == [(0, payload("")), (CLOSE, b"")]

    run(scenario(), loop=loop)


@pytest.mark.rule("ttrpc.stream.1", "ttrpc.stream.4")
def test_frames_of_a_client_stream(loop: LoopName) -> None:
    """An absent payload delivers nothing; zero bytes of Data are a message."""

    async def scenario() -> None:
        async with serving(Things().registry) as (_server, path):
            with Peer.connect(path) as peer:
                await peer.request(1, "Join", flags=wire.REMOTE_OPEN)
                for value in ("a", ""):
                    await peer.data(1, value)
                await peer.send(wire.encode_frame(1, wire.DATA, CLOSE, b""))
                assert await peer.response() == (1, "a,")
                await peer.request(3, "Join", "only", flags=wire.REMOTE_CLOSED)
                assert await peer.response() == (3, "only")
                await peer.request(5, "Join", flags=wire.REMOTE_OPEN)
                await peer.data(5, flags=wire.REMOTE_CLOSED)
                assert await peer.response() == (5, "")

    run(scenario(), loop=loop)


@pytest.mark.rule("ttrpc.stream.6")
def test_stream_has_ended_when_its_handler_has(loop: LoopName) -> None:
    """Although the client has not closed its side."""

    async def scenario() -> None:
        async with serving(Things().registry) as (_server, path):
            with Peer.connect(path) as peer:
                await peer.request(1, "Talk", "bye", flags=wire.REMOTE_OPEN)
                assert await peer.frame() == wire.Frame(1, wire.DATA, CLOSE, b"")
                await peer.data(1, "late")
                assert await peer.refusal() == (1, 3, "StreamID is no longer active")

    run(scenario(), loop=loop)


@pytest.mark.rule("ttrpc.receive.5")
@pytest.mark.parametrize(
    ("first", "then", "why"),
    [
        (wire.REMOTE_CLOSED, None, "data close message cannot include data"),
        (CLOSE, 0, "data handling error: ttrpc: stream closed"),
    ],
)
def test_client_that_breaks_its_stream_loses_the_stream_only(
    loop: LoopName, first: int, then: int | None, why: str
) -> None:
    """One error, nothing after it; the handler is cancelled."""

    async def scenario() -> None:
        things = Things()
        async with serving(things.registry) as (server, path):
            with Peer.connect(path) as peer:
                await peer.request(1, "Deaf", flags=wire.REMOTE_OPEN)
                await eventually(lambda: things.waiting, "the handler")
                value = payload("x") if first == wire.REMOTE_CLOSED else b""
                await peer.send(wire.encode_frame(1, wire.DATA, first, value))
                if then is not None:
                    await peer.data(1, "more", flags=then)
                assert await peer.refusal() == (1, 3, why)
                await eventually(lambda: things.cancelled == 1, "the end of the handler")
                assert server.calls == 0
                await peer.request(3, "Echo", "x")
                assert await peer.response() == (3, "x")

    run(scenario(), loop=loop)


def test_message_that_is_none_ends_the_stream_with_an_internal_error(loop: LoopName) -> None:
    """The error ends the stream, not the connection."""

    async def scenario() -> None:
        async with serving(Things().registry) as (_server, path):
            with Peer.connect(path) as peer:
                await peer.request(1, "Talk", flags=wire.REMOTE_OPEN)
                await peer.send(wire.encode_frame(1, wire.DATA, 0, b"\x0a\x05a"))
                stream_id, code, why = await peer.refusal()
                assert (stream_id, code) == (1, 13)
                assert why.startswith("ttrpc: error unmarshalling payload: ")

    run(scenario(), loop=loop)
