"""The asyncio client, with our server and with one that writes frames by hand."""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator

import pytest
from google.protobuf.wrappers_pb2 import StringValue

from shimv2.shimctl.testbed.until import eventually
from tests.support.aio import LoopName, run
from tests.support.ttrpc_peer import LIMIT_S, SERVICE, Peer, Things, connected, echo, serving
from ttrpc import (
    Client,
    Code,
    ConnectionClosed,
    PeerCredentials,
    RemoteProtocolError,
    StatusError,
    codec,
    transport,
    wire,
)

MUTE_S = 0.05


@contextlib.asynccontextmanager
async def pair() -> AsyncIterator[tuple[Client, Peer]]:
    """Yield a client and a server that writes frames by hand."""
    ours, theirs = socket.socketpair()
    client = Client(ours)
    with Peer(theirs) as peer:
        try:
            yield client, peer
        finally:
            await client.close()


def answer(stream_id: int, value: str) -> bytes:
    payload = StringValue(value=value).SerializeToString()
    return response(stream_id, codec.encode_response(payload))


def response(stream_id: int, data: bytes) -> bytes:
    return wire.encode_frame(stream_id, wire.RESPONSE, 0, data)


async def request_of(peer: Peer) -> tuple[int, codec.Request]:
    frame = await peer.frame()
    assert frame is not None
    assert (frame.kind, frame.flags) == (wire.REQUEST, 0)
    return frame.stream_id, codec.decode_request(frame.data)


# --- calls -----------------------------------------------------------------------------------


def test_call_returns_the_answer_and_raises_errors(loop: LoopName) -> None:
    """A successful call and errors."""

    async def scenario() -> None:
        async with serving(Things().registry) as (_server, path), connected(path) as client:
            assert await echo(client, "there") == "there"
            with pytest.raises(StatusError, match="method Nowhere") as refused:
                await echo(client, method="Nowhere")
            assert refused.value.code is Code.UNIMPLEMENTED
            assert client.peer == PeerCredentials(os.getpid(), os.geteuid(), os.getegid())

    run(scenario(), loop=loop)


@pytest.mark.rule("ttrpc.client.5")
def test_request_on_the_wire_has_names_payload_time_and_metadata(loop: LoopName) -> None:
    """timeout_nano is the remaining time."""

    async def scenario() -> None:
        async with pair() as (client, peer):
            metadata = [("containerd-namespace-ttrpc", "ns")]
            call = asyncio.create_task(echo(client, "v", timeout_s=5, metadata=metadata))
            stream_id, request = await request_of(peer)
            assert (stream_id, request.service, request.method) == (1, SERVICE, "Echo")
            assert request.payload == b"\x0a\x01v"
            assert 4_000_000_000 < request.timeout_nano <= 5_000_000_000
            assert [(one.key, one.value) for one in request.metadata] == metadata
            await peer.send(answer(1, "w"))
            assert await call == "w"
            call = asyncio.create_task(echo(client))
            _stream, request = await request_of(peer)
            assert request.timeout_nano == 0
            await peer.send(answer(3, ""))
            await call

    run(scenario(), loop=loop)


@pytest.mark.rule("ttrpc.client.1")
def test_ids_on_the_wire_strictly_increase_for_all_callers(loop: LoopName) -> None:
    """The answers may come in any order."""

    async def scenario() -> None:
        async with pair() as (client, peer):
            calls = [asyncio.create_task(echo(client, str(n))) for n in range(20)]
            seen = [(await request_of(peer))[0] for _ in calls]
            assert seen == list(range(1, 41, 2))
            await peer.send(b"".join(answer(one, str(one)) for one in reversed(seen)))
            assert await asyncio.gather(*calls) == [str(one) for one in seen]

    run(scenario(), loop=loop)


@pytest.mark.rule("ttrpc.client.2")
def test_oversized_request_is_refused_here_and_uses_up_its_id(loop: LoopName) -> None:
    """Nothing is sent."""

    async def scenario() -> None:
        async with pair() as (client, peer):
            with pytest.raises(StatusError) as refused:
                await echo(client, "x" * wire.MAX_DATA_BYTES)
            assert refused.value.code is Code.RESOURCE_EXHAUSTED
            call = asyncio.create_task(echo(client))
            assert (await request_of(peer))[0] == 3
            await peer.send(answer(3, "x"))
            await call

    run(scenario(), loop=loop)


