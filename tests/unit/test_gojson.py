"""Refused JSON: the place of a syntax error, and Go's text for a wrong type."""

import contextlib
import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shimv2.gocompat import gojson
from shimv2.gocompat.gojson import JsonError, Slice, StringMap, Struct
from shimv2.values import oci

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


BROKEN = (
    *("{bad", "not json", "", "  ", "{", '{"a"', '{"a":1', '"abc', "[1,", "xyz", "[1,]", '{"a" 1}'),
    *(
        '{"a":1 "b"}',
        '{"a":1,}',
        "[1 2]",
        "{} x",
        "{}{}",
        '"a\nb"',
        '"a\x01b"',
        r'"\q"',
        r'"\u12g4"',
    ),
    *("-x", "01", "1.x", "1ex", "tru3", "falsy", "NaN", "-Infinity", "'a'", "\\", "é", "\ufeff{}"),
)


@pytest.mark.parametrize("text", BROKEN)
def test_broken_text_is_refused_with_the_place(text: str) -> None:
    """With the text of Python's parser; NaN and Infinity, which that accepts, are refused too."""
    with pytest.raises(JsonError, match=r"^invalid JSON: (.*\(char \d+\)|.* is no JSON value)$"):
        gojson.loads(text.encode())


@given(json_values)
def test_valid_text_is_read_as_by_json(value: object) -> None:
    """Only errors differ from Python's json."""
    text = json.dumps(value).encode()

    assert gojson.loads(text) == value
    assert list(gojson.values(text)) == [value]


@given(st.binary(max_size=40))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    """No payload of a client causes another kind of error."""
    for read in (gojson.loads, lambda data: list(gojson.values(data))):
        try:
            read(data)
        except JsonError as error:
            text = str(error)
        else:
            text = "it is JSON"
        assert text


@pytest.mark.parametrize("text", [b"[" * 100_000, b'{"a":' * 100_000])
def test_deep_nesting_is_refused(text: bytes) -> None:
    """A payload of 4 MiB of brackets must not end the shim."""
    with pytest.raises(JsonError, match="exceeded max depth"):
        gojson.loads(text)
    with pytest.raises(JsonError, match="exceeded max depth"):
        list(gojson.values(text))


@pytest.mark.parametrize("text", [b"1e999", b"[-1e999]", b"1" * 5000])
def test_number_beyond_all_types_is_refused(text: bytes) -> None:
    """It cannot be passed to the runtime as JSON."""
    with pytest.raises(JsonError):
        gojson.loads(text)


