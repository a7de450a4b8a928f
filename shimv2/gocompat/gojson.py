"""JSON whose errors are told in the words of Go's encoding/json.  Pure.

Clients get to see these texts (Exec and Update with a bad payload, a runtime's corrupt log, a
broken configuration), and the suites of the daemons compare them.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NoReturn

_SPACE: Final = frozenset(b" \t\r\n")
_DIGITS: Final = frozenset(b"0123456789")
_HEX: Final = frozenset(b"0123456789abcdefABCDEF")
_LITERALS: Final = {ord("t"): b"true", ord("f"): b"false", ord("n"): b"null"}


class JsonError(ValueError):
    """What is wrong with a text, or with a value in it, as encoding/json says it."""


def loads(data: bytes) -> object:
    """Parse one JSON text.

    Raises:
        JsonError: Go's text for the first character it would stumble over.
    """
    text = data.decode("utf-8", "replace")  # as Go: bytes that are no UTF-8 become U+FFFD
    try:
        return _DECODER.decode(text)
    except RecursionError:
        raise JsonError("exceeded max depth") from None
    except JsonError:
        raise
    except ValueError as error:
        raise JsonError(syntax_error(data) or str(error)) from None


def decode_next(data: bytes, start: int) -> tuple[object, int] | None:
    """Parse the next value of a stream of JSON values; it and where it ends, or None at the end.

    Raises:
        JsonError: Go's text; `unexpected EOF` when the last value is cut.
    """
    while start < len(data) and data[start] in _SPACE:
        start += 1
    if start == len(data):
        return None
    scan = _Scan(data, start)
    try:
        scan.value()
    except JsonError as error:
        if scan.at >= len(data):
            raise JsonError("unexpected EOF") from None
        raise error from None
    except RecursionError:
        raise JsonError("exceeded max depth") from None
    return loads(data[start : scan.at]), scan.at


def syntax_error(data: bytes) -> str:
    """Say what Go's scanner finds wrong with `data`; "" when it finds nothing."""
    scan = _Scan(data, 0)
    try:
        scan.value()
        scan.space()
        if scan.at < len(data):
            scan.fail("after top-level value")
    except JsonError as error:
        return str(error)
    except RecursionError:
        return "exceeded max depth"
    return ""


def _no_constant(name: str) -> NoReturn:
    """Refuse NaN and Infinity, which Python's parser would take."""
    raise ValueError(name)


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):  # it could not be written as JSON again
        raise JsonError(f"json: cannot unmarshal number {text} into Go value of type float64")
    return value


_DECODER: Final = json.JSONDecoder(parse_constant=_no_constant, parse_float=_finite)


class _Scan:
    """The scanner of encoding/json, reduced to where it stops and what it says there."""

    def __init__(self, data: bytes, at: int) -> None:
        self.data = data
        self.at = at

    def fail(self, context: str) -> NoReturn:
        char = chr(self.data[self.at])  # Go looks at bytes, and prints them as code points
        named = {"'": r"'\''", '"': "'\"'", "\\": r"'\\'"}.get(char)
        if named is None:
            named = f"'{char}'" if char.isprintable() else _go_escape(char)
        raise JsonError(f"invalid character {named} {context}")

    def peek(self) -> int:
        if self.at >= len(self.data):
            raise JsonError("unexpected end of JSON input")
        return self.data[self.at]

    def space(self) -> None:
        while self.at < len(self.data) and self.data[self.at] in _SPACE:
            self.at += 1

    def value(self) -> None:
        self.space()
        first = self.peek()
        if first == ord("{"):
            self.members()
        elif first == ord("["):
            self.elements()
        elif first == ord('"'):
            self.string()
        elif first == ord("-") or first in _DIGITS:
            self.number()
        elif first in _LITERALS:
            self.literal(_LITERALS[first])
        else:
            self.fail("looking for beginning of value")

    def members(self) -> None:
        self.at += 1
        self.space()
        if self.peek() == ord("}"):
            self.at += 1
            return
        while True:
            self.space()
            if self.peek() != ord('"'):
                self.fail("looking for beginning of object key string")
            self.string()
            self.space()
            if self.peek() != ord(":"):
                self.fail("after object key")
            self.at += 1
            self.value()
            if self.closes(ord("}"), "after object key:value pair"):
                return

    def elements(self) -> None:
        self.at += 1
        self.space()
        if self.peek() == ord("]"):
            self.at += 1
            return
        while True:
            self.value()
            if self.closes(ord("]"), "after array element"):
                return

    def closes(self, end: int, context: str) -> bool:
        self.space()
        char = self.peek()
        if char not in (end, ord(",")):
            self.fail(context)
        self.at += 1
        return char == end

    def string(self) -> None:
        self.at += 1
        while (char := self.peek()) != ord('"'):
            if char < 0x20:
                self.fail("in string literal")
            self.at += 1
            if char == ord("\\"):
                self.escape()
        self.at += 1

    def escape(self) -> None:
        char = self.peek()
        if char not in b'bfnrt\\/"u':
            self.fail("in string escape code")
        self.at += 1
        if char == ord("u"):
            for _ in range(4):
                self.one_of(_HEX, "in \\u hexadecimal character escape")

    def number(self) -> None:
        if self.data[self.at] == ord("-"):
            self.at += 1
            if self.peek() not in _DIGITS:
                self.fail("in numeric literal")
        if self.data[self.at] == ord("0"):
            self.at += 1
        else:
            self.digits()
        if self.next_is(b"."):
            self.one_of(_DIGITS, "after decimal point in numeric literal")
            self.digits()
        if self.next_is(b"eE"):
            self.next_is(b"+-")
            self.one_of(_DIGITS, "in exponent of numeric literal")
            self.digits()

    def digits(self) -> None:
        while self.at < len(self.data) and self.data[self.at] in _DIGITS:
            self.at += 1

    def next_is(self, chars: bytes) -> bool:
        found = self.at < len(self.data) and self.data[self.at] in chars
        self.at += found
        return found

    def one_of(self, chars: frozenset[int], context: str) -> None:
        if self.peek() not in chars:
            self.fail(context)
        self.at += 1

    def literal(self, word: bytes) -> None:
        self.at += 1
        for expected in word[1:]:
            if self.peek() != expected:
                self.fail(f"in literal {word.decode()} (expecting '{chr(expected)}')")
            self.at += 1


