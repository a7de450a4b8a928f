"""Reads the settings file.

`start` reads it once and passes the values to the server.  A running shim does not read it again.
"""

import dataclasses
import math
import os
import re
from typing import Any, Final

from shimv2.gocompat.gotext import os_error, quote
from shimv2.values.settings import LONGEST_S, SHARE_MEMORY, Settings

DEFAULT_PATH: Final = "/etc/containerd-shim-pyrunc.toml"
ENVIRONMENT: Final = "PYRUNC_CONFIG"
SHARE_MEMORY_ENVIRONMENT: Final = "PYRUNC_SHARE_MEMORY"  # for one start; over the file

_FILE_LIMIT_BYTES: Final = 1024 * 1024


class SettingsError(Exception):
    """The settings file cannot be used; the text begins with the file and, if known, the line."""


class _Wrong(Exception):
    """One setting is wrong; the caller adds the file and the line."""


_FIELDS: Final = {field.name: field for field in dataclasses.fields(Settings)}
_MAY_BE_ZERO: Final = frozenset(
    {"drain_grace_s", "drain_limit_s", "exit_output_s", "self_exit_s", "zygote_linger_s"}
)


def load(path: str | None = None) -> Settings:
    """Read `path`, else $PYRUNC_CONFIG, else the default file, which may be missing.

    Raises:
        SettingsError: a file named explicitly is missing, or the file is wrong.
    """
    _check_environment()
    named = path or os.environ.get(ENVIRONMENT, "")
    try:
        with open(named or DEFAULT_PATH, "rb") as file:
            data = file.read(_FILE_LIMIT_BYTES + 1)
    except FileNotFoundError as error:
        if not named:
            return Settings()
        raise SettingsError(os_error(error)) from None
    except OSError as error:
        raise SettingsError(os_error(error)) from None
    return _parse(data, named or DEFAULT_PATH)


def shares_memory(settings: Settings) -> bool:
    """Whether shims may share memory: the environment decides, or else the settings.

    A zygote serves only starts with the same environment variable, which is part of its key.
    """
    return (os.environ.get(SHARE_MEMORY_ENVIRONMENT) or settings.share_memory) == "auto"


def _check_environment() -> None:
    value = os.environ.get(SHARE_MEMORY_ENVIRONMENT)
    if value and value not in SHARE_MEMORY:
        raise SettingsError(f"${SHARE_MEMORY_ENVIRONMENT}: {_expected_share_memory(value)}")


def _expected_share_memory(value: object) -> str:
    expected = " or ".join(quote(each) for each in SHARE_MEMORY)
    return f"expected {expected}, not {quote(value) if isinstance(value, str) else value}"


def _parse(data: bytes, path: str) -> Settings:
    if len(data) > _FILE_LIMIT_BYTES:
        raise SettingsError(f"{path}: longer than {_FILE_LIMIT_BYTES} bytes")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SettingsError(f"{path}:{line}: not UTF-8") from None
    import tomllib  # noqa: PLC0415 - most machines have no such file, and a `start` to answer

    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(_with_line(path, str(error))) from None
    checked: dict[str, Any] = {}
    for name, value in values.items():
        try:
            checked[name] = _checked(name, value)
        except _Wrong as error:
            raise SettingsError(f"{path}:{_line_of(text, name)}: {error}") from None
    return Settings(**checked)


def _with_line(path: str, text: str) -> str:
    """Turn tomllib's `TEXT (at line 3, column 7)` into `PATH:3: TEXT`."""
    found = re.fullmatch(r"(.*) \(at line (\d+), column \d+\)", text, re.DOTALL)
    return f"{path}:{found[2]}: {found[1]}" if found else f"{path}: {text}"


def _line_of(text: str, name: str) -> int:
    """Find the line of a top-level key or table, which tomllib does not report; 1 if not found."""
    key = re.escape(name)
    found = re.search(rf"""^[ \t]*\[*[ \t]*["']?{key}["']?[ \t]*[=.\]]""", text, re.MULTILINE)
    return text.count("\n", 0, found.end()) + 1 if found else 1


def _checked(name: str, value: object) -> object:
    if name not in _FIELDS:
        raise _Wrong(f"unknown setting {quote(name)}")
    if name.endswith("_s"):
        return _seconds(name, value)
    if name == "logging_binaries":
        return _programs(name, value)
    if name == "share_memory":
        if value not in SHARE_MEMORY:
            raise _Wrong(f"{name}: {_expected_share_memory(value)}")
        return value
    if not isinstance(value, bool):
        raise _Wrong(f"{name}: expected true or false")
    return value


def _seconds(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _Wrong(f"{name}: expected a number of seconds")
    lowest_ok = value >= 0 if name in _MAY_BE_ZERO else value > 0
    if not math.isfinite(value) or not lowest_ok or value > LONGEST_S:
        least = "0" if name in _MAY_BE_ZERO else "more than 0"
        raise _Wrong(f"{name}: expected {least} to {LONGEST_S:.0f} seconds, not {value}")
    return float(value)


def _programs(name: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise _Wrong(f"{name}: expected a list of absolute paths")
    for path in value:
        if not isinstance(path, str) or not os.path.isabs(path):
            raise _Wrong(f"{name}: expected absolute paths, not {path!r}")
    return tuple(value)
