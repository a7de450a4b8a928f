"""The server's state machine: every rule of receiving and answering."""

from collections.abc import Callable

import pytest

from tests.support.ttrpc_pairs import client_events, data_frame, only_refusal, server_events
from ttrpc import codec, wire
from ttrpc.codes import Code
from ttrpc.connection import MAX_STREAM_ID, ClientConnection, ServerConnection
from ttrpc.errors import (
    Detail,
    LocalProtocolError,
    StatusError,
    StreamClosed,
)
from ttrpc.events import (
    DataReceived,
    ErrorReply,
    HalfClosed,
    RequestReceived,
    ResponseReceived,
)

TOO_LONG = bytes(wire.MAX_DATA_BYTES + 1)


def request(stream_id: int, *, flags: int = 0, data: bytes | None = None) -> bytes:
    if data is None:
        data = codec.encode_request("s", "m", b"payload")
    return wire.encode_frame(stream_id, wire.REQUEST, flags, data)


def open_stream(*, half_closed: bool = False) -> ServerConnection:
    server = ServerConnection()
    server_events(server, request(1))
    server.open_stream(1, half_closed=half_closed)
    return server


def test_request_is_reported_with_all_fields() -> None:
    """All fields of the envelope and the flags of the frame."""
    server = ServerConnection()
    data = codec.encode_request("s", "m", b"p", timeout_ns=-5, metadata=[("k", "v"), ("k", "w")])

    assert server_events(server, request(7, flags=2, data=data)) == [
        RequestReceived(7, "s", "m", b"p", -5, [("k", "v"), ("k", "w")], 2)
    ]
    assert server.calls == 1
    assert not server.mid_frame


def test_oversized_request_is_refused_and_its_id_is_not_consumed() -> None:
    """Code 8; the same id may be used again."""
    server = ServerConnection()
    header = wire.HEADER.pack(len(TOO_LONG), 5, wire.REQUEST, 0)
    text = "message length 4194305 exceed maximum message size of 4194304"

    assert only_refusal(server_events(server, header + TOO_LONG)) == (5, 8, text)
    assert isinstance(server_events(server, request(5))[0], RequestReceived)


def test_length_is_checked_before_the_id() -> None:
    """The size is checked before the id."""
    header = wire.HEADER.pack(len(TOO_LONG), 4, wire.REQUEST, 0)

    assert only_refusal(server_events(ServerConnection(), header + TOO_LONG))[1] == 8


@pytest.mark.parametrize("stream_id", [0, 2, 2**32 - 2])
@pytest.mark.parametrize("kind", [0, wire.REQUEST, wire.RESPONSE, wire.DATA, 9])
def test_even_id_is_refused_whatever_the_kind(stream_id: int, kind: int) -> None:
    """Even ids belong to the server."""
    frame = wire.encode_frame(stream_id, kind, 0, b"")
    text = "StreamID must be odd for client initiated streams"

    assert only_refusal(server_events(ServerConnection(), frame)) == (stream_id, 3, text)


@pytest.mark.parametrize("flags", [0, 1, 2, 4, 5, 255])
def test_data_without_a_stream_is_refused(flags: int) -> None:
    """For an unknown stream, a unary call in flight, and a finished stream."""
    server = ServerConnection()
    refusal = (1, 3, "StreamID is no longer active")

    unknown = only_refusal(server_events(server, data_frame(1, b"x", flags=flags)))
    server_events(server, request(1))
    in_flight = only_refusal(server_events(server, data_frame(1, b"x", flags=flags)))
    answer = server.respond(1, b"answer")
    finished = only_refusal(server_events(server, data_frame(1, b"x", flags=flags)))

    assert [unknown, in_flight, finished] == [refusal] * 3
    assert answer == wire.encode_frame(1, wire.RESPONSE, 0, codec.encode_response(b"answer"))


@pytest.mark.rule("ttrpc.receive.5")
def test_data_of_a_stream_is_reported_empty_messages_too() -> None:
    """Without the no-data flag, zero bytes are a message."""
    server = open_stream()

    assert server_events(server, data_frame(1, b"x") + data_frame(1)) == [
        DataReceived(1, b"x"),
        DataReceived(1, b""),
    ]
    assert server_events(server, data_frame(1, flags=wire.NO_DATA)) == []


def test_closing_frame_half_closes_the_stream() -> None:
    """A frame without data; a second one has no effect."""
    server = open_stream()
    close = data_frame(1, flags=wire.REMOTE_CLOSED | wire.NO_DATA)

    assert server_events(server, close) == [HalfClosed(1)]
    assert server_events(server, close) == []


def test_closing_frame_without_the_no_data_flag_is_an_empty_message_and_a_close() -> None:
    """Zero bytes are a message unless the flag says that there is none."""
    assert server_events(open_stream(), data_frame(1, flags=wire.REMOTE_CLOSED)) == [
        DataReceived(1, b""),
        HalfClosed(1),
    ]


