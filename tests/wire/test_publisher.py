"""The ordered outbox of events, with a real ttrpc sink that misbehaves."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from google.protobuf.empty_pb2 import Empty

from protos import events_pb2
from protos.ttrpc_events_pb2 import ForwardRequest
from shimv2.api import publisher as module
from shimv2.api.publisher import Publisher
from shimv2.shimctl.testbed.until import eventually
from shimv2.values.errors import ResourceExhausted
from shimv2.values.model import Deleted, Exit, Exited, Oom, Paused, Resumed, Started
from tests.support.aio import run
from ttrpc import Call, Code, Registry, Server, StatusError


class Sink:
    """A daemon's events service.  Each call uses up one of `answers`; after them every call is
    OK."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "sink.sock"
        self.requests: list[tuple[ForwardRequest, Call]] = []
        self.answers: list[StatusError | asyncio.Event] = []
        self._server: Server | None = None

    def open(self) -> None:
        registry = Registry()
        registry.unary(module.SERVICE, "Forward", ForwardRequest, self._forward)
        self._server = Server(registry)
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(str(self.path))
        sock.listen()
        self._server.listen(sock)

    async def close(self) -> None:
        if self._server is not None:
            await self._server.close()
            self.path.unlink()

    @property
    def pids(self) -> list[int]:
        """The pids of the received events, in order: each event in these tests has its own pid."""
        started = events_pb2.TaskStart.FromString
        return [started(request.envelope.event.value).pid for request, _ in self.requests]

    async def _forward(self, request: ForwardRequest, call: Call) -> Empty:
        self.requests.append((request, call))
        answer = self.answers.pop(0) if self.answers else None
        if isinstance(answer, StatusError):
            raise answer
        if answer is not None:
            await answer.wait()
        return Empty()


@contextlib.asynccontextmanager
async def publishing(address: str) -> AsyncIterator[Publisher]:
    publisher = Publisher(address, "ns")
    task = asyncio.create_task(publisher.run())
    try:
        yield publisher
    finally:
        task.cancel()
        await asyncio.wait([task])


@pytest.mark.rule("events.transport.1", "events.transport.2")
def test_event_is_wrapped_as_containerd_expects(tmp_path: Path) -> None:
    """Envelope, bare type URL, namespace, metadata and timeout are those that the daemon
    accepts."""

    async def main() -> None:
        sink = Sink(tmp_path)
        sink.open()
        async with publishing(f"unix://{sink.path}") as publisher:
            publisher.emit(Exited("c1", "e1", Exit(7, 137, 1_700_000_000_000_000_005)))
            publisher.emit(Deleted("c1", 7, None))
            await publisher.drain(5)
        (exited, call), (deleted, _) = sink.requests
        assert exited.envelope.topic == "/tasks/exit"
        assert exited.envelope.namespace == "ns"
        assert exited.envelope.event.type_url == "containerd.events.TaskExit"
        assert call.metadata.get("containerd-namespace-ttrpc") == ("ns",)
        assert call.deadline is not None
        assert 0 < call.deadline - asyncio.get_running_loop().time() <= 5
        message = events_pb2.TaskExit.FromString(exited.envelope.event.value)
        assert (message.container_id, message.id, message.pid) == ("c1", "e1", 7)
        assert (message.exit_status, message.exited_at.nanos) == (137, 5)
        never = events_pb2.TaskDelete.FromString(deleted.envelope.event.value)
        assert never.exited_at.seconds == -62_135_596_800
        await sink.close()

    run(main())


@pytest.mark.rule("events.transport.2")
def test_events_arrive_in_order_once_the_daemon_is_back(tmp_path: Path) -> None:
    """Unlike in the reference no event is dropped or reordered."""

    async def main() -> None:
        sink = Sink(tmp_path)
        async with publishing(str(sink.path)) as publisher:
            for pid in range(1, 301):
                publisher.emit(Started("c1", pid))
            await eventually(lambda: publisher.pending == 300, "the outbox to fill")
            sink.open()
            await publisher.drain(20)
            assert sink.pids == list(range(1, 301))
            await sink.close()
            publisher.emit(Started("c1", 301))
            sink.open()  # a restarted daemon: the old connection is closed
            await publisher.drain(20)
        assert sink.pids == list(range(1, 302))
        await sink.close()

    run(main(), timeout_s=50)


@pytest.mark.rule("events.transport.7")
@pytest.mark.parametrize(
    "code", [Code.DEADLINE_EXCEEDED, Code.RESOURCE_EXHAUSTED, Code.UNAVAILABLE]
)
def test_answer_that_means_not_now_is_tried_again_in_place(tmp_path: Path, code: Code) -> None:
    """Codes 4, 8 and 14 are no acknowledgement."""

    async def main() -> None:
        sink = Sink(tmp_path)
        sink.open()
        sink.answers = [StatusError(code, "busy")]
        async with publishing(str(sink.path)) as publisher:
            publisher.emit(Started("c1", 1))
            publisher.emit(Started("c1", 2))
            await publisher.drain(5)
        assert sink.pids == [1, 1, 2]
        await sink.close()

    run(main())


