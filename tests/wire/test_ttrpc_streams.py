"""Streaming calls of all kinds, between our two ends."""

import asyncio

import pytest
from google.protobuf.wrappers_pb2 import StringValue

from protos.ttrpc_events_pb2 import ForwardRequest
from shimv2.shimctl.testbed.until import eventually
from tests.support.aio import LoopName, run
from tests.support.ttrpc_peer import SERVICE, Things, connected, echo, serving
from ttrpc import (
    Client,
    ClientStream,
    Code,
    ConnectionClosed,
    LocalProtocolError,
    RemoteProtocolError,
    StatusError,
    StreamClosed,
    wire,
)


def text(value: str) -> StringValue:
    return StringValue(value=value)


async def talk(client: Client, method: str = "Talk", **options: float) -> ClientStream[StringValue]:
    return await client.stream(
        SERVICE,
        method,
        StringValue,
        client_streams=True,
        timeout_s=options.get("timeout_s"),
    )


# --- both ends -------------------------------------------------------------------------------


@pytest.mark.rule("ttrpc.stream.1")
def test_client_stream_is_answered_once_at_its_end(loop: LoopName) -> None:
    """Many requests, one response."""

    async def scenario() -> None:
        async with serving(Things().registry) as (server, path), connected(path) as client:
            stream = await client.stream(
                SERVICE, "Join", StringValue, client_streams=True, server_streams=False
            )
            for value in ("a", "", "b"):
                await stream.send(text(value))
            stream.close_send()
            assert (await stream.receive()).value == "a,,b"
            with pytest.raises(EOFError):
                await stream.receive()
            with pytest.raises(StreamClosed):
                await stream.send(text("late"))
            assert server.calls == 0

    run(scenario(), loop=loop)


@pytest.mark.rule("ttrpc.stream.2")
@pytest.mark.parametrize("asked", ["a,b", "a,!b", "!", ""])
def test_server_stream_sends_many_answers(loop: LoopName, asked: str) -> None:
    """One request; the result of the handler is in the last frame."""

    async def scenario() -> None:
        async with serving(Things().registry) as (_server, path), connected(path) as client:
            stream = await client.stream(SERVICE, "Split", StringValue, request=text(asked))
            answers = [one.value async for one in stream]
            assert answers == [one.removeprefix("!") for one in asked.split(",")]
            with pytest.raises(StreamClosed):
                await stream.send(text("x"))

    run(scenario(), loop=loop)


@pytest.mark.rule("ttrpc.stream.3")
def test_bidirectional_stream_goes_both_ways_in_any_order(loop: LoopName) -> None:
    """Other calls continue meanwhile."""

    async def scenario() -> None:
        things = Things()
        async with serving(things.registry) as (_server, path), connected(path) as client:
            stream = await talk(client)
            for value in ("a", "b"):
                await stream.send(text(value))
                assert (await stream.receive()).value == value
                assert await echo(client) == "x"
            for value in ("c", "", "d"):
                await stream.send(text(value))
            stream.close_send()
            assert [one.value async for one in stream] == ["c", "", "d"]

    run(scenario(), loop=loop)


@pytest.mark.rule("ttrpc.stream.4")
def test_first_request_of_a_client_stream_may_come_with_the_call(loop: LoopName) -> None:
    """A payload in the request is the first message."""

    async def scenario() -> None:
        async with serving(Things().registry) as (_server, path), connected(path) as client:
            stream = await client.stream(
                SERVICE, "Talk", StringValue, request=text("first"), client_streams=True
            )
            assert (await stream.receive()).value == "first"

    run(scenario(), loop=loop)


def test_error_ends_a_stream_after_what_was_sent_before_it(loop: LoopName) -> None:
    """Response with a status; earlier messages are not lost."""

    async def scenario() -> None:
        async with serving(Things().registry) as (_server, path), connected(path) as client:
            stream = await talk(client)
            for value in ("a", "fail"):
                await stream.send(text(value))
            await asyncio.sleep(0)
            assert (await stream.receive()).value == "a"
            for _ in range(2):
                with pytest.raises(StatusError, match="as asked"):
                    await stream.receive()

    run(scenario(), loop=loop)


@pytest.mark.rule("ttrpc.stream.9")
def test_stream_ends_at_its_deadline_on_both_sides(loop: LoopName) -> None:
    """As for a unary call."""

    async def scenario() -> None:
        things = Things()
        async with serving(things.registry) as (_server, path), connected(path) as client:
            stream = await talk(client, "Deaf", timeout_s=0.05)
            with pytest.raises(StatusError) as refused:
                await stream.receive()
            assert refused.value.code is Code.DEADLINE_EXCEEDED
            await eventually(lambda: things.cancelled == 1, "the end of the handler")
            assert await echo(client) == "x"

    run(scenario(), loop=loop)


