"""JSON; values of a wrong type are refused with the texts of Go's encoding/json.  Pure.

Clients show these texts (Exec and Update with a bad payload, a corrupt log of the runtime, a broken
configuration), and the test suites of the daemons compare them.  A syntax error has the text of
Python's own parser, after `invalid JSON: `.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, NoReturn

_SPACE: Final = re.compile(r"[ \t\r\n]*")  # RFC 8259, section 2


class JsonError(ValueError):
    """The text is not JSON, or a value in it has a wrong type."""


def loads(data: bytes) -> object:
    """Parse one JSON text.  Bytes that are no UTF-8 become U+FFFD, as in Go.

    Raises:
        JsonError: it is no JSON, or is nested too deeply.
    """
    try:
        return _DECODER.decode(data.decode("utf-8", "replace"))
    except (ValueError, RecursionError) as error:
        raise _as_json_error(error) from None


def values(data: bytes) -> Iterator[object]:
    """Parse a stream of JSON values, with white space between them or none.

    Raises:
        JsonError: a value is no JSON, or is nested too deeply; those before it have been yielded.
    """
    text = data.decode("utf-8", "replace")
    at = _after_space(text, 0)
    while at < len(text):
        try:
            value, at = _DECODER.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            raise _as_json_error(error) from None
        yield value
        at = _after_space(text, at)


def _after_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return at if found is None else found.end()


def _as_json_error(error: ValueError | RecursionError) -> JsonError:
    if isinstance(error, JsonError):
        return error
    if isinstance(error, RecursionError):
        return JsonError("exceeded max depth")
    return JsonError(f"invalid JSON: {error}")


def _refuse_constant(name: str) -> NoReturn:
    """Refuse NaN and Infinity, which Python's parser would take."""
    raise ValueError(f"{name} is no JSON value")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):  # JSON cannot represent it
        raise JsonError(f"json: cannot unmarshal number {text} into Go value of type float64")
    return value


_DECODER: Final = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite)


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
    """Check that Go could decode `value` into `shape`.  Unknown fields and null are allowed.

    Raises:
        JsonError: Go's text (json.UnmarshalTypeError) for the first value of a wrong type.
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
    """Return the field that `key` names if case is ignored, as Go does; "" if there is none."""
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
    """Return the kind of a parsed value as Go's errors name it."""
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