def _go_escape(char: str) -> str:
    short = {"\a": r"\a", "\b": r"\b", "\f": r"\f", "\n": r"\n"}
    short |= {"\r": r"\r", "\t": r"\t", "\v": r"\v"}
    escaped = short.get(char)
    if escaped is None:
        escaped = f"\\x{ord(char):02x}" if ord(char) < 0x80 else f"\\u{ord(char):04x}"
    return f"'{escaped}'"


# --- types ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Struct:
    """A Go struct: its name, and the type of each field by its JSON name."""

    name: str
    fields: Mapping[str, "Shape"]
    package: str = "specs"


@dataclass(frozen=True, slots=True)
class Slice:
    of: "Shape"


@dataclass(frozen=True, slots=True)
class StringMap:
    """map[string]T"""

    of: "Shape"


Shape = Struct | Slice | StringMap | str
"""A struct, a container, or the name of a basic Go type: string, bool, int64, uint32, ..."""


def check(value: object, shape: Shape) -> None:
    """Make sure that Go could decode `value` into `shape`; unknown fields are fine, so is null.

    Raises:
        JsonError: Go's text for the first value of a wrong type, in document order.
    """
    _check(value, shape, "", "")


def _check(value: object, shape: Shape, struct: str, path: str) -> None:
    if value is None or (isinstance(shape, str) and _fits(value, shape)):
        return
    match shape, value:
        case Struct(name=name, fields=fields), dict():
            for key, member in value.items():
                field = key if key in fields else _fold(key, fields)
                if field:
                    _check(member, fields[field], name, f"{path}.{field}" if path else field)
        case Slice(of), list():
            for element in value:
                _check(element, of, struct, path)
        case StringMap(of), dict():
            for member in value.values():
                _check(member, of, struct, path)
        case _:
            _mismatch(value, shape, struct, path)


def _fold(key: str, fields: Mapping[str, Shape]) -> str:
    """Find the field that `key` names but for its case, as Go does; "" when there is none."""
    return next((name for name in fields if name.lower() == key.lower()), "")


def _fits(value: object, basic: str) -> bool:
    if isinstance(value, str):
        return basic == "string"
    if isinstance(value, bool):
        return basic == "bool"
    if isinstance(value, int):
        return basic == "float64" or _in_range(value, basic)
    return isinstance(value, float) and basic == "float64"


def _in_range(value: int, basic: str) -> bool:
    signed = basic.startswith("int")
    if not signed and not basic.startswith("uint"):
        return False
    bits = int(basic.lstrip("uint") or 64)
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    return low <= value <= high


def _mismatch(value: object, shape: Shape, struct: str, path: str) -> NoReturn:
    where = f"Go struct field {struct}.{path}" if path else "Go value"
    target = go_type(shape)
    raise JsonError(f"json: cannot unmarshal {_kind(value, target)} into {where} of type {target}")


def _kind(value: object, target: str) -> str:
    kind = json_kind(value)
    if kind == "number" and target.startswith(("int", "uint", "float")):
        return f"number {value}"
    return kind


def json_kind(value: object) -> str:
    """Name the kind of a parsed value as Go's errors do."""
    match value:
        case bool():
            return "bool"
        case str():
            return "string"
        case int() | float():
            return "number"
        case list():
            return "array"
        case _:
            return "object"


def go_type(shape: Shape) -> str:
    match shape:
        case Struct(name=name, package=package):
            return f"{package}.{name}"
        case Slice(of):
            return f"[]{go_type(of)}"
        case StringMap(of):
            return f"map[string]{go_type(of)}"
        case _:
            return shape