@pytest.mark.rule("ttrpc.stream.9")
def test_streams_end_with_their_connection(loop: LoopName) -> None:
    """The handler is cancelled; the client gets the reason."""

    async def scenario() -> None:
        async with serving(Things().registry) as (server, path), connected(path) as client:
            stream = await talk(client)
            await stream.send(text("a"))
            assert (await stream.receive()).value == "a"
            await client.close()
            with pytest.raises(ConnectionClosed):
                await stream.receive()
            with pytest.raises(ConnectionClosed):
                await stream.send(text("b"))
            await eventually(lambda: not server.calls, "the end of the handler")

    run(scenario(), loop=loop)


def test_stream_that_is_left_is_forgotten_and_the_connection_used_on(loop: LoopName) -> None:
    """There is no cancel frame; later frames are dropped."""

    async def scenario() -> None:
        things = Things()
        async with serving(things.registry) as (_server, path), connected(path) as client:
            async with await talk(client) as stream:
                await stream.send(text("a"))
            with pytest.raises(StreamClosed):
                await stream.receive()
            with pytest.raises(StreamClosed):
                stream.close_send()
            assert await echo(client) == "x"
            assert things.received == ["a"]

    run(scenario(), loop=loop)


def test_stream_has_one_receiver_at_a_time(loop: LoopName) -> None:
    """Two receivers would take each other's messages."""

    async def scenario() -> None:
        async with serving(Things().registry) as (_server, path), connected(path) as client:
            stream = await talk(client)
            first = asyncio.create_task(stream.receive())
            await asyncio.sleep(0)
            with pytest.raises(LocalProtocolError):
                await stream.receive()
            await stream.send(text("a"))
            assert (await first).value == "a"

    run(scenario(), loop=loop)


def test_cancelled_receiver_loses_no_message(loop: LoopName) -> None:
    """A receive with a time limit is the usual way to poll."""

    async def scenario() -> None:
        async with serving(Things().registry) as (_server, path), connected(path) as client:
            stream = await talk(client)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await stream.receive()
            await stream.send(text("a"))
            assert (await stream.receive()).value == "a"

    run(scenario(), loop=loop)


def test_message_beyond_the_limit_is_refused_and_the_stream_continues(loop: LoopName) -> None:
    """The sender refuses it, and sends no byte of it."""

    async def scenario() -> None:
        async with serving(Things().registry) as (_server, path), connected(path) as client:
            stream = await talk(client)
            with pytest.raises(StatusError) as refused:
                await stream.send(text("x" * (wire.MAX_DATA_BYTES + 1)))
            assert refused.value.code is Code.RESOURCE_EXHAUSTED
            await stream.send(text("a"))
            assert (await stream.receive()).value == "a"

    run(scenario(), loop=loop)


def test_client_that_does_not_stream_needs_its_request(loop: LoopName) -> None:
    """A programming error, raised at once."""

    async def scenario() -> None:
        async with serving(Things().registry) as (_server, path), connected(path) as client:
            with pytest.raises(LocalProtocolError):
                await client.stream(SERVICE, "Split", StringValue)

    run(scenario(), loop=loop)


def test_message_that_cannot_be_read_is_a_protocol_error(loop: LoopName) -> None:
    """Only this message fails; later ones can be received."""

    async def scenario() -> None:
        async with serving(Things().registry) as (_server, path), connected(path) as client:
            stream = await client.stream(
                SERVICE, "Talk", ForwardRequest, request=text("no envelope"), client_streams=True
            )
            with pytest.raises(RemoteProtocolError, match="unmarshal response error"):
                await stream.receive()
            await stream.send(text(""))
            assert await stream.receive() == ForwardRequest()

    run(scenario(), loop=loop)


@pytest.mark.rule("ttrpc.stream.8")
def test_answers_that_are_no_messages_are_protocol_errors(loop: LoopName) -> None:
    """Only this call fails."""

    async def scenario() -> None:
        async with serving(Things().registry) as (_server, path), connected(path) as client:
            stream = await client.stream(
                SERVICE, "Talk", StringValue, client_streams=True, server_streams=False
            )
            await stream.send(text("a"))
            with pytest.raises(
                RemoteProtocolError, match="received data from non-streaming server"
            ):
                await stream.receive()
            with pytest.raises(
                RemoteProtocolError, match="received data from non-streaming server"
            ):
                await client.call(SERVICE, "Split", text("a"), StringValue)
            assert await echo(client) == "x"

    run(scenario(), loop=loop)
