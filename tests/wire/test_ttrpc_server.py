"""The whole server: many clients, slow and hostile ones, and its shutdown."""

import asyncio
import contextlib
import os
import resource
import socket
from collections.abc import Iterator

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from hypothesis import given, settings
from hypothesis import strategies as st

from shimv2.shimctl.testbed.until import eventually
from tests.support.aio import LoopName, run
from tests.support.ttrpc_peer import (
    SERVICE,
    Peer,
    Things,
    connected,
    echo,
    request_frame,
    serving,
)
from ttrpc import ConnectionClosed, Server, transport, wire

BIG = 100_000  # characters of an answer
MANY = 100  # such answers: ten times the limit


def waiting_bytes(server: Server) -> int:
    """Return how many bytes the server keeps for clients that do not read."""
    return sum(one._transport.waiting_bytes for one in server._sessions)


# --- many calls, many clients ----------------------------------------------------------------


@pytest.mark.rule("ttrpc.serve.1")
def test_thousand_waits_on_one_connection_do_not_slow_a_quick_call(loop: LoopName) -> None:
    """And each of them is answered."""

    async def scenario() -> None:
        things = Things()
        async with serving(things.registry) as (server, path), connected(path) as client:
            waits = [asyncio.create_task(echo(client, str(n), method="Wait")) for n in range(1000)]
            await eventually(lambda: things.waiting == 1000, "all handlers")
            assert server.calls == 1000
            times = []
            for _ in range(50):
                began = asyncio.get_running_loop().time()
                assert await echo(client) == "x"
                times.append(asyncio.get_running_loop().time() - began)
            assert sorted(times)[25] < 0.01, "seconds; a median, as the machine is shared"
            things.release.set()
            assert await asyncio.gather(*waits) == [str(n) for n in range(1000)]

    # no debug mode: there, each of a thousand call_soon in one step records its stack
    run(scenario(), loop=loop, timeout_s=30, debug=False)


@pytest.mark.rule("ttrpc.serve.3")
def test_many_clients_at_once_are_all_answered(loop: LoopName) -> None:
    """Any number of clients may connect."""

    async def scenario() -> None:
        things = Things()
        async with serving(things.registry) as (server, path):
            peers = [Peer.connect(path) for _ in range(200)]
            for number, peer in enumerate(peers):
                await peer.request(1, "Slowly", str(number))
            answers = [await peer.response() for peer in peers]
            assert answers == [(1, str(number)) for number in range(200)]
            assert server.connections == 200
            for peer in peers:
                peer.sock.close()
            await eventually(lambda: not server.connections, "the end of all sessions")

    run(scenario(), loop=loop)


@pytest.mark.rule("ttrpc.serve.1")
def test_flood_of_requests_leaves_others_their_turn(loop: LoopName) -> None:
    """After a limited number of requests the other connections are served."""

    async def scenario() -> None:
        things = Things()
        async with serving(things.registry) as (_server, path), connected(path) as other:
            await echo(other)
            with Peer.connect(path) as peer:
                ids = range(1, 2 * 1500, 2)
                await peer.send(b"".join(request_frame(one, "Echo") for one in ids))
                await echo(other)
                assert things.answered < len(ids)
                for one in ids:
                    assert await peer.response() == (one, "")

    run(scenario(), loop=loop)


# --- slow and hostile clients ----------------------------------------------------------------


@pytest.mark.rule("ttrpc.serve.2")
def test_client_that_does_not_read_stalls_itself_only(loop: LoopName) -> None:
    """It uses a limited amount of memory, others are not affected, and nothing is lost."""

    async def scenario() -> None:
        things = Things()
        async with serving(things.registry) as (server, path), connected(path) as other:
            with Peer.connect(path) as slow:
                ids = range(1, 2 * MANY, 2)
                await slow.send(b"".join(request_frame(one, "Repeat", str(BIG)) for one in ids))
                for _ in range(200):
                    assert await echo(other) == "x"
                assert 0 < waiting_bytes(server) <= transport.LIMIT_BYTES + BIG + 100
                for one in ids:
                    assert await slow.response() == (one, "x" * BIG)
                assert waiting_bytes(server) == 0

    run(scenario(), loop=loop)


