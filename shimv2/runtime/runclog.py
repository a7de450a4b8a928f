"""Turns a runtime's log and output into error texts for clients.  Pure."""

import re
from datetime import datetime
from enum import Enum, auto
from typing import Final

from shimv2.gocompat.gojson import JsonError, json_kind, values
from shimv2.gocompat.gotext import quote


class CorruptLog(ValueError):
    """A runtime's log cannot be parsed; the text has the reason."""


def last_error(log: bytes) -> str:
    """Return the message of the last entry of level `error`, or "" when there is none.

    Strict like the Go shim: one value that is not a log entry makes the whole log invalid.  As in
    Go's decoder, an absent member keeps its value from the entry before.

    Raises:
        CorruptLog: the log cannot be parsed.
    """
    entry = {"level": "", "msg": ""}
    found = ""
    try:
        for value in values(log):
            _decode(value, entry)
            if entry["level"] == "error":
                found = entry["msg"].strip()
    except JsonError as error:
        raise CorruptLog(str(error)) from None
    return found


_GO_TYPE: Final = "struct { Level string; Msg string; Time time.Time }"


def _decode(value: object, entry: dict[str, str]) -> None:
    """Copy an entry's members; null is ignored, and names match in any case, as in Go."""
    if value is None:
        return
    if not isinstance(value, dict):
        what = json_kind(value)
        raise CorruptLog(f"json: cannot unmarshal {what} into Go value of type {_GO_TYPE}")
    for key, member in value.items():
        name = key.lower()
        if member is None:
            continue
        if name == "time":
            _check_time(member)
        elif name in entry:
            if not isinstance(member, str):
                where = f"Go struct field .{name.capitalize()} of type string"
                raise CorruptLog(f"json: cannot unmarshal {json_kind(member)} into {where}")
            entry[name] = member


_RFC3339: Final = re.compile(
    r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)([.,]\d+)?(Z|[+-]\d\d:\d\d)", re.ASCII
)


# The elements of Go's time layout, each with its pattern: Go names the element that did not match.
_LAYOUT: Final = (
    *(("2006", r"\d{4}"), ("-", "-"), ("01", r"\d\d"), ("-", "-"), ("02", r"\d\d"), ("T", "T")),
    *(("15", r"\d\d"), (":", ":"), ("04", r"\d\d"), (":", ":"), ("05", r"\d\d([.,]\d+)?")),
    ("Z07:00", r"Z|[+-]\d\d:\d\d"),
)


def _misfit(value: str) -> str:
    rest = value
    for word, pattern in _LAYOUT:
        found = re.match(pattern, rest, re.ASCII)
        if found is None:
            return f"cannot parse {quote(rest)} as {quote(word)}"
        rest = rest[found.end() :]
    return f"extra text: {quote(rest)}"


def _check_time(value: object) -> None:
    if not isinstance(value, str):
        raise CorruptLog("Time.UnmarshalJSON: input is not a JSON string")
    found = _RFC3339.fullmatch(value)
    if found is None:
        layout = quote("2006-01-02T15:04:05Z07:00")
        raise CorruptLog(f"parsing time {quote(value)} as {layout}: {_misfit(value)}")
    year, month, day, hour, minute, second = map(int, re.split("[-T:]", found[1]))
    try:
        datetime(year, month, day, hour, minute, second)  # noqa: DTZ001 - a check, no time
    except ValueError:
        raise CorruptLog(f"parsing time {quote(value)}: out of range") from None


def explain(prefix: str, failure: str, log: bytes) -> str:
    """Build a failed verb's text: the last error in the runtime's log, else go-runc's `failure`.

    `log` is what the call added to the runtime's log.
    """
    try:
        found = last_error(log)
    except CorruptLog as why:
        return unexplained(prefix, failure, str(why))
    return f"{prefix}: {found or failure}"


def unexplained(prefix: str, failure: str, why: str) -> str:
    return f"{prefix}: unable to retrieve OCI runtime error ({why}): {failure}"


class KillResult(Enum):
    FINISHED = auto()
    UNKNOWN_CONTAINER = auto()
    FAILED = auto()


def kill_result(failure: str) -> KillResult:
    """Classify a failed `kill` by its text, with the Go shim's rules."""
    finished = ("os: process already finished", "container not running")
    if any(words in failure for words in finished) or "no such process" in failure.lower():
        return KillResult.FINISHED
    if "does not exist" in failure:
        return KillResult.UNKNOWN_CONTAINER
    return KillResult.FAILED
