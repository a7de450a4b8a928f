"""Handlers: errors, deadlines, and lost clients."""

import asyncio
import logging
import time
from collections.abc import Awaitable
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue

from shimv2.shimctl.testbed.until import eventually
from tests.support.aio import LoopName, run
from tests.support.ttrpc_peer import SERVICE, Peer, Things, connected, echo, request_frame, serving
from ttrpc import Call, Code, Registry, StatusError

EXPIRED = (4, "context deadline exceeded")
MS = 1_000_000  # of nanoseconds


def one_method(handler: Any) -> Registry:
    registry = Registry()
    registry.unary(SERVICE, "Echo", StringValue, handler)
    return registry


# --- deadlines -------------------------------------------------------------------------------


@pytest.mark.rule("ttrpc.deadline.2")
def test_handler_is_cancelled_at_its_deadline_and_the_client_gets_an_error(loop: LoopName) -> None:
    """Code 4 in time; the connection stays open."""

    async def scenario() -> None:
        things = Things()
        async with serving(things.registry) as (_server, path):
            with Peer.connect(path) as peer:
                began = time.monotonic()
                await peer.request(1, "Wait", timeout_ns=50 * MS)
                assert await peer.refusal() == (1, *EXPIRED)
                assert 0.05 <= time.monotonic() - began < 5
                assert things.cancelled == 1
                await peer.request(3, "Slowly", "after", timeout_ns=5000 * MS)
                assert await peer.response() == (3, "after")

    run(scenario(), loop=loop)


@pytest.mark.rule("ttrpc.deadline.1")
@pytest.mark.parametrize("method", ["Echo", "Slowly"])
def test_deadline_is_given_to_the_handler_in_loop_time(loop: LoopName, method: str) -> None:
    """Now + timeout at arrival; none without a timeout."""

    async def scenario() -> None:
        things = Things()
        async with serving(things.registry) as (_server, path):
            with Peer.connect(path) as peer:
                now = asyncio.get_running_loop().time()
                await peer.request(1, method, timeout_ns=3_000 * MS)
                await peer.response()
                await peer.request(3, method)
                await peer.response()
        first, second = things.calls
        assert first.deadline is not None
        assert now + 3 <= first.deadline < now + 13
        assert second.deadline is None

    run(scenario(), loop=loop)


@pytest.mark.rule("ttrpc.deadline.1")
def test_deadline_in_the_past_reaches_the_handler_nevertheless(loop: LoopName) -> None:
    """A handler that does not wait answers; a handler that waits is cancelled."""

    async def scenario() -> None:
        things = Things()
        async with serving(things.registry) as (_server, path):
            with Peer.connect(path) as peer:
                await peer.request(1, "Echo", "quick", timeout_ns=-1)
                assert await peer.response() == (1, "quick")
                assert things.calls[0].deadline is not None
                await peer.request(3, "Wait", timeout_ns=-(2**63))
                assert await peer.refusal() == (3, *EXPIRED)
                assert things.cancelled == 1, "it had its first step"

    run(scenario(), loop=loop)


def test_deadline_that_passes_before_the_first_step_waits_for_it(loop: LoopName) -> None:
    """In whichever order a loop runs timers and tasks."""

    async def scenario() -> None:
        things = Things()

        def expire_now(request: StringValue, _call: Call) -> StringValue:
            [session] = server._sessions
            session._running[1].expire()
            assert things.waiting == 0, "the other handler has not begun"
            return request

        things.registry.unary(SERVICE, "Expire", StringValue, expire_now)
        async with serving(things.registry) as (server, path):
            with Peer.connect(path) as peer:
                await peer.send(request_frame(1, "Wait") + request_frame(3, "Expire"))
                assert await peer.response() == (3, "")
                assert await peer.refusal() == (1, *EXPIRED)
                assert things.cancelled == 1

    run(scenario(), loop=loop)


@pytest.mark.rule("ttrpc.deadline.2")
@pytest.mark.parametrize(("value", "answer"), [("return", "return"), ("raise", (2, "killed"))])
def test_handler_may_raise_another_error_at_its_deadline(
    loop: LoopName, value: str, answer: Any
) -> None:
    """A killed runtime is reported with its own text."""

    async def scenario() -> None:
        things = Things()
        async with serving(things.registry) as (_server, path):
            with Peer.connect(path) as peer:
                for stream_id, timeout_ns in [(1, 30 * MS), (3, -1)]:
                    await peer.request(stream_id, "Stubborn", value, timeout_ns=timeout_ns)
                    _stream, reply = await peer.response()
                    assert answer == (
                        (reply.code, str(reply)) if isinstance(reply, StatusError) else reply
                    )

    run(scenario(), loop=loop)


def test_deadline_of_a_call_that_ended_leaves_no_timer(loop: LoopName) -> None:
    """An idle server does not wake up."""

    async def scenario() -> None:
        things = Things()
        async with serving(things.registry) as (server, path), connected(path) as client:
            for method in ("Echo", "Slowly"):
                await echo(client, method=method, timeout_s=3600)
            with Peer.connect(path) as leaving:
                await leaving.request(1, "Wait", timeout_ns=3600 * 1000 * MS)
                await eventually(lambda: things.waiting, "the handler")
            await eventually(lambda: server.connections == 1, "the end of its connection")
        current = asyncio.get_running_loop()
        timers: list[asyncio.TimerHandle] = vars(current)["_scheduled"]
        late = current.time() + 3000
        assert not [one for one in timers if not one.cancelled() and one.when() > late]

    run(scenario(), loop=loop)


