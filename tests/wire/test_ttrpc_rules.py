"""The rules of receiving, one by one, with bytes on a real socket."""

import asyncio
import socket

import pytest
from google.protobuf.wrappers_pb2 import StringValue

from shimv2.shimctl.testbed.until import eventually
from tests.support.aio import LoopName, run
from tests.support.ttrpc_peer import SERVICE, Peer, Things, request_frame, serving
from tests.support.unreadable import CUT_SHORT, NO_UTF8
from ttrpc import StatusError, codec, wire

ODD = "StreamID must be odd for client initiated streams"
INACTIVE = "StreamID is no longer active"


async def still_usable(peer: Peer, stream_id: int) -> bool:
    """Check that a normal call on the same connection works."""
    await peer.request(stream_id, "Echo", "after")
    return await peer.response() == (stream_id, "after")


@pytest.mark.rule("ttrpc.frame.3")
def test_vector_of_a_call_is_answered(loop: LoopName) -> None:
    """The bytes are those of a daemon; success has no status, and Empty has frame length 0."""

    async def scenario() -> None:
        async with serving(Things().registry) as (_server, path):
            with Peer.connect(path) as peer:
                await peer.request(1, "Nothing")
                assert await peer.frame() == wire.Frame(1, wire.RESPONSE, 0, b"")
                await peer.request(3, "Echo", "c1")
                answer = codec.encode_response(bytes.fromhex("0a026331"))
                assert await peer.frame() == wire.Frame(3, wire.RESPONSE, 0, answer)

    run(scenario(), loop=loop)


@pytest.mark.rule("ttrpc.receive.1")
@pytest.mark.parametrize("keep", [5, 10, 15])
def test_connection_that_ends_anywhere_is_closed_and_its_handlers_cancelled(
    loop: LoopName, keep: int
) -> None:
    """In a header, between frames, in a body."""

    async def scenario() -> None:
        things = Things()
        async with serving(things.registry) as (server, path):
            with Peer.connect(path) as peer:
                await peer.request(1, "Wait")
                await eventually(lambda: things.waiting, "the handler")
                nothing = wire.encode_frame(3, 99, 0, b"12345")
                await peer.send(nothing[:keep] if keep != 10 else wire.encode_frame(3, 99, 0, b""))
                peer.sock.shutdown(socket.SHUT_WR)
                assert await peer.frame() is None
            await eventually(lambda: not server.connections, "the end of the session")
            await eventually(lambda: things.cancelled == 1, "the end of the handler")

    run(scenario(), loop=loop)


@pytest.mark.rule("ttrpc.receive.2")
def test_oversized_request_is_refused_and_the_connection_usable(loop: LoopName) -> None:
    """The id may be used again."""

    async def scenario() -> None:
        async with serving(Things().registry) as (_server, path):
            with Peer.connect(path) as peer:
                length = wire.MAX_DATA_BYTES + 1
                await peer.send(wire.HEADER.pack(length, 1, wire.REQUEST, 0) + bytes(length))
                text = "message length 4194305 exceed maximum message size of 4194304"
                assert await peer.refusal() == (1, 8, text)
                assert await still_usable(peer, 1)

    run(scenario(), loop=loop)