@pytest.mark.rule("ttrpc.client.4", "ttrpc.client.6")
def test_answers_that_are_none_cost_their_own_call_only(loop: LoopName) -> None:
    """The payload is decoded before the status; status code 0 is OK; stray frames are ignored."""

    async def scenario() -> None:
        async with pair() as (client, peer):
            garbage = b"\x0a\x05a"
            bad_payload = codec.encode_error(StatusError(5, "gone")) + b"\x12\x02\x0a\x05"
            for data in (garbage, codec.encode_response(garbage), bad_payload):
                call = asyncio.create_task(echo(client))
                stream_id, _request = await request_of(peer)
                await peer.send(response(stream_id, data))
                with pytest.raises(RemoteProtocolError, match="unmarshal response error"):
                    await call
            call = asyncio.create_task(echo(client))
            stream_id, _request = await request_of(peer)
            await peer.send(response(99, b"") + wire.encode_frame(stream_id, 77, 0, b""))
            await peer.send(response(stream_id, b"\x0a\x00\x12\x03\x0a\x01x"))
            assert await call == "x"

    run(scenario(), loop=loop)


def test_oversized_answer_costs_its_own_call_only(loop: LoopName) -> None:
    """The call fails with code 8; the connection stays open."""

    async def scenario() -> None:
        async with pair() as (client, peer):
            call = asyncio.create_task(echo(client))
            stream_id, _request = await request_of(peer)
            length = wire.MAX_DATA_BYTES + 1
            await peer.send(wire.HEADER.pack(length, stream_id, wire.RESPONSE, 0) + bytes(length))
            with pytest.raises(StatusError, match="exceed maximum message size"):
                await call
            call = asyncio.create_task(echo(client))
            await request_of(peer)
            await peer.send(answer(3, "x"))
            assert await call == "x"

    run(scenario(), loop=loop)


# --- time ------------------------------------------------------------------------------------


@pytest.mark.rule("ttrpc.client.4")
def test_mute_server_costs_the_time_that_was_given(loop: LoopName) -> None:
    """Code 4 at the own timeout of the client; a late answer is dropped."""

    async def scenario() -> None:
        async with pair() as (client, peer):
            with pytest.raises(StatusError, match="context deadline exceeded") as refused:
                await echo(client, timeout_s=MUTE_S)
            assert refused.value.code is Code.DEADLINE_EXCEEDED
            await peer.send(answer(1, "late"))
            call = asyncio.create_task(echo(client))
            await peer.send(answer(3, "x"))
            assert await call == "x"

    run(scenario(), loop=loop)


def test_call_without_time_is_not_sent(loop: LoopName) -> None:
    """No caller would wait for its answer."""

    async def scenario() -> None:
        async with pair() as (client, peer):
            for timeout_s in (0, -1):
                with pytest.raises(StatusError) as refused:
                    await echo(client, timeout_s=timeout_s)
                assert refused.value.code is Code.DEADLINE_EXCEEDED
            await client.close()
            assert await peer.frame() is None

    run(scenario(), loop=loop)