@pytest.mark.rule("ttrpc.receive.6")
def test_closing_frame_with_data_delivers_closes_and_is_refused() -> None:
    """The message was delivered already; the error ends the stream."""
    server = open_stream()
    events = server_events(server, data_frame(1, b"x", flags=wire.REMOTE_CLOSED))

    error = StatusError(Code.INVALID_ARGUMENT, "data close message cannot include data")
    assert events[:2] == [DataReceived(1, b"x"), HalfClosed(1)]
    [last] = events[2:]
    assert isinstance(last, ErrorReply)
    assert last.on_stream
    assert (last.error.code, str(last.error)) == (error.code, str(error))


@pytest.mark.rule("ttrpc.receive.5")
def test_data_after_the_close_breaks_the_stream() -> None:
    """Nothing can be delivered after a close."""
    [event] = server_events(open_stream(half_closed=True), data_frame(1, b"x"))

    assert isinstance(event, ErrorReply)
    assert event.on_stream
    assert str(event.error) == "data handling error: ttrpc: stream closed"


def test_request_ids_must_increase_with_any_gaps() -> None:
    """The call in flight with that id is not affected."""
    server = ServerConnection()
    server_events(server, request(101))
    text = "StreamID cannot be re-used and must increment"

    for stream_id in (101, 99, 1):
        assert only_refusal(server_events(server, request(stream_id))) == (stream_id, 3, text)
    assert server.calls == 1
    assert isinstance(server_events(server, request(MAX_STREAM_ID))[0], RequestReceived)


def test_unreadable_request_is_refused_and_its_id_is_consumed() -> None:
    """A later request needs a higher id."""
    server = ServerConnection()
    text = "unmarshal request error: proto: cannot parse invalid wire-format data"

    assert only_refusal(server_events(server, request(3, data=b"\x0a\x05a"))) == (3, 3, text)
    assert "re-used" in only_refusal(server_events(server, request(3)))[2]
    assert server.calls == 0


@pytest.mark.parametrize("kind", [0, wire.RESPONSE, 4, 255])
def test_kinds_of_the_future_are_ignored(kind: int) -> None:
    """A newer peer may send kinds of frames that we do not know."""
    server = ServerConnection()
    events = server_events(server, wire.encode_frame(1, kind, 255, b"x") + request(1))

    assert [type(event) for event in events] == [RequestReceived]


def test_response_of_exactly_the_limit_is_sent() -> None:
    """A Response has at most 4 194 304 bytes."""
    server = open_stream()
    payload = bytes(wire.MAX_DATA_BYTES - 5)  # a tag and a length of four bytes
    frame = server.respond(1, payload)

    assert wire.HEADER.unpack(frame[:10])[:3] == (wire.MAX_DATA_BYTES, 1, wire.RESPONSE)


def test_response_beyond_the_limit_becomes_an_error_of_its_stream() -> None:
    """The Go server closes the connection; ours answers code 8."""
    for answer in ("respond", "finish"):
        server = open_stream()
        client = ClientConnection()
        client.request("s", "m", b"", receives_data=True)
        frame = getattr(server, answer)(1, TOO_LONG)
        [event] = client_events(client, frame)

        assert isinstance(event, ResponseReceived)
        assert isinstance(event.error, StatusError)
        assert event.error.code is Code.RESOURCE_EXHAUSTED
        assert "exceed maximum message size of 4194304" in str(event.error)
        assert server.calls == 0


def test_error_with_details_beyond_the_limit_keeps_code_and_text() -> None:
    """An error must always be sent."""
    server = open_stream()
    frame = server.fail(1, StatusError(9, "why", [Detail("t", TOO_LONG)]))
    _payload, error = codec.decode_response(frame[10:])

    assert error is not None
    assert (error.code, str(error), error.details) == (9, "why", ())


def test_call_is_answered_once() -> None:
    """A second answer is a bug of ours, and is never sent."""
    server = open_stream()
    server.finish(1, None)
    steps: list[Callable[[], object]] = [
        lambda: server.respond(1, b""),
        lambda: server.fail(1, StatusError(2, "")),
        lambda: server.finish(1, None),
        lambda: server.open_stream(1, half_closed=False),
    ]
    for again in steps:
        with pytest.raises(LocalProtocolError, match="no call to answer"):
            again()


@pytest.mark.rule("ttrpc.stream.7")
def test_server_cannot_send_on_what_is_no_open_stream() -> None:
    """For a unary call and for one that has ended."""
    server = ServerConnection()
    server_events(server, request(1))
    with pytest.raises(StreamClosed):
        server.send(1, b"x")
    server.open_stream(1, half_closed=True)
    assert server.send(1, b"x") == data_frame(1, b"x")
    with pytest.raises(StatusError):
        server.send(1, TOO_LONG)
    assert server.finish(1, b"y") == data_frame(1, b"y", flags=wire.REMOTE_CLOSED)
    with pytest.raises(StreamClosed):
        server.send(1, b"x")
