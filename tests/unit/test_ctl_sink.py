"""The events sink: it records in order, and misbehaves on demand."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from google.protobuf.any_pb2 import Any
from google.protobuf.empty_pb2 import Empty

from protos import events_pb2, ttrpc_events_pb2, types_pb2
from shimv2.shimctl.sink import SERVICE, EventsSink
from tests.support.aio import run
from ttrpc import Client, ConnectionClosed, StatusError


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[tuple[EventsSink, Client]]:
    sink = EventsSink(str(path))
    await sink.open()
    client = await Client.connect(sink.path, timeout_s=1)
    try:
        yield sink, client
    finally:
        await client.close()
        await sink.close()


async def forward(client: Client, topic: str, message: events_pb2.TaskStart) -> None:
    event = Any(type_url="containerd.events.TaskStart", value=message.SerializeToString())
    envelope = types_pb2.Envelope(namespace="ns", topic=topic, event=event)
    request = ttrpc_events_pb2.ForwardRequest(envelope=envelope)
    metadata = [("containerd-namespace-ttrpc", "ns")]
    await client.call(SERVICE, "Forward", request, Empty, timeout_s=2, metadata=metadata)


def test_events_are_kept_in_order_with_all_they_carry(tmp_path: Path) -> None:
    """Topic, namespace, message, type and metadata, as the shim sent them."""

    async def scenario() -> None:
        async with opened(tmp_path / "e.sock") as (sink, client):
            for pid in (1, 2):
                message = events_pb2.TaskStart(container_id=f"c{pid}", pid=pid)
                await forward(client, "/tasks/start", message)
            found = await sink.wait_for("/tasks/start", process_id="c2")

            assert [event.container_id for event in sink.events] == ["c1", "c2"]
            assert (found.namespace, found.metadata) == ("ns", ("ns",))
            assert sink.events_of("c1") == ["start c1"]

    run(scenario(), loop="stock")


def test_wait_for_an_event_that_does_not_come_reports_the_others(tmp_path: Path) -> None:
    """The failure of a test lists the other events."""

    async def scenario() -> None:
        async with opened(tmp_path / "e.sock") as (sink, client):
            await forward(client, "/tasks/start", events_pb2.TaskStart(container_id="c1"))
            with pytest.raises(TimeoutError, match="came: start c1"):
                await sink.wait_for("/tasks/exit", timeout_s=0.1)

    run(scenario(), loop="stock")


def test_unknown_type_name_is_refused(tmp_path: Path) -> None:
    """Go clients compare the bare name; a prefixed one is a fault of the shim."""

    async def scenario() -> None:
        async with opened(tmp_path / "e.sock") as (sink, client):
            event = Any(type_url="type.googleapis.com/containerd.events.TaskStart")
            request = ttrpc_events_pb2.ForwardRequest(envelope=types_pb2.Envelope(event=event))
            with pytest.raises(StatusError):
                await client.call(SERVICE, "Forward", request, Empty, timeout_s=2)

            assert sink.events == []

    run(scenario(), loop="stock")


def test_stalled_sink_takes_calls_and_answers_later(tmp_path: Path) -> None:
    """A daemon that is too busy to answer."""

    async def scenario() -> None:
        async with opened(tmp_path / "e.sock") as (sink, client):
            sink.stall()
            async with asyncio.TaskGroup() as tasks:
                message = events_pb2.TaskStart(container_id="c1")
                call = tasks.create_task(forward(client, "/tasks/start", message))
                await sink.wait_for("/tasks/start")
                assert not call.done()
                sink.answer()

    run(scenario(), loop="stock")


def test_closed_sink_cuts_its_connections_and_can_be_opened_again(tmp_path: Path) -> None:
    """A daemon that was killed and listens again at the same address."""

    async def scenario() -> None:
        async with opened(tmp_path / "e.sock") as (sink, client):
            await sink.close()
            with pytest.raises(ConnectionClosed):
                await forward(client, "/tasks/start", events_pb2.TaskStart())
            assert not (tmp_path / "e.sock").exists()
            (tmp_path / "e.sock").touch()  # what a killed daemon leaves behind
            await sink.open()
            again = await Client.connect(sink.path, timeout_s=1)
            await forward(again, "/tasks/start", events_pb2.TaskStart(container_id="c1"))
            await again.close()

            assert sink.events_of("c1") == ["start c1"]

    run(scenario(), loop="stock")