@pytest.mark.rule("events.transport.7")
def test_refusal_is_an_acknowledgement_and_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A daemon that refuses an event will refuse it again, so the next event is sent."""

    async def main() -> None:
        sink = Sink(tmp_path)
        sink.open()
        sink.answers = [StatusError(Code.NOT_FOUND, "no such namespace")]
        async with publishing(str(sink.path)) as publisher:
            publisher.emit(Started("c1", 1))
            publisher.emit(Started("c1", 2))
            await publisher.drain(5)
        assert sink.pids == [1, 2]
        await sink.close()

    run(main())
    assert caplog.text.count("no such namespace") == 1


@pytest.mark.rule("events.transport.6")
def test_daemon_that_dies_over_an_event_gets_it_again(tmp_path: Path) -> None:
    """A lost connection is no acknowledgement, whether or not the event was read."""

    async def main() -> None:
        sink = Sink(tmp_path)
        sink.open()
        sink.answers = [asyncio.Event()]
        async with publishing(str(sink.path)) as publisher:
            publisher.emit(Started("c1", 1))
            publisher.emit(Started("c1", 2))
            await eventually(lambda: sink.requests, "the first event")
            await sink.close()
            sink.open()
            await publisher.drain(5)
        assert sink.pids == [1, 1, 2]
        await sink.close()

    run(main())


@pytest.mark.rule("events.transport.3")
def test_without_an_address_events_are_dropped_at_once() -> None:
    """A shim without an address for events works nevertheless."""

    async def main() -> None:
        async with publishing("") as publisher:
            publisher.emit(Started("c1", 1))
            assert publisher.pending == 0
            await publisher.drain(0)

    run(main())


@pytest.mark.rule("events.transport.8")
def test_full_outbox_refuses_new_processes_and_drops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the bound Create and Exec get code 8; other events are still queued."""
    monkeypatch.setattr(module, "MAX_PENDING", 2)

    async def main() -> None:
        async with publishing(str(tmp_path / "nobody.sock")) as publisher:
            publisher.emit(Started("c1", 1))
            publisher.check_room()
            publisher.emit(Started("c1", 2))
            with pytest.raises(ResourceExhausted):
                publisher.check_room()
            publisher.emit(Started("c1", 3))
            assert publisher.pending == 3

    run(main())


def test_events_not_acknowledged_at_the_end_are_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The shim waits a limited time for its last events before it exits, and logs those that are
    lost."""

    async def main() -> None:
        async with publishing(str(tmp_path / "nobody.sock")) as publisher:
            publisher.emit(Started("c1", 1))
            await publisher.drain(0.05)

    run(main())
    assert "/tasks/start" in caplog.text


def test_ooms_of_one_container_are_published_once_while_none_is_acknowledged(
    tmp_path: Path,
) -> None:
    """A daemon that was down gets one OOM event for each container, in order."""

    async def main() -> None:
        sink = Sink(tmp_path)
        gate = asyncio.Event()
        sink.answers = [gate]
        sink.open()
        async with publishing(f"unix://{sink.path}") as publisher:
            publisher.emit(Oom("c1"))
            await eventually(lambda: sink.requests, "the first to be under way")
            for _ in range(3):
                publisher.emit(Oom("c1"))  # while one is being sent, a new one is queued
                publisher.emit(Oom("c2"))
            publisher.emit(Started("c3", 1))
            assert publisher.pending == 4
            gate.set()
            await publisher.drain(5)
            publisher.emit(Oom("c1"))
            await publisher.drain(5)
        oom = events_pb2.TaskOOM.FromString
        names = [oom(request.envelope.event.value).container_id for request, _ in sink.requests]
        assert names == ["c1", "c1", "c2", "c3", "c1"]
        assert sink.requests[0][0].envelope.topic == "/tasks/oom"
        assert sink.requests[0][0].envelope.event.type_url == "containerd.events.TaskOOM"
        await sink.close()

    run(main())


def test_pause_and_resume_have_their_topics(tmp_path: Path) -> None:
    """Topics and bare type URLs are those of containerd."""

    async def main() -> None:
        sink = Sink(tmp_path)
        sink.open()
        async with publishing(f"unix://{sink.path}") as publisher:
            publisher.emit(Paused("c1"))
            publisher.emit(Resumed("c1"))
            await publisher.drain(5)
        envelopes = [request.envelope for request, _ in sink.requests]
        assert [(each.topic, each.event.type_url) for each in envelopes] == [
            ("/tasks/paused", "containerd.events.TaskPaused"),
            ("/tasks/resumed", "containerd.events.TaskResumed"),
        ]
        await sink.close()

    run(main())
