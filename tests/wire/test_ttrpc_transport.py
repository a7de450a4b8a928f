"""The transport alone, with unusual behaviour of the loop and the kernel."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import pytest

from shimv2.shimctl.testbed.until import eventually
from tests.support.aio import LoopName, run
from ttrpc import ConnectionClosed
from ttrpc.transport import EVENTS_PER_STEP, Transport

LIMIT_BYTES = 100_000


class Bytes:
    """A connection whose events are the single bytes that it received."""

    mid_frame = False

    def __init__(self) -> None:
        self._left = b""

    def feed(self, chunk: bytes) -> None:
        self._left += chunk

    def next_event(self) -> int | None:
        if not self._left:
            return None
        first, self._left = self._left[0], self._left[1:]
        return first


class Pump:
    """A transport, the other end of its socket, and its reports."""

    def __init__(self, *, stop_when_congested: bool = True) -> None:
        ours, self.peer = socket.socketpair()
        ours.setblocking(False)
        self.peer.setblocking(False)
        self.seen: list[int] = []
        self.ends = 0
        self.transport = Transport[int](
            asyncio.get_running_loop(),
            ours,
            Bytes(),
            handle=self.seen.append,
            lost=self._lost,
            stop_when_congested=stop_when_congested,
            limit_bytes=LIMIT_BYTES,
        )

    def _lost(self) -> None:
        self.ends += 1

    def fill(self) -> None:
        """Write until the connection is congested."""
        while not self.transport.congested:
            self.transport.write(bytes(50_000))

    def empty(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                self.peer.recv(1 << 20)


@contextlib.asynccontextmanager
async def pump(**options: bool) -> AsyncIterator[Pump]:
    one = Pump(**options)
    with one.peer:
        try:
            yield one
        finally:
            one.transport.close()


def test_nothing_is_read_before_the_start(loop: LoopName) -> None:
    """The owner of the transport prepares first."""

    async def scenario() -> None:
        async with pump() as one:
            one.peer.send(b"ab")
            await asyncio.sleep(0)
            assert one.seen == []
            one.transport.start()
            await eventually(lambda: one.seen == list(b"ab"), "the bytes")

    run(scenario(), loop=loop)


def test_readiness_that_is_none_is_no_end(loop: LoopName) -> None:
    """A loop may call it without need: EAGAIN on read and write."""

    async def scenario() -> None:
        async with pump() as one:
            one.transport.start()
            one.transport._on_readable()
            one.fill()
            waiting = one.transport.waiting_bytes
            one.transport._on_writable()
            assert one.transport.waiting_bytes == waiting
            assert not one.transport.closed

    run(scenario(), loop=loop)


def test_congestion_stops_reading_at_a_server_only(loop: LoopName) -> None:
    """A client continues to read, because this makes room at the other end."""

    async def scenario() -> None:
        for stops in (True, False):
            async with pump(stop_when_congested=stops) as one:
                one.transport.start()
                one.peer.send(b"a")
                await eventually(lambda: one.seen == [97], "the first")
                one.fill()
                one.transport.pump()
                one.peer.send(b"b")
                for _ in range(5):
                    await asyncio.sleep(0)
                assert one.seen == ([97] if stops else [97, 98])
                draining = asyncio.create_task(one.transport.drain())
                while not draining.done():
                    one.empty()
                    await asyncio.sleep(0)
                await eventually(lambda: one.seen == [97, 98], "the second")

    run(scenario(), loop=loop)


def test_drain_of_a_lost_connection_reports_the_loss(loop: LoopName) -> None:
    """A loss before the drain and during it; `wait_below` returns."""

    async def scenario() -> None:
        async with pump() as one:
            one.transport.start()
            one.fill()
            draining = asyncio.create_task(one.transport.drain())
            given_up = asyncio.create_task(one.transport.wait_below(0))
            flushing = asyncio.create_task(one.transport.wait_below(0))
            await asyncio.sleep(0)
            given_up.cancel()
            one.transport.close()
            await flushing
            with pytest.raises(ConnectionClosed):
                await draining
            with pytest.raises(ConnectionClosed):
                await one.transport.drain()
            await asyncio.wait([given_up])

    run(scenario(), loop=loop)


def test_end_is_reported_once_and_nothing_after_it(loop: LoopName) -> None:
    """Whichever side ended it; later writes are dropped."""

    async def scenario() -> None:
        async with pump() as one:
            one.transport.start()
            one.peer.close()
            await eventually(lambda: one.ends, "the end")
            one.transport.close()
            one.transport.write(b"late")
            one.transport.pump()
            one.transport._end_if_nothing_to_read()
            assert (one.ends, one.seen, one.transport.closed) == (1, [], True)

    run(scenario(), loop=loop)


def test_step_is_bounded(loop: LoopName) -> None:
    """Then other callbacks run, and the transport continues by itself."""

    async def scenario() -> None:
        async with pump() as one:
            one.peer.send(bytes(3 * EVENTS_PER_STEP))
            one.transport._on_readable()
            assert len(one.seen) == EVENTS_PER_STEP
            await eventually(lambda: len(one.seen) == 3 * EVENTS_PER_STEP, "the rest")
            one.peer.send(b"x")
            await eventually(lambda: len(one.seen) == 3 * EVENTS_PER_STEP + 1, "reading again")

    run(scenario(), loop=loop)


def test_held_transport_hands_out_nothing_until_it_is_released(loop: LoopName) -> None:
    """A stream that is full stops its connection."""

    async def scenario() -> None:
        async with pump() as one:
            one.transport.start()
            one.transport.hold()
            one.peer.send(b"a")
            for _ in range(5):
                await asyncio.sleep(0)
            assert one.seen == []
            one.transport.release()
            await eventually(lambda: one.seen == [97], "the byte")

    run(scenario(), loop=loop)