MIB = 1024 * 1024
LARGE_AND_BROKEN = {
    "spaces": b" " * MIB,
    "lines": b"\n" * MIB,
    "brackets": b"[" * MIB,
    "string without an end": b'"' + b"a" * MIB,
    "escapes without an end": b'"' + b"\\n" * (MIB // 2),
    "array without an end": b"[" + b"1," * (MIB // 2),
    "object without an end": b"{" + b'"a":1,' * (MIB // 6),
    "digits": b"1" * MIB,
    "no UTF-8": b"\xff" * MIB,
    "many values": b"1 " * (MIB // 8),
}


@pytest.mark.parametrize("kind", LARGE_AND_BROKEN)
def test_large_broken_text_takes_time_in_proportion_to_its_length(kind: str) -> None:
    """A client chooses the payload, up to 4 MiB: twice the length may take at most three times as
    long."""

    def refusal_s(times: int) -> float:
        head, body = LARGE_AND_BROKEN[kind][:1], LARGE_AND_BROKEN[kind][1:]
        data = head + body * times
        taken = list[float]()
        for read in (gojson.loads, lambda data: list(gojson.values(data))) * 3:
            before = time.thread_time()
            with contextlib.suppress(JsonError):  # a stream of white space has no value
                read(data)
            taken.append(time.thread_time() - before)
        return min(taken[::2]) + min(taken[1::2])

    one_s, two_s, four_s = refusal_s(1), refusal_s(2), refusal_s(4)

    tick_s = 0.001  # shorter times depend on the clock and the caches
    assert two_s <= 3 * max(one_s, tick_s)
    assert four_s <= 3 * max(two_s, tick_s)


def test_stream_is_read_value_by_value() -> None:
    """A runtime's log: values with any white space between them, or none."""
    assert list(gojson.values(b' {"a":1}\n\n2{"b":2}\t')) == [{"a": 1}, 2, {"b": 2}]
    assert list(gojson.values(b" \n")) == []


def test_stream_gives_the_values_before_the_broken_one() -> None:
    """Earlier values are not lost because of a later one."""
    stream = gojson.values(b'{} 1 {"a":')

    assert [next(stream), next(stream)] == [{}, 1]
    with pytest.raises(JsonError, match="invalid JSON"):
        next(stream)


def test_bytes_that_are_no_utf8_become_replacement_characters() -> None:
    """As in Go; the text is still JSON."""
    assert gojson.loads(b'"a\xff"') == "a\ufffd"


# --- types ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "error"),
    [
        ({"args": "a"}, "string into Go struct field Process.args of type []string"),
        ({"args": [1]}, "number into Go struct field Process.args of type string"),
        ({"Args": True}, "bool into Go struct field Process.args of type []string"),
        ({"cwd": []}, "array into Go struct field Process.cwd of type string"),
        ({"terminal": 0}, "number into Go struct field Process.terminal of type bool"),
        ({"user": {"uid": -1}}, "number -1 into Go struct field User.user.uid of type uint32"),
        (
            {"user": {"uid": 2**32}},
            "number 4294967296 into Go struct field User.user.uid of type uint32",
        ),
        ({"user": {"gid": 1.5}}, "number 1.5 into Go struct field User.user.gid of type uint32"),
        ({"user": []}, "array into Go struct field Process.user of type specs.User"),
        ({"oomScoreAdj": "1"}, "string into Go struct field Process.oomScoreAdj of type int"),
        ([], "array into Go value of type specs.Process"),
        ("x", "string into Go value of type specs.Process"),
    ],
)
def test_value_of_a_wrong_type_is_reported_as_go_does(value: object, error: str) -> None:
    """The text has the whole path and the innermost struct."""
    with pytest.raises(JsonError) as caught:
        gojson.check(value, oci.PROCESS)

    assert str(caught.value) == f"json: cannot unmarshal {error}"


def test_nested_value_of_a_wrong_type_names_the_inner_struct() -> None:
    """Go's text has the innermost struct and the whole path."""
    with pytest.raises(JsonError) as caught:
        gojson.check({"memory": {"limit": "x"}}, oci.RESOURCES)

    text = "Go struct field LinuxMemory.memory.limit of type int64"
    assert str(caught.value) == f"json: cannot unmarshal string into {text}"


@pytest.mark.parametrize(
    "value",
    [
        {},
        None,
        {"args": None, "user": None},
        {"unknown": [1, {"x": 2}], "args": ["a"]},
        {"user": {"uid": 0, "gid": 4294967295, "additionalGids": [1]}},
        {"rlimits": [{"type": "RLIMIT_NOFILE", "hard": 2**64 - 1, "soft": 0}]},
    ],
)
def test_value_that_go_could_decode_passes(value: object) -> None:
    """Null is allowed everywhere, and so are unknown fields."""
    gojson.check(value, oci.PROCESS)


def test_bounds_of_the_integer_types_are_those_of_go() -> None:
    for basic, low, high in [
        ("int64", -(2**63), 2**63 - 1),
        ("int", -(2**63), 2**63 - 1),
        ("int32", -(2**31), 2**31 - 1),
        ("uint", 0, 2**64 - 1),
        ("uint16", 0, 2**16 - 1),
    ]:
        shape = Struct("T", {"x": basic})
        gojson.check({"x": low}, shape)
        gojson.check({"x": high}, shape)
        for beyond in (low - 1, high + 1):
            with pytest.raises(JsonError):
                gojson.check({"x": beyond}, shape)


def test_types_are_named_as_in_go() -> None:
    assert gojson.go_type(Slice("uint32")) == "[]uint32"
    assert gojson.go_type(StringMap(Struct("LinuxRdma", {}))) == "map[string]specs.LinuxRdma"
    gojson.check({"a": 1.0}, StringMap("float64"))
    with pytest.raises(JsonError, match=r"object into Go value of type \[\]string"):
        gojson.check({"a": 1}, Slice("string"))
