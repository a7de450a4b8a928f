"""Handlers whose client disconnects, or whose server ends."""

import asyncio
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue

from shimv2.shimctl.testbed.until import eventually
from tests.support.aio import LoopName, run
from tests.support.ttrpc_peer import SERVICE, Peer, Things, connected, echo, serving
from ttrpc import Call, ConnectionClosed, Registry

EXPIRED = (4, "context deadline exceeded")
MS = 1_000_000  # of nanoseconds


def one_method(handler: Any) -> Registry:
    registry = Registry()
    registry.unary(SERVICE, "Echo", StringValue, handler)
    return registry


@pytest.mark.rule("ttrpc.deadline.4")
def test_lost_client_cancels_its_handlers_and_no_others(loop: LoopName) -> None:
    """The context of a call ends with its connection."""

    async def scenario() -> None:
        things = Things()
        async with serving(things.registry) as (server, path), connected(path) as other:
            kept = asyncio.create_task(echo(other, "kept", method="Wait"))
            with Peer.connect(path) as peer:
                for stream_id in (1, 3, 5):
                    await peer.request(stream_id, "Wait")
                await eventually(lambda: things.waiting == 4, "the handlers")
            await eventually(lambda: things.cancelled == 3, "their end")
            assert (server.connections, server.calls) == (1, 1)
            things.release.set()
            assert await kept == "kept"

    run(scenario(), loop=loop)


@pytest.mark.rule("ttrpc.deadline.5")
@pytest.mark.parametrize("method", ["Echo", "Stubborn"])
def test_call_of_a_client_that_closes_at_once_still_begins(loop: LoopName, method: str) -> None:
    """A Kill or Delete of a client that disconnects must take effect."""

    async def scenario() -> None:
        things = Things()
        async with serving(things.registry) as (server, path):
            with Peer.connect(path) as peer:
                await peer.request(1, method)
            await eventually(lambda: things.answered + things.cancelled == 1, "the call")
            await eventually(lambda: not server.connections, "the end")

    run(scenario(), loop=loop)


def test_calls_of_a_client_that_reads_nothing_any_more_still_happen(loop: LoopName) -> None:
    """The reply cannot be sent, but the request takes effect."""

    async def scenario() -> None:
        things = Things()
        async with serving(things.registry) as (server, path):
            with Peer.connect(path) as peer:
                for stream_id in (1, 3, 5):
                    await peer.request(stream_id, "Echo")
            await eventually(lambda: things.answered == 3, "the calls")
            await eventually(lambda: not server.connections, "the end")

    run(scenario(), loop=loop)


def test_handler_that_fails_after_its_client_went_is_logged_only(
    loop: LoopName, caplog: pytest.LogCaptureFixture
) -> None:
    """No client gets its answer."""
    reached = []

    async def fail_when_cancelled(_request: StringValue, _call: Call) -> StringValue:
        reached.append(1)
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            raise KeyError("too late")

    async def scenario() -> None:
        async with serving(one_method(fail_when_cancelled)) as (server, path):
            with Peer.connect(path) as peer:
                await peer.request(1, "Echo")
                await eventually(lambda: reached, "the handler")
            await eventually(lambda: not server.connections, "the end")

    run(scenario(), loop=loop)
    assert "unexpected error in a handler" in caplog.text


@pytest.mark.rule("ttrpc.stop.2")
def test_closing_server_cancels_and_awaits_handlers(loop: LoopName) -> None:
    """All are cancelled at once; afterwards no handler runs."""

    async def scenario() -> None:
        things = Things()
        async with serving(things.registry) as (server, path), connected(path) as client:
            calls = [asyncio.create_task(echo(client, method="Wait")) for _ in range(5)]
            await eventually(lambda: things.waiting == 5, "the handlers")
            await server.close()
            assert (things.waiting, things.cancelled, server.connections) == (0, 5, 0)
            for ended in await asyncio.gather(*calls, return_exceptions=True):
                assert isinstance(ended, ConnectionClosed)
            await server.close()

    run(scenario(), loop=loop)
