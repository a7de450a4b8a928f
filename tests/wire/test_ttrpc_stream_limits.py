"""Streams whose other end does not receive."""

import asyncio

import pytest
from google.protobuf.wrappers_pb2 import StringValue

from shimv2.shimctl.testbed.until import eventually
from tests.support.aio import LoopName, run
from tests.support.ttrpc_peer import SERVICE, Peer, Things, connected, echo, serving
from ttrpc import (
    Client,
    ClientStream,
    LocalProtocolError,
    StatusError,
    inbox,
    wire,
)

DEEP = inbox.DEPTH + 1  # one message more than a stream queues


PATIENCE_S = 0.2


@pytest.fixture
def short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox, "PATIENCE_S", PATIENCE_S)


def text(value: str) -> StringValue:
    return StringValue(value=value)


async def deaf(client: Client) -> ClientStream[StringValue]:
    return await client.stream(SERVICE, "Deaf", StringValue, client_streams=True)


@pytest.mark.rule("ttrpc.stream.5")
def test_full_stream_waits_for_its_handler(loop: LoopName) -> None:
    """More than 64 messages at once are no error if the handler receives them in time."""

    async def scenario() -> None:
        things = Things()
        sent = [str(number) for number in range(3 * DEEP)]
        async with serving(things.registry) as (_server, path), connected(path) as client:
            stream = await deaf(client)
            for value in sent:
                await stream.send(text(value))
            await eventually(lambda: things.waiting, "the handler")
            assert things.received == []
            things.release.set()
            await eventually(lambda: things.received == sent, "all messages, in order")
            stream.close_send()
            with pytest.raises(EOFError):
                await stream.receive()

    run(scenario(), loop=loop)


@pytest.mark.rule("ttrpc.stream.5")
def test_stream_that_is_not_read_is_aborted_and_the_connection_stays_open(
    loop: LoopName, short_patience: None
) -> None:
    """After 1 s; older implementations block the whole connection for ever."""

    async def scenario() -> None:
        things = Things()
        async with serving(things.registry) as (_server, path), connected(path) as client:
            stream = await deaf(client)
            for _ in range(DEEP):
                await stream.send(text("x"))
            began = asyncio.get_running_loop().time()
            assert await echo(client) == "x"
            assert asyncio.get_running_loop().time() - began > PATIENCE_S / 2, "it had to wait"
            with pytest.raises(StatusError) as refused:
                await stream.receive()
            assert (refused.value.code, str(refused.value)) == (
                3,
                "data handling error: ttrpc: stream buffer full",
            )
            await eventually(lambda: things.cancelled == 1, "the end of the handler")

    run(scenario(), loop=loop)


def test_handler_that_ends_with_a_full_stream_frees_the_connection(loop: LoopName) -> None:
    """No handler will receive these messages."""

    async def scenario() -> None:
        async with serving(Things().registry) as (_server, path):
            with Peer.connect(path) as peer:
                await peer.request(1, "Deaf", flags=wire.REMOTE_OPEN, timeout_ns=50_000_000)
                for _ in range(2 * DEEP):
                    await peer.data(1, "x")
                await peer.request(3, "Echo", "free")
                assert await peer.refusal() == (1, 4, "context deadline exceeded")
                for _ in range(DEEP):
                    assert (await peer.refusal())[2] == "StreamID is no longer active"
                assert await peer.response() == (3, "free")

    run(scenario(), loop=loop)


def test_rest_of_a_frame_outlives_its_stream_harmlessly(loop: LoopName) -> None:
    """Its message was waiting for room when the handler ended."""

    async def scenario() -> None:
        async with serving(Things().registry) as (_server, path):
            with Peer.connect(path) as peer:
                await peer.request(1, "Deaf", flags=wire.REMOTE_OPEN, timeout_ns=50_000_000)
                for _ in range(inbox.DEPTH):
                    await peer.data(1, "x")
                await peer.data(1, "x", flags=wire.REMOTE_CLOSED)
                assert (await peer.refusal())[:2] == (1, 4)
                assert await peer.refusal() == (1, 3, "data close message cannot include data")
                await peer.request(3, "Echo", "free")
                assert await peer.response() == (3, "free")

    run(scenario(), loop=loop)


def test_connection_that_ends_with_a_full_stream_is_released(loop: LoopName) -> None:
    """No timer, no task is left."""

    async def scenario() -> None:
        things = Things()
        async with serving(things.registry) as (server, path):
            async with connected(path) as client:
                stream = await deaf(client)
                for _ in range(2 * DEEP):
                    await stream.send(text("x"))
                await eventually(lambda: things.waiting, "the handler")
                await server.close()
                await client.wait_closed()
            assert things.cancelled == 1

    run(scenario(), loop=loop)


def test_client_that_does_not_read_loses_the_stream_only(
    loop: LoopName, short_patience: None
) -> None:
    """The error ends this stream, not the connection."""

    async def scenario() -> None:
        async with serving(Things().registry) as (server, path), connected(path) as client:
            many = ",".join("x" * 2 * DEEP)
            stream = await client.stream(SERVICE, "Split", StringValue, request=text(many))
            await echo(client)
            await eventually(lambda: not server.calls, "the end of the handler")
            assert await echo(client) == "x"
            for _ in range(inbox.DEPTH):
                assert (await stream.receive()).value == "x"
            with pytest.raises(LocalProtocolError, match="ttrpc: stream buffer full"):
                await stream.receive()

    run(scenario(), loop=loop)


def test_server_stream_waits_for_a_client_that_does_not_read(loop: LoopName) -> None:
    """The stream stalls only itself, and uses a limited amount of memory."""

    async def scenario() -> None:
        things = Things()
        sent = 0

        async def flood(stream: object, _call: object) -> None:
            nonlocal sent
            while True:
                await stream.send(text("x" * 65536))  # type: ignore[attr-defined] # any registry
                sent += 1

        things.registry.bidi(SERVICE, "Flood", StringValue, flood)
        async with serving(things.registry) as (_server, path), connected(path) as other:
            with Peer.connect(path) as peer:
                await peer.request(1, "Flood", flags=wire.REMOTE_OPEN)
                before = -1
                while before != sent:
                    before = sent
                    for _ in range(50):
                        assert await echo(other) == "x"
                assert 16 <= sent < 64, "a limit of 1 MiB, and the kernel's buffer"
                for _ in range(100):
                    assert await peer.frame() is not None

    run(scenario(), loop=loop)