def test_client_that_disconnects_without_reading_is_released(loop: LoopName) -> None:
    """Also while its connection is not read."""

    async def scenario() -> None:
        things = Things()
        async with serving(things.registry) as (server, path):
            with Peer.connect(path) as slow:
                for one in range(1, 2 * MANY, 2):
                    await slow.request(one, "Repeat", str(BIG))
                await slow.request(2 * MANY + 1, "Wait")
                await eventually(lambda: waiting_bytes(server) > transport.LIMIT_BYTES, "the stall")
            await eventually(lambda: not server.connections, "the end")

    run(scenario(), loop=loop)


def test_client_that_shuts_its_reading_side_is_released(loop: LoopName) -> None:
    """Its calls cannot be answered, but its earlier requests take effect."""

    async def scenario() -> None:
        things = Things()
        async with serving(things.registry) as (server, path):
            with Peer.connect(path) as peer:
                await peer.request(1, "Wait")
                await eventually(lambda: things.waiting, "the handler")
                peer.sock.shutdown(socket.SHUT_RD)
                ids = range(3, 3 + 2 * 300, 2)  # more than are handled in one step
                await peer.send(b"".join(request_frame(one, "Echo") for one in ids))
                await eventually(lambda: not server.connections, "the end")
                await eventually(lambda: things.cancelled == 1, "the end of the handler")
            assert things.answered == len(ids)

    run(scenario(), loop=loop)


@pytest.mark.rule("ttrpc.receive.14")
@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=200),
            st.builds(
                wire.encode_frame,
                st.integers(0, 5),
                st.integers(0, 4),
                st.integers(0, 7),
                st.binary(max_size=20),
            ),
            st.builds(
                request_frame,
                st.integers(0, 9),
                st.sampled_from(["Echo", "Wait", "Talk", "Join", "Split", "Deaf", "?"]),
                st.text("abc", max_size=3),
                flags=st.integers(0, 3),
                timeout_ns=st.sampled_from([0, 0, -1, 1]),
            ),
        ),
        max_size=12,
    )
)
def test_any_bytes_leave_the_server_working(chunks: list[bytes]) -> None:
    """Garbage, partial frames and broken streams affect their own connection at most."""

    async def scenario() -> None:
        things = Things()
        async with serving(things.registry) as (server, path):
            with Peer.connect(path) as hostile:
                for chunk in chunks:
                    await hostile.send(chunk)
                    await asyncio.sleep(0)
            async with connected(path) as client:
                assert await echo(client) == "x"
            await eventually(lambda: not server.connections, "the end of both")

    run(scenario())


@pytest.mark.rule("ttrpc.serve.3")
def test_accept_that_fails_is_tried_again_after_a_pause(
    loop: LoopName, caplog: pytest.LogCaptureFixture
) -> None:
    """Out of fds: waiting connections are served later, and no CPU time is used meanwhile."""

    def failures() -> int:
        return caplog.text.count("accept failed")

    async def scenario() -> None:
        async with serving(Things().registry) as (_server, path), connected(path) as old:
            assert await echo(old) == "x"
            with Peer(socket.socket(socket.AF_UNIX)) as late:
                with no_fd_left():
                    began = asyncio.get_running_loop().time()
                    late.sock.connect(path)
                    await eventually(lambda: failures() > 0, "the failure")
                    assert await echo(old) == "x"
                    await eventually(lambda: failures() > 4, "more attempts")
                    took_s = asyncio.get_running_loop().time() - began
                    assert took_s > 0.007, "pauses of 1, 2, 4, 8 ms, each at least half of it"
                await late.request(1, "Echo", "late")
                assert await late.response() == (1, "late")

    run(scenario(), loop=loop)


def test_server_ends_also_while_it_pauses_accepting(
    loop: LoopName, caplog: pytest.LogCaptureFixture
) -> None:
    """No timer for a closed listener remains."""

    async def scenario() -> None:
        async with serving(Things().registry) as (server, path):
            with Peer(socket.socket(socket.AF_UNIX)) as late, no_fd_left():
                late.sock.connect(path)
                await eventually(lambda: "accept failed" in caplog.text, "the failure")
                server.stop_listening()
                assert await late.frame() is None

    run(scenario(), loop=loop)