@pytest.mark.rule("ttrpc.receive.2")
def test_claim_of_ten_mib_by_a_slow_sender_keeps_others_served(loop: LoopName) -> None:
    """No byte is kept; the answer comes after the last byte."""

    async def scenario() -> None:
        async with serving(Things().registry) as (_server, path):
            with Peer.connect(path) as slow, Peer.connect(path) as quick:
                length = 10 << 20
                await slow.send(wire.HEADER.pack(length, 1, wire.REQUEST, 0))
                for number in range(10):
                    await slow.send(bytes(length // 10))
                    assert await still_usable(quick, 2 * number + 1)
                assert (await slow.refusal())[:2] == (1, 8)
                assert await still_usable(slow, 3)

    run(scenario(), loop=loop)


def test_request_of_nearly_the_limit_is_served(loop: LoopName) -> None:
    """4 MiB is the largest data of a frame."""

    async def scenario() -> None:
        async with serving(Things().registry) as (_server, path):
            with Peer.connect(path) as peer:
                value = "x" * (wire.MAX_DATA_BYTES - 100)
                await peer.request(1, "Echo", value)
                assert await peer.response() == (1, value)

    run(scenario(), loop=loop)


@pytest.mark.rule("ttrpc.receive.3")
@pytest.mark.parametrize("stream_id", [0, 2])
@pytest.mark.parametrize("kind", [wire.REQUEST, wire.DATA, 9])
def test_even_stream_id_is_refused(loop: LoopName, stream_id: int, kind: int) -> None:
    """An even stream id is refused with code 3, whatever the kind."""

    async def scenario() -> None:
        async with serving(Things().registry) as (_server, path):
            with Peer.connect(path) as peer:
                await peer.send(wire.encode_frame(stream_id, kind, 0, b""))
                assert await peer.refusal() == (stream_id, 3, ODD)
                assert await still_usable(peer, 1)

    run(scenario(), loop=loop)


@pytest.mark.rule("ttrpc.receive.4")
@pytest.mark.parametrize("flags", [0, 1, 2, 5])
def test_data_without_a_stream_is_refused(loop: LoopName, flags: int) -> None:
    """Never seen, finished."""

    async def scenario() -> None:
        async with serving(Things().registry) as (_server, path):
            with Peer.connect(path) as peer:
                await peer.data(5, "x", flags=flags)
                assert await peer.refusal() == (5, 3, INACTIVE)
                assert await still_usable(peer, 1)
                await peer.data(1, "x", flags=flags)
                assert await peer.refusal() == (1, 3, INACTIVE)

    run(scenario(), loop=loop)


@pytest.mark.rule("ttrpc.receive.4")
@pytest.mark.parametrize("request_flags", [0, wire.REMOTE_OPEN])
def test_data_for_a_unary_call_in_flight_is_refused(loop: LoopName, request_flags: int) -> None:
    """The Go shims crash here; the call continues."""

    async def scenario() -> None:
        things = Things()
        async with serving(things.registry) as (_server, path):
            with Peer.connect(path) as peer:
                await peer.request(1, "Wait", "mine", flags=request_flags)
                for flags in (0, 1, 5):
                    await peer.data(1, "x", flags=flags)
                    assert await peer.refusal() == (1, 3, INACTIVE)
                assert await still_usable(peer, 3)
                things.release.set()
                assert await peer.response() == (1, "mine")

    run(scenario(), loop=loop)


@pytest.mark.rule("ttrpc.receive.13")
def test_unary_method_ignores_the_flags_of_its_request(loop: LoopName) -> None:
    """A unary method ignores the flags of its request."""

    async def scenario() -> None:
        async with serving(Things().registry) as (_server, path):
            with Peer.connect(path) as peer:
                for stream_id, flags in [(1, 1), (3, 2), (5, 255)]:
                    await peer.request(stream_id, "Echo", "x", flags=flags)
                    assert await peer.response() == (stream_id, "x")

    run(scenario(), loop=loop)


@pytest.mark.rule("ttrpc.receive.7")
def test_stream_id_must_increase(loop: LoopName) -> None:
    """Gaps are fine."""

    async def scenario() -> None:
        async with serving(Things().registry) as (_server, path):
            with Peer.connect(path) as peer:
                assert await still_usable(peer, 3)
                for stream_id in (3, 1):
                    await peer.request(stream_id, "Echo")
                    text = "StreamID cannot be re-used and must increment"
                    assert await peer.refusal() == (stream_id, 3, text)
                assert await still_usable(peer, 101)

    run(scenario(), loop=loop)


@pytest.mark.rule("ttrpc.receive.8")
def test_request_that_is_no_request_is_refused_and_its_id_consumed(loop: LoopName) -> None:
    """A request that cannot be read is refused with code 3, and its id is used up."""

    async def scenario() -> None:
        async with serving(Things().registry) as (_server, path):
            with Peer.connect(path) as peer:
                for stream_id, (data, why) in [(1, CUT_SHORT), (3, NO_UTF8)]:
                    await peer.send(wire.encode_frame(stream_id, wire.REQUEST, 0, data))
                    text = f"unmarshal request error: {why}"
                    assert await peer.refusal() == (stream_id, 3, text)
                await peer.request(3, "Echo")
                assert "re-used" in (await peer.refusal())[2]

    run(scenario(), loop=loop)


@pytest.mark.rule("ttrpc.receive.9", "ttrpc.receive.10", "ttrpc.frame.6")
@pytest.mark.parametrize(
    ("service", "method", "text"),
    [
        ("foo", "Echo", "service foo"),
        ("", "Echo", "service "),
        (SERVICE, "foo", "method foo"),
        (SERVICE, "echo", "method echo"),
        (SERVICE, "", "method "),
    ],
)
def test_unknown_name_is_unimplemented(
    loop: LoopName, service: str, method: str, text: str
) -> None:
    """An unknown service has code 12 and `service NAME`."""

    async def scenario() -> None:
        async with serving(Things().registry) as (_server, path):
            with Peer.connect(path) as peer:
                await peer.request(1, method, service=service)
                assert await peer.refusal() == (1, 12, text)
                assert await still_usable(peer, 3)

    run(scenario(), loop=loop)


@pytest.mark.rule("ttrpc.receive.11")
def test_kinds_of_the_future_are_ignored(loop: LoopName) -> None:
    """The next answer belongs to the next call."""

    async def scenario() -> None:
        async with serving(Things().registry) as (_server, path):
            with Peer.connect(path) as peer:
                for kind in (0, wire.RESPONSE, 4, 255):
                    await peer.send(wire.encode_frame(1, kind, 255, b"x"))
                assert await still_usable(peer, 1)

    run(scenario(), loop=loop)


@pytest.mark.rule("ttrpc.receive.12")
def test_payload_that_is_no_message_is_an_internal_error(loop: LoopName) -> None:
    """A wrong wire type is an unknown field."""

    async def scenario() -> None:
        async with serving(Things().registry) as (_server, path):
            with Peer.connect(path) as peer:
                for stream_id, (payload, why) in [(1, CUT_SHORT), (3, NO_UTF8)]:
                    envelope = codec.encode_request(SERVICE, "Echo", payload)
                    await peer.send(wire.encode_frame(stream_id, wire.REQUEST, 0, envelope))
                    text = f"ttrpc: error unmarshalling payload: {why}"
                    assert await peer.refusal() == (stream_id, 13, text)
                envelope = codec.encode_request(SERVICE, "Nothing", b"\x08\x01")
                await peer.send(wire.encode_frame(5, wire.REQUEST, 0, envelope))
                assert await peer.frame() == wire.Frame(5, wire.RESPONSE, 0, b"")

    run(scenario(), loop=loop)


@pytest.mark.rule("ttrpc.frame.5")
def test_unknown_fields_are_ignored(loop: LoopName) -> None:
    """A newer client, in the envelope and in the message."""

    async def scenario() -> None:
        async with serving(Things().registry) as (_server, path):
            with Peer.connect(path) as peer:
                more = bytes.fromhex("fa01 01 61")
                payload = StringValue(value="x").SerializeToString() + more
                envelope = codec.encode_request(SERVICE, "Echo", payload) + more
                await peer.send(wire.encode_frame(1, wire.REQUEST, 0, envelope))
                _stream, answer = await peer.response()
                assert answer == "x"

    run(scenario(), loop=loop)


@pytest.mark.rule("ttrpc.frame.1")
def test_frames_may_come_in_single_bytes_and_many_at_once(loop: LoopName) -> None:
    """Framing does not depend on how the bytes are cut."""

    async def scenario() -> None:
        async with serving(Things().registry) as (_server, path):
            with Peer.connect(path) as peer:
                for byte in request_frame(1, "Echo", "slow"):
                    await peer.send(bytes([byte]))
                    await asyncio.sleep(0)
                assert await peer.response() == (1, "slow")
                ids = range(3, 1003, 2)  # more than one step of the pump
                await peer.send(b"".join(request_frame(one, "Echo", str(one)) for one in ids))
                assert [await peer.response() for _ in ids] == [(one, str(one)) for one in ids]

    run(scenario(), loop=loop)


@pytest.mark.rule("ttrpc.deadline.6")
def test_metadata_reaches_the_handler(loop: LoopName) -> None:
    """The case of keys is ignored, and repeated keys are joined."""

    async def scenario() -> None:
        things = Things()
        async with serving(things.registry) as (_server, path):
            with Peer.connect(path) as peer:
                pairs = (("Trace", "1"), ("containerd-namespace-ttrpc", "ns"), ("trace", "2"))
                await peer.request(1, "Echo", metadata=pairs)
                await peer.response()
        [call] = things.calls
        assert call.metadata.get("TRACE") == ("1", "2")
        assert call.metadata.get("containerd-namespace-ttrpc") == ("ns",)
        assert (call.service, call.method, call.deadline) == (SERVICE, "Echo", None)

    run(scenario(), loop=loop)


@pytest.mark.rule("ttrpc.serve.7")
def test_response_of_exactly_the_limit_arrives_and_one_byte_more_is_an_error(
    loop: LoopName,
) -> None:
    """The connection and its other calls continue."""

    async def scenario() -> None:
        async with serving(Things().registry) as (_server, path):
            with Peer.connect(path) as peer:
                envelopes = 10  # two tags and two lengths of four bytes
                await peer.request(1, "Repeat", str(wire.MAX_DATA_BYTES - envelopes))
                frame = await peer.frame()
                assert frame is not None
                assert len(frame.data) == wire.MAX_DATA_BYTES
                await peer.request(3, "Repeat", str(wire.MAX_DATA_BYTES - envelopes + 1))
                text = "message length 4194305 exceed maximum message size of 4194304"
                assert await peer.refusal() == (3, 8, text)
                assert await still_usable(peer, 5)

    run(scenario(), loop=loop)


@pytest.mark.rule("ttrpc.serve.1")
def test_answers_come_in_the_order_of_completion(loop: LoopName) -> None:
    """A later call may be answered first."""

    async def scenario() -> None:
        things = Things()
        async with serving(things.registry) as (_server, path):
            with Peer.connect(path) as peer:
                await peer.request(1, "Wait", "first")
                await peer.request(3, "Slowly", "second")
                await peer.request(5, "Echo", "third")
                assert await peer.response() == (5, "third")
                assert await peer.response() == (3, "second")
                things.release.set()
                assert await peer.response() == (1, "first")

    run(scenario(), loop=loop)


@pytest.mark.rule("ttrpc.serve.4")
def test_status_of_a_handler_is_sent_verbatim(loop: LoopName) -> None:
    """Code and text, on a stream too."""

    async def scenario() -> None:
        things = Things()
        async with serving(things.registry) as (_server, path):
            with Peer.connect(path) as peer:
                await peer.request(1, "Talk", "fail", flags=wire.REMOTE_OPEN)
                _stream, error = await peer.response()
                assert isinstance(error, StatusError)
                assert (error.code, str(error)) == (10, "as asked")

    run(scenario(), loop=loop)
