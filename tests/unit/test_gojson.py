"""JSON errors in the words of encoding/json, which said the expected texts itself."""

import json

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


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (b"{bad", "invalid character 'b' looking for beginning of object key string"),
        (b"not json", "invalid character 'o' in literal null (expecting 'u')"),
        (b"", "unexpected end of JSON input"),
        (b"  ", "unexpected end of JSON input"),
        (b"{", "unexpected end of JSON input"),
        (b'{"a"', "unexpected end of JSON input"),
        (b'{"a":1', "unexpected end of JSON input"),
        (b'"abc', "unexpected end of JSON input"),
        (b"[1,", "unexpected end of JSON input"),
        (b"xyz", "invalid character 'x' looking for beginning of value"),
        (b"[1,]", "invalid character ']' looking for beginning of value"),
        (b'{"a" 1}', "invalid character '1' after object key"),
        (b'{"a":1 "b"}', "invalid character '\"' after object key:value pair"),
        (b'{"a":1,}', "invalid character '}' looking for beginning of object key string"),
        (b"[1 2]", "invalid character '2' after array element"),
        (b"{} x", "invalid character 'x' after top-level value"),
        (b"{}{}", "invalid character '{' after top-level value"),
        (b'"a\nb"', r"invalid character '\n' in string literal"),
        (b'"a\x01b"', r"invalid character '\x01' in string literal"),
        (rb'"\q"', "invalid character 'q' in string escape code"),
        (rb'"\u12g4"', r"invalid character 'g' in \u hexadecimal character escape"),
        (b"-x", "invalid character 'x' in numeric literal"),
        (b"01", "invalid character '1' after top-level value"),
        (b"1.x", "invalid character 'x' after decimal point in numeric literal"),
        (b"1ex", "invalid character 'x' in exponent of numeric literal"),
        (b"tru3", "invalid character '3' in literal true (expecting 'e')"),
        (b"falsy", "invalid character 'y' in literal false (expecting 'e')"),
        (b"NaN", "invalid character 'N' looking for beginning of value"),
        (b"-Infinity", "invalid character 'I' in numeric literal"),
        (b"'a'", r"invalid character '\'' looking for beginning of value"),
        (b"\\", r"invalid character '\\' looking for beginning of value"),
        ("é".encode(), "invalid character 'Ã' looking for beginning of value"),
        (b"\xef\xbb\xbf{}", "invalid character 'ï' looking for beginning of value"),
    ],
)
def test_broken_text_is_told_as_go_tells_it(text: bytes, error: str) -> None:
    """Clients see these texts."""
    with pytest.raises(JsonError) as caught:
        gojson.loads(text)

    assert str(caught.value) == error


@given(json_values)
def test_valid_text_is_read_as_by_json(value: object) -> None:
    """The Go dialect is about errors only."""
    text = json.dumps(value).encode()

    assert gojson.loads(text) == value
    assert gojson.syntax_error(text) == ""


@given(st.binary(max_size=40))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    """A payload chosen by a client never gets past as another kind of error."""
    try:
        gojson.loads(data)
    except JsonError as error:
        text = str(error)
    else:
        text = "it is JSON"

    assert text


@given(st.text(st.sampled_from('{}[]",:\\0123456789.eE+-truefalsn \t'), max_size=12))
def test_scanner_and_parser_agree_on_what_is_json(text: str) -> None:
    """A text that one takes and the other refuses would be refused without a reason."""
    try:
        json.loads(text)
    except ValueError:
        assert gojson.syntax_error(text.encode())
    else:
        assert gojson.syntax_error(text.encode()) == ""


@pytest.mark.parametrize("text", [b"[" * 100_000, b'{"a":' * 100_000])
def test_deep_nesting_is_refused(text: bytes) -> None:
    """A payload of 4 MiB of brackets must not end the shim."""
    with pytest.raises(JsonError, match="exceeded max depth"):
        gojson.loads(text)
    with pytest.raises(JsonError, match="exceeded max depth"):
        gojson.decode_next(text, 0)
    assert gojson.syntax_error(text) == "exceeded max depth"


@pytest.mark.parametrize("text", [b"1e999", b"[-1e999]", b"1" * 5000])
def test_number_beyond_all_types_is_refused(text: bytes) -> None:
    """It could not be handed on to the runtime as JSON."""
    with pytest.raises(JsonError):
        gojson.loads(text)


def test_bytes_that_are_no_utf8_become_replacement_characters() -> None:
    """As in Go; the text is still JSON."""
    assert gojson.loads(b'"a\xff"') == "a\ufffd"


def test_stream_is_read_value_by_value() -> None:
    """A runtime's log: values with any white space between them, or none."""
    data = b' {"a":1}\n\n2{"b":2}\t'
    first = gojson.decode_next(data, 0)
    assert first is not None
    second = gojson.decode_next(data, first[1])
    assert second is not None
    third = gojson.decode_next(data, second[1])
    assert third is not None

    assert [first[0], second[0], third[0]] == [{"a": 1}, 2, {"b": 2}]
    assert gojson.decode_next(data, third[1]) is None


@pytest.mark.parametrize("text", [b'{"a":', b'"', b"tr", b"[1,"])
def test_value_cut_at_the_end_of_a_stream_is_an_unexpected_eof(text: bytes) -> None:
    """What Go's decoder says where Unmarshal says `unexpected end of JSON input`."""
    with pytest.raises(JsonError, match="unexpected EOF"):
        gojson.decode_next(text, 0)


def test_error_within_a_stream_is_told_like_any_other() -> None:
    with pytest.raises(JsonError, match=r"invalid character 'o' in literal null"):
        gojson.decode_next(b"{}\nnot json", 2)


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
def test_value_of_a_wrong_type_is_told_as_go_tells_it(value: object, error: str) -> None:
    """The path is the whole one, the struct the innermost."""
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
    """Null is fine everywhere, and so are fields nobody knows."""
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
