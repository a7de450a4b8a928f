"""Envelopes: golden bytes, round trips, and bytes that cannot be decoded."""

import contextlib

import pytest
from google.protobuf.message import DecodeError
from google.protobuf.wrappers_pb2 import StringValue
from hypothesis import given
from hypothesis import strategies as st

from tests.support.unreadable import CUT_SHORT, NO_UTF8
from ttrpc import codec
from ttrpc.codes import Code
from ttrpc.errors import Detail, RemoteProtocolError, StatusError
from ttrpc.message import parse, reason

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@pytest.mark.rule("ttrpc.frame.2")
def test_request_has_the_bytes_of_the_vector() -> None:
    """Connect{id: "c1"} of the Task service."""
    data = codec.encode_request("containerd.task.v2.Task", "Connect", bytes.fromhex("0a026331"))

    assert data.hex() == (
        "0a17636f6e7461696e6572642e7461736b2e76322e5461736b1207436f6e6e6563741a040a026331"
    )


@pytest.mark.rule("ttrpc.frame.4")
def test_error_has_the_bytes_of_the_vector() -> None:
    """An unknown service."""
    data = codec.encode_error(StatusError(Code.UNIMPLEMENTED, "service foo"))

    assert data.hex() == "0a0f080c120b7365727669636520666f6f"


@pytest.mark.rule("ttrpc.frame.3")
def test_success_without_content_has_no_bytes() -> None:
    """No status, no payload: a frame of length 0."""
    assert codec.encode_response(b"") == b""
    assert codec.decode_response(b"") == (b"", None)


@pytest.mark.rule("ttrpc.frame.2")
@given(
    texts,
    texts,
    st.binary(max_size=50),
    st.integers(-(2**63), 2**63 - 1),
    st.lists(st.tuples(texts, texts), max_size=4),
)
def test_request_comes_back_as_it_was(
    service: str, method: str, payload: bytes, timeout_ns: int, metadata: list[tuple[str, str]]
) -> None:
    """All five fields; repeated keys keep their order."""
    data = codec.encode_request(service, method, payload, timeout_ns=timeout_ns, metadata=metadata)
    request = codec.decode_request(data)

    assert (request.service, request.method, request.payload) == (service, method, payload)
    assert request.timeout_nano == timeout_ns
    assert [(pair.key, pair.value) for pair in request.metadata] == metadata


@pytest.mark.parametrize(("asked", "sent"), [(2**70, 2**63 - 1), (-(2**70), -(2**63))])
def test_timeout_beyond_the_field_is_clamped(asked: int, sent: int) -> None:
    """timeout_nano is an int64."""
    assert (
        codec.decode_request(codec.encode_request("s", "m", b"", timeout_ns=asked)).timeout_nano
        == sent
    )


@pytest.mark.rule("ttrpc.frame.4")
@given(
    st.integers(-(2**31), 2**31 - 1).filter(bool),
    texts,
    st.lists(st.tuples(texts, st.binary(max_size=9)), max_size=3),
)
def test_error_comes_back_as_it_was(code: int, text: str, details: list[tuple[str, bytes]]) -> None:
    """Code, text and details; unknown codes are kept."""
    sent = StatusError(code, text, [Detail(*one) for one in details])
    payload, error = codec.decode_response(codec.encode_error(sent))

    assert payload == b""
    assert error is not None
    assert (error.code, error.message, error.details) == (code, text, sent.details)


@pytest.mark.rule("ttrpc.frame.3")
def test_status_with_code_zero_is_no_error() -> None:
    """Clients treat status present with code 0 as OK."""
    data = bytes.fromhex("0a001203616263")

    assert codec.decode_response(data) == (b"abc", None)


def test_error_text_that_is_no_unicode_is_shown_escaped() -> None:
    """A path of arbitrary bytes in an error text must not fail the answer."""
    text = "open /tmp/\udcff: no such file"
    _payload, error = codec.decode_response(codec.encode_error(StatusError(5, text)))

    assert str(error) == "open /tmp/\\udcff: no such file"


def test_error_text_beyond_the_limit_is_cut_between_characters() -> None:
    """A runtime's whole output in an error must fit in a frame."""
    text = codec.sendable("é" * codec.MAX_TEXT_BYTES)

    assert text.endswith("é [cut]")
    assert len(text.encode()) <= codec.MAX_TEXT_BYTES + len(" [cut]")


@pytest.mark.parametrize(("data", "text"), [CUT_SHORT, NO_UTF8])
def test_request_that_is_none_is_a_remote_error(data: bytes, text: str) -> None:
    """The texts of the Go implementation."""
    with pytest.raises(RemoteProtocolError) as refused:
        codec.decode_request(data)

    assert str(refused.value) == f"unmarshal request error: {text}"


@given(st.binary(max_size=60))
def test_any_bytes_are_an_envelope_or_a_remote_error(data: bytes) -> None:
    """A parser may raise nothing else."""
    for decode in (codec.decode_request, codec.decode_response):
        with contextlib.suppress(RemoteProtocolError):
            decode(data)


@pytest.mark.parametrize(("payload", "text"), [CUT_SHORT, NO_UTF8])
def test_payload_that_is_none_is_an_internal_error(payload: bytes, text: str) -> None:
    """The envelope is right, its payload is not a message."""
    with pytest.raises(StatusError) as refused:
        parse(StringValue, payload)

    assert refused.value.code is Code.INTERNAL
    assert str(refused.value) == f"ttrpc: error unmarshalling payload: {text}"


def test_field_with_a_wrong_wire_type_is_an_unknown_field() -> None:
    """This is no error since 1.7."""
    assert parse(StringValue, b"\x08\x01") == StringValue.FromString(b"\x08\x01")
    assert parse(StringValue, b"\x08\x01").value == ""


def test_reason_is_known_without_protobufs_c_core() -> None:
    """The pure Python protobuf lets the codec's own exception through."""
    error = UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")

    assert reason(error) == "string field contains invalid UTF-8"
    assert reason(DecodeError("?")) == "proto: cannot parse invalid wire-format data"