@contextlib.contextmanager
def no_fd_left() -> Iterator[None]:
    """Use up every file descriptor of this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, hard))
    taken = []
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.dup(0))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for number in taken:
            os.close(number)


# --- the end ---------------------------------------------------------------------------------


def test_server_that_stopped_listening_serves_who_is_there(loop: LoopName) -> None:
    """The listener is closed, connections stay open."""

    async def scenario() -> None:
        async with serving(Things().registry) as (server, path), connected(path) as client:
            await echo(client)
            server.stop_listening()
            assert await echo(client) == "x"
            with pytest.raises(ConnectionRefusedError):
                Peer.connect(path)

    run(scenario(), loop=loop)


@pytest.mark.rule("ttrpc.stop.1")
def test_graceful_end_waits_for_calls_and_closes_idle_connections(loop: LoopName) -> None:
    """A connection with a pending call is active."""

    async def scenario() -> None:
        things = Things()
        async with (
            serving(things.registry) as (server, path),
            connected(path) as idle,
            connected(path) as busy,
        ):
            await echo(idle)
            call = asyncio.create_task(echo(busy, "done", method="Wait"))
            await eventually(lambda: things.waiting, "the handler")
            ending = asyncio.create_task(server.shutdown(timeout_s=10))
            await idle.wait_closed()
            assert not busy.closed
            assert await echo(busy, "more") == "more"
            things.release.set()
            assert await call == "done"
            await ending
            await busy.wait_closed()
            assert things.cancelled == 0

    run(scenario(), loop=loop)


@pytest.mark.rule("ttrpc.stop.1")
def test_graceful_end_has_a_limit(loop: LoopName) -> None:
    """Then the other connections are closed, and their handlers cancelled."""

    async def scenario() -> None:
        things = Things()
        async with serving(things.registry) as (server, path), connected(path) as client:
            call = asyncio.create_task(echo(client, method="Wait"))
            await eventually(lambda: things.waiting, "the handler")
            await server.shutdown(timeout_s=0.1)
            with pytest.raises(ConnectionClosed):
                await call
            assert things.cancelled == 1

    run(scenario(), loop=loop)


def test_handler_may_end_the_server(loop: LoopName) -> None:
    """Shutdown is a call itself: the shutdown must not wait for its own handler."""

    async def scenario() -> None:
        things = Things()

        async def shut_down(request: StringValue, _call: object) -> StringValue:
            await server.close()
            return request

        things.registry.unary(SERVICE, "Shutdown", StringValue, shut_down)
        async with serving(things.registry) as (server, path), connected(path) as client:
            with pytest.raises(ConnectionClosed):
                await echo(client, method="Shutdown")

    run(scenario(), loop=loop)


def test_handler_that_does_not_end_is_left_behind_and_logged(
    loop: LoopName, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shutdown of the server has a time limit of its own."""
    monkeypatch.setattr("ttrpc.server.HANDLERS_END_S", 0.05)

    async def scenario() -> None:
        things = Things()
        begun, done = asyncio.Event(), asyncio.Event()

        async def deaf(request: StringValue, _call: object) -> StringValue:
            begun.set()
            while not done.is_set():
                try:
                    await done.wait()
                except asyncio.CancelledError:
                    continue
            return request

        things.registry.unary(SERVICE, "Never", StringValue, deaf)
        async with serving(things.registry) as (server, path), connected(path) as client:
            call = asyncio.create_task(echo(client, method="Never"))
            await begun.wait()
            await server.close()
            with pytest.raises(ConnectionClosed):
                await call
            done.set()

    run(scenario(), loop=loop)
    assert "a cancelled handler does not end" in caplog.text


@pytest.mark.rule("ttrpc.stop.3")
def test_flush_waits_until_the_kernel_has_all_replies(loop: LoopName) -> None:
    """The last reply of a shim that exits is not lost; a client that does not read delays it for a
    limited time."""

    async def scenario() -> None:
        things = Things()
        async with serving(things.registry) as (server, path):
            with Peer.connect(path) as slow:
                await server.flush(timeout_s=10)
                await slow.request(1, "Repeat", str(10 * BIG))
                await eventually(lambda: waiting_bytes(server), "what does not fit in the kernel")
                await server.flush(timeout_s=0.05)
                assert waiting_bytes(server)
                flushing = asyncio.create_task(server.flush(timeout_s=10))
                assert await slow.response() == (1, "x" * 10 * BIG)
                await flushing
                assert not waiting_bytes(server)
                await slow.request(3, "Repeat", str(10 * BIG))
                await eventually(lambda: waiting_bytes(server), "what does not fit in the kernel")
                flushing = asyncio.create_task(server.flush(timeout_s=10))
            await flushing  # the client has disconnected: nothing to wait for

    run(scenario(), loop=loop)
