"""The client's state machine, and both ends wired in memory."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.ttrpc_pairs import client_events, data_frame, only_refusal, server_events
from ttrpc import codec, wire
from ttrpc.codes import Code
from ttrpc.connection import MAX_STREAM_ID, ClientConnection, ServerConnection
from ttrpc.errors import (
    LocalProtocolError,
    RemoteProtocolError,
    StatusError,
    StreamClosed,
)
from ttrpc.events import (
    ClientEvent,
    DataReceived,
    ErrorReply,
    HalfClosed,
    RequestReceived,
    ResponseReceived,
    StrayFrame,
)

TOO_LONG = bytes(wire.MAX_DATA_BYTES + 1)


def test_client_ids_are_odd_and_increase() -> None:
    """1, 3, 5; the flags show which sides stream."""
    client = ClientConnection()
    seen = []
    for sends, receives in [(False, False), (True, False), (False, True), (True, True)]:
        _id, frame = client.request("s", "m", b"", sends_data=sends, receives_data=receives)
        seen.append(wire.HEADER.unpack(frame[:10])[1:])

    assert seen == [(1, 1, 0), (3, 1, 2), (5, 1, 1), (7, 1, 2)]


def test_client_refuses_an_oversized_request_and_consumes_its_id() -> None:
    """Nothing is sent."""
    client = ClientConnection()
    with pytest.raises(StatusError) as refused:
        client.request("s", "m", TOO_LONG)

    assert refused.value.code is Code.RESOURCE_EXHAUSTED
    assert client.request("s", "m", b"")[0] == 3


def test_client_has_ids_for_two_thousand_million_calls_only() -> None:
    """An id has 32 bits."""
    client = ClientConnection()
    client._next_id = MAX_STREAM_ID
    assert client.request("s", "m", b"")[0] == MAX_STREAM_ID
    with pytest.raises(LocalProtocolError):
        client.request("s", "m", b"")


def test_client_reports_what_it_does_not_wait_for_as_stray() -> None:
    """An answer after the client forgot the call is no error."""
    client = ClientConnection()
    client.request("s", "m", b"")
    client.forget(1)
    client.forget(1)
    response = wire.encode_frame(1, wire.RESPONSE, 0, b"")
    too_long = wire.HEADER.pack(len(TOO_LONG), 9, wire.RESPONSE, 0) + TOO_LONG

    assert client_events(client, response + too_long) == [StrayFrame(1, 2), StrayFrame(9, 0)]
    assert not client.mid_frame


def test_client_ignores_kinds_of_the_future_on_a_call() -> None:
    """A newer server may send kinds of frames that we do not know."""
    client = ClientConnection()
    client.request("s", "m", b"")

    assert client_events(client, wire.encode_frame(1, 77, 0, b"")) == [StrayFrame(1, 77)]
    assert client_events(client, wire.encode_frame(1, wire.RESPONSE, 0, b"")) == [
        ResponseReceived(1, b"", None)
    ]


def test_client_ends_a_call_whose_answer_is_too_long_or_unreadable() -> None:
    """An error of this call, not of the connection."""
    client = ClientConnection()
    client.request("s", "m", b"")
    client.request("s", "m", b"")
    too_long = wire.HEADER.pack(len(TOO_LONG), 1, wire.RESPONSE, 0) + TOO_LONG
    garbage = wire.encode_frame(3, wire.RESPONSE, 0, b"\x0a\x05a")
    first, second = client_events(client, too_long + garbage)

    assert isinstance(first, ResponseReceived)
    assert isinstance(first.error, StatusError)
    assert first.error.code is Code.RESOURCE_EXHAUSTED
    assert isinstance(second, ResponseReceived)
    assert isinstance(second.error, RemoteProtocolError)


@pytest.mark.parametrize("sends", [False, True])
def test_data_from_a_server_that_does_not_stream_is_an_error(sends: bool) -> None:
    """The call fails; the connection stays open."""
    client = ClientConnection()
    client.request("s", "m", b"", sends_data=sends)
    [event] = client_events(client, data_frame(1, b"x"))

    assert isinstance(event, ResponseReceived)
    assert isinstance(event.error, RemoteProtocolError)
    assert str(event.error) == "received data from non-streaming server: protocol error"


def test_client_stream_is_read_to_its_end() -> None:
    """Messages, and a last frame with or without a message."""
    for last, messages in [(b"", []), (b"z", [DataReceived(1, b"z")])]:
        client = ClientConnection()
        client.request("s", "m", b"", receives_data=True)
        flags = wire.REMOTE_CLOSED | (0 if last else wire.NO_DATA)
        stream = data_frame(1, b"x") + data_frame(1, flags=wire.NO_DATA)
        expected: list[ClientEvent] = [DataReceived(1, b"x"), *messages, HalfClosed(1)]

        assert client_events(client, stream + data_frame(1, last, flags=flags)) == expected
        assert client_events(client, data_frame(1)) == [StrayFrame(1, wire.DATA)]


def test_client_sends_until_it_closed_its_side() -> None:
    """Data, then a close without data, and nothing after it."""
    client = ClientConnection()
    client.request("s", "m", b"", sends_data=True)

    assert client.send(1, b"x") == data_frame(1, b"x")
    assert client.close_send(1) == data_frame(1, flags=5)
    with pytest.raises(StreamClosed):
        client.send(1, b"x")
    with pytest.raises(StreamClosed):
        client.close_send(1)
    with pytest.raises(StreamClosed):
        client.send(99, b"x")


# --- both ends -------------------------------------------------------------------------------


def test_unary_call_between_both_ends() -> None:
    """One call is answered; then both ends have forgotten it."""
    client, server = ClientConnection(), ServerConnection()
    stream_id, frame = client.request("s", "m", b"in", timeout_ns=7, metadata=[("k", "v")])

    assert server_events(server, frame) == [RequestReceived(1, "s", "m", b"in", 7, [("k", "v")], 0)]
    assert client_events(client, server.respond(stream_id, b"out")) == [
        ResponseReceived(1, b"out", None)
    ]
    assert server.calls == 0


def test_refused_data_ends_the_unary_call_at_the_client_only() -> None:
    """The client gets an error; the call continues, and its answer is a stray frame."""
    client, server = ClientConnection(), ServerConnection()
    _id, frame = client.request("s", "m", b"")
    [_request, refusal] = server_events(server, frame + data_frame(1, b"x"))
    assert isinstance(refusal, ErrorReply)
    [event] = client_events(client, server.refuse(refusal))

    assert isinstance(event, ResponseReceived)
    assert str(event.error) == "StreamID is no longer active"
    assert client_events(client, server.respond(1, b"")) == [StrayFrame(1, wire.RESPONSE)]


def test_bidirectional_stream_between_both_ends() -> None:
    """The server may end before the client has closed its side."""
    client, server = ClientConnection(), ServerConnection()
    _id, frame = client.request("s", "m", b"", sends_data=True, receives_data=True)
    server_events(server, frame)
    server.open_stream(1, half_closed=False)

    assert server_events(server, client.send(1, b"a")) == [DataReceived(1, b"a")]
    assert client_events(client, server.send(1, b"b")) == [DataReceived(1, b"b")]
    late = client.send(1, b"c")
    assert client_events(client, server.finish(1, None)) == [HalfClosed(1)]
    with pytest.raises(StreamClosed):
        client.send(1, b"d")
    assert only_refusal(server_events(server, late))[2] == "StreamID is no longer active"


@given(st.lists(st.binary(max_size=120), max_size=8))
def test_any_garbage_gives_events_at_both_ends(chunks: list[bytes]) -> None:
    """Nothing a peer sends may raise."""
    server, client = ServerConnection(), ClientConnection()
    for _ in range(3):
        client.request("s", "m", b"", sends_data=True, receives_data=True)
    for chunk in chunks:
        for event in server_events(server, chunk):
            if isinstance(event, RequestReceived):
                server.open_stream(event.stream_id, half_closed=False)
        client_events(client, chunk)


frames_by_garbled_peers = st.builds(
    wire.encode_frame,
    st.integers(0, 9),
    st.integers(0, 4),
    st.integers(0, 7),
    st.one_of(
        st.binary(max_size=8),
        st.just(codec.encode_request("s", "m", b"p")),
        st.just(codec.encode_response(b"p")),
    ),
)


@given(st.lists(frames_by_garbled_peers, max_size=20), st.booleans())
def test_any_frames_give_events_at_both_ends(frames: list[bytes], half_closed: bool) -> None:
    """As above, with complete frames, which reach the later checks."""
    server, client = ServerConnection(), ClientConnection()
    for number in range(4):
        client.request("s", "m", b"", sends_data=number > 1, receives_data=bool(number % 2))
    for frame in frames:
        for event in server_events(server, frame):
            if isinstance(event, RequestReceived) and event.stream_id > 3:
                server.open_stream(event.stream_id, half_closed=half_closed)
            elif isinstance(event, ErrorReply):
                assert server.refuse(event)
        client_events(client, frame)
