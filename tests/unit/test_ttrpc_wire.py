"""Frames: golden bytes, any cut of the stream, any garbage."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ttrpc.codes import Code
from ttrpc.errors import StatusError
from ttrpc.wire import (
    DATA,
    HEADER,
    MAX_DATA_BYTES,
    REQUEST,
    RESPONSE,
    Frame,
    FrameDecoder,
    Oversized,
    encode_frame,
)

SMALL_LIMIT = 64

numbers = st.integers(0, 2**32 - 1)
bytes_of_one = st.integers(0, 255)
frames = st.builds(Frame, numbers, bytes_of_one, bytes_of_one, st.binary(max_size=SMALL_LIMIT))


def encode(frame: Frame) -> bytes:
    return encode_frame(frame.stream_id, frame.kind, frame.flags, frame.data)


def decode(decoder: FrameDecoder, chunks: list[bytes]) -> list[Frame | Oversized]:
    found: list[Frame | Oversized] = []
    for chunk in chunks:
        decoder.feed(chunk)
        while (frame := decoder.next_frame()) is not None:
            found.append(frame)
    return found


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    ends = sorted(place for place in places if place <= len(stream))
    return [stream[a:b] for a, b in zip([0, *ends], [*ends, len(stream)], strict=True)]


@pytest.mark.rule("ttrpc.frame.1")
def test_header_of_a_request_is_big_endian_length_id_kind_flags() -> None:
    """The header of the first test vector."""
    assert encode_frame(1, REQUEST, 0, bytes(40))[:10].hex() == "00000028000000010100"


def test_empty_response_is_a_header_only() -> None:
    """Success of a method that returns Empty has frame length 0."""
    assert encode_frame(1, RESPONSE, 0, b"").hex() == "00000000000000010200"


@pytest.mark.rule("ttrpc.frame.1")
def test_frame_at_the_limit_is_encoded_and_beyond_is_refused() -> None:
    """At most 4 194 304 bytes of data; the text is that of the Go implementation."""
    assert len(encode_frame(1, DATA, 0, bytes(MAX_DATA_BYTES))) == MAX_DATA_BYTES + 10

    with pytest.raises(StatusError) as refused:
        encode_frame(1, DATA, 0, bytes(MAX_DATA_BYTES + 1))

    assert refused.value.code is Code.RESOURCE_EXHAUSTED
    assert str(refused.value) == "message length 4194305 exceed maximum message size of 4194304"


@pytest.mark.rule("ttrpc.frame.1")
@given(st.lists(frames, max_size=5), st.lists(st.integers(0, 400), max_size=12))
def test_decoder_gives_the_same_frames_however_the_bytes_are_cut(
    sent: list[Frame], places: list[int]
) -> None:
    """Framing must not depend on how the kernel cuts the stream."""
    chunks = cut(b"".join(map(encode, sent)), places)

    decoder = FrameDecoder()
    assert decode(decoder, chunks) == sent
    assert not decoder.mid_frame


@given(
    st.lists(st.tuples(frames, st.integers(0, 40)), min_size=1, max_size=5),
    st.lists(st.integers(0, 400), max_size=12),
)
def test_decoder_skips_oversized_frames_however_the_bytes_are_cut(
    sent: list[tuple[Frame, int]], places: list[int]
) -> None:
    """Exactly the announced bytes are dropped; every later frame is complete."""
    limit_bytes = 20
    stream = b""
    expected: list[Frame | Oversized] = []
    for frame, more in sent:
        data = frame.data + bytes(more)
        stream += encode_frame(frame.stream_id, frame.kind, frame.flags, data)
        if len(data) > limit_bytes:
            expected.append(Oversized(frame.stream_id, len(data)))
        else:
            expected.append(Frame(frame.stream_id, frame.kind, frame.flags, data))

    decoder = FrameDecoder(max_data_bytes=limit_bytes)
    assert decode(decoder, cut(stream, places)) == expected
    assert not decoder.mid_frame


@given(st.lists(st.binary(max_size=300), max_size=10))
def test_decoder_raises_nothing_for_any_garbage(chunks: list[bytes]) -> None:
    """Any bytes are frames, too long frames, or an incomplete frame."""
    for frame in decode(FrameDecoder(max_data_bytes=SMALL_LIMIT), chunks):
        if isinstance(frame, Frame):
            assert len(frame.data) <= SMALL_LIMIT
        else:
            assert frame.length_bytes > SMALL_LIMIT


def test_oversized_frame_is_reported_after_its_last_byte() -> None:
    """It is discarded first, then answered; no byte is kept."""
    decoder = FrameDecoder()
    decoder.feed(HEADER.pack(MAX_DATA_BYTES + 2, 5, REQUEST, 0) + b"x")
    before = decoder.next_frame()
    decoder.feed(bytes(MAX_DATA_BYTES))
    nearly = decoder.next_frame()
    assert decoder.mid_frame
    decoder.feed(b"x")

    assert before is None
    assert nearly is None
    assert decoder.next_frame() == Oversized(5, MAX_DATA_BYTES + 2)
    assert decoder.next_frame() is None


def test_decoder_knows_when_part_of_a_frame_is_missing() -> None:
    """An end inside a header or a body is an error."""
    whole = encode_frame(1, REQUEST, 0, b"abc")
    for length in range(len(whole) + 1):
        decoder = FrameDecoder()
        decode(decoder, [whole[:length]])

        assert decoder.mid_frame is (0 < length < len(whole))