def test_server_that_does_not_read_is_waited_for_within_the_time(loop: LoopName) -> None:
    """A limited amount is queued; every call has its timeout; the order is kept."""

    async def scenario() -> None:
        async with pair() as (client, peer):
            big = "x" * (transport.LIMIT_BYTES // 2)
            stuck = [asyncio.create_task(echo(client, big)) for _ in range(8)]
            await eventually(lambda: client._transport.congested, "the stall")
            with pytest.raises(StatusError, match="context deadline exceeded"):
                await echo(client, timeout_s=MUTE_S)
            timed = asyncio.create_task(echo(client, "timed", timeout_s=LIMIT_S))
            await asyncio.sleep(0)
            assert client._transport.waiting_bytes < 2 * transport.LIMIT_BYTES
            for _ in range(9):
                stream_id, request = await request_of(peer)
                timed_left = request.timeout_nano
                await peer.send(answer(stream_id, str(len(request.payload))))
            assert 0 < timed_left < LIMIT_S * 1_000_000_000
            assert len(set(await asyncio.gather(*stuck))) == 1
            await timed

    run(scenario(), loop=loop)


def test_cancelled_call_is_forgotten(loop: LoopName) -> None:
    """Its answer is dropped."""

    async def scenario() -> None:
        async with pair() as (client, peer):
            call = asyncio.create_task(echo(client))
            await request_of(peer)
            call.cancel()
            await asyncio.wait([call])
            assert call.cancelled()
            await peer.send(answer(1, "late"))
            call = asyncio.create_task(echo(client))
            await request_of(peer)
            await peer.send(answer(3, "x"))
            assert await call == "x"

    run(scenario(), loop=loop)


def test_answer_that_crosses_a_cancel_is_dropped(loop: LoopName) -> None:
    """The answer may come between the cancel and the task's last step."""

    async def scenario() -> None:
        async with pair() as (client, _peer):
            call = asyncio.create_task(echo(client))
            await asyncio.sleep(0)
            client._connection.feed(answer(1, "x") + answer(1, "again"))
            call.cancel()
            client._transport.pump()
            await asyncio.wait([call])
            assert call.cancelled()

    run(scenario(), loop=loop)


@pytest.mark.rule("ttrpc.stream.7")
def test_stream_by_hand_ends_with_a_response_too(loop: LoopName) -> None:
    """Unknown kinds are ignored; the timer is removed with the stream."""

    async def scenario() -> None:
        async with pair() as (client, peer):
            stream = await client.stream(
                SERVICE, "Talk", StringValue, client_streams=True, timeout_s=LIMIT_S
            )
            frame = await peer.frame()
            assert frame is not None
            assert (frame.kind, frame.flags) == (wire.REQUEST, wire.REMOTE_OPEN)
            await peer.send(wire.encode_frame(1, 77, 0, b"") + answer(1, "x"))
            assert (await stream.receive()).value == "x"
            with pytest.raises(EOFError):
                await stream.receive()
            stream.close()

    run(scenario(), loop=loop)


# --- the end ---------------------------------------------------------------------------------


@pytest.mark.rule("ttrpc.client.3", "ttrpc.client.7")
@pytest.mark.parametrize("rest", [b"", b"\0\0\0\1", response(1, b"12345")[:-1]])
def test_lost_server_fails_all_calls_and_is_noticed(loop: LoopName, rest: bytes) -> None:
    """For each errno; a daemon notices in this way that its shim has died."""

    async def scenario() -> None:
        async with pair() as (client, peer):
            noticed = [asyncio.create_task(client.wait_closed()) for _ in range(2)]
            calls = [asyncio.create_task(echo(client)) for _ in range(3)]
            for _ in calls:
                await request_of(peer)
            closed_before = client.closed
            await peer.send(rest)
            peer.sock.close()
            for ended in await asyncio.gather(*calls, return_exceptions=True):
                assert isinstance(ended, ConnectionClosed)
                assert str(ended) == "ttrpc: closed"
            await asyncio.gather(*noticed)
            assert (closed_before, client.closed) == (False, True)
            with pytest.raises(ConnectionClosed):
                await echo(client)

    run(scenario(), loop=loop)


@pytest.mark.rule("ttrpc.client.3")
def test_server_that_left_unread_requests_counts_as_gone(loop: LoopName) -> None:
    """ECONNRESET on read, EPIPE on write."""

    async def scenario() -> None:
        for read_first in (True, False):
            async with pair() as (client, peer):
                first = asyncio.create_task(echo(client))
                await asyncio.sleep(0)
                if read_first:
                    await request_of(peer)
                peer.sock.close()
                second = asyncio.create_task(echo(client))  # written before the end is read
                for ended in await asyncio.gather(first, second, return_exceptions=True):
                    assert isinstance(ended, ConnectionClosed)

    run(scenario(), loop=loop)


@pytest.mark.rule("ttrpc.client.7")
def test_closed_client_fails_its_calls_also_those_that_wait_to_be_sent(loop: LoopName) -> None:
    """A closed connection cannot be used."""

    async def scenario() -> None:
        async with pair() as (client, _peer):
            big = "x" * transport.LIMIT_BYTES
            calls = [asyncio.create_task(echo(client, big)) for _ in range(6)]
            await eventually(lambda: client._transport.congested, "the stall")
            await client.close()
            await client.close()
            await client.wait_closed()
            for ended in await asyncio.gather(*calls, return_exceptions=True):
                assert isinstance(ended, ConnectionClosed)

    run(scenario(), loop=loop)