@pytest.mark.rule("ttrpc.deadline.3")
def test_late_answer_is_no_error_for_either_side(loop: LoopName) -> None:
    """The client times out by itself and drops the late answer."""

    async def scenario() -> None:
        things = Things()
        async with serving(things.registry) as (_server, path), connected(path) as client:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.02):
                    await echo(client, "late", method="Wait")
            assert things.waiting == 1, "there is no cancel frame"
            things.release.set()
            assert await echo(client, "next") == "next"

    run(scenario(), loop=loop)


def raise_bug(_request: StringValue, _call: Call) -> StringValue:
    raise KeyError("bug")


async def raise_bug_later(_request: StringValue, _call: Call) -> StringValue:
    await asyncio.sleep(0)
    raise KeyError("bug")


def raise_not_found(_request: StringValue, _call: Call) -> StringValue:
    raise FileNotFoundError("gone")


def return_none(_request: StringValue, _call: Call) -> None:
    pass


async def return_none_later(_request: StringValue, _call: Call) -> None:
    pass


def return_text(_request: StringValue, _call: Call) -> str:
    return "no message"


def be_cancelled(_request: StringValue, _call: Call) -> StringValue:
    raise asyncio.CancelledError


async def be_cancelled_later(_request: StringValue, _call: Call) -> StringValue:
    other: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    other.cancel()
    await other
    raise AssertionError


def raise_odd_code(_request: StringValue, _call: Call) -> StringValue:
    raise StatusError(2**40, "no int32")


@pytest.mark.rule("ttrpc.serve.4", "ttrpc.serve.5", "ttrpc.serve.6")
@pytest.mark.parametrize(
    ("handler", "code", "text"),
    [
        (raise_bug, 2, "KeyError: 'bug'"),
        (raise_bug_later, 2, "KeyError: 'bug'"),
        (raise_not_found, 5, "gone"),
        (return_none, 2, "ttrpc: marshal called with nil"),
        (return_none_later, 2, "ttrpc: marshal called with nil"),
        (return_text, 2, "AttributeError: 'str' object has no attribute 'SerializeToString'"),
        (be_cancelled, 1, "context canceled"),
        (be_cancelled_later, 1, "context canceled"),
        (raise_odd_code, 13, "the answer could not be encoded"),
    ],
)
def test_handler_that_goes_wrong_costs_its_own_call_only(
    loop: LoopName, handler: Any, code: int, text: str
) -> None:
    """For each kind of failure there is an answer, and the connection stays open."""

    async def scenario() -> None:
        registry = one_method(handler)
        registry.unary(SERVICE, "Good", StringValue, lambda request, _call: request)
        async with serving(registry) as (server, path):
            with Peer.connect(path) as peer:
                await peer.request(1, "Echo")
                assert await peer.refusal() == (1, code, text)
                await peer.request(3, "Good", "x")
                assert await peer.response() == (3, "x")
                assert server.calls == 0

    run(scenario(), loop=loop)


@pytest.mark.rule("ttrpc.serve.6")
def test_unexpected_error_is_logged_with_its_traceback(
    loop: LoopName, caplog: pytest.LogCaptureFixture
) -> None:
    """It is a bug, so the log has to show its place."""

    async def scenario() -> None:
        async with serving(one_method(raise_bug)) as (_server, path), connected(path) as client:
            with pytest.raises(StatusError):
                await echo(client)

    run(scenario(), loop=loop)
    [record] = [one for one in caplog.records if one.levelno == logging.ERROR]
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], KeyError)


def test_error_converter_that_fails_costs_its_own_call_only(loop: LoopName) -> None:
    """There is an answer nevertheless."""

    def to_status(exc: Exception) -> StatusError:
        raise ZeroDivisionError from exc

    async def scenario() -> None:
        registry = one_method(raise_bug)
        async with (
            serving(registry, to_status=to_status) as (_server, path),
            connected(path) as client,
        ):
            with pytest.raises(StatusError, match="KeyError: 'bug'") as refused:
                await echo(client)
        assert refused.value.code is Code.INTERNAL

    run(scenario(), loop=loop)


def test_error_text_with_any_bytes_and_of_any_length_arrives(loop: LoopName) -> None:
    """Texts contain paths and output of runtimes: no text may fail the answer."""

    async def scenario() -> None:
        def fail(request: StringValue, _call: Call) -> StringValue:
            raise StatusError(2, "\udcff" * int(request.value))

        async with serving(one_method(fail)) as (_server, path), connected(path) as client:
            for count in (1, 5 << 20):
                with pytest.raises(StatusError, match=r"\\udcff"):
                    await echo(client, str(count))

    run(scenario(), loop=loop)


def test_function_may_return_an_awaitable(loop: LoopName) -> None:
    """A plain function decides per request whether it has to wait."""

    async def later(request: StringValue) -> StringValue:
        await asyncio.sleep(0)
        return StringValue(value=f"later {request.value}")

    def maybe(request: StringValue, _call: Call) -> StringValue | Awaitable[StringValue]:
        return later(request) if request.value == "b" else request

    async def scenario() -> None:
        async with serving(one_method(maybe)) as (_server, path), connected(path) as client:
            assert await echo(client, "a") == "a"
            assert await echo(client, "b") == "later b"

    run(scenario(), loop=loop)
