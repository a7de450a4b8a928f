"""What an administrator can set for all shims, and a pod's author for one container.

The file is read once, by `start`, and handed on: a running shim never looks at it again.
"""

import dataclasses
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from shimv2.errors import InvalidArgument
from shimv2.gocompat.gotext import os_error, quote

DEFAULT_PATH: Final = "/etc/containerd-shim-pyrunc.toml"
ENVIRONMENT: Final = "PYRUNC_CONFIG"

_FILE_LIMIT_BYTES: Final = 1024 * 1024
_LONGEST_S: Final = 86_400.0


class SettingsError(Exception):
    """The settings file cannot be used; the text begins with the file and, if known, the line."""


class _Wrong(Exception):
    """What is wrong with one setting; the file and line are added by who knows them."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The defaults are those of a shim without a settings file.  Plain values only."""

    json_v3_reply: bool = False
    """Answer `start` of containerd 2.0 to 2.2 in JSON, version 3, as their own shim does."""

    drain_grace_s: float = 0.5
    """How long Delete waits after the last byte when somebody still holds the streams open."""

    drain_limit_s: float = 10.0
    """How long Delete waits for output that still moves."""

    exit_output_s: float = 0.25
    """How long an exit waits for a client that is there to take the output before it; 0 = not."""

    self_exit_s: float = 0.0
    """A shim without container and connection ends after so long; 0 = never, as the reference."""

    zygote: bool = True
    """Keep a warm process that later shims are forked from, where the launcher is installed."""

    zygote_linger_s: float = 60.0
    """How long it stays after the last of its shims."""

    logging_binaries: tuple[str, ...] | None = None
    """The programs that `binary://` may name, absolute paths; None = any."""

    # How long one verb of the runtime may take; then it is killed.
    create_s: float = 300.0
    restore_s: float = 300.0
    checkpoint_s: float = 300.0
    start_s: float = 30.0
    exec_s: float = 30.0
    delete_s: float = 30.0
    update_s: float = 30.0
    pause_s: float = 30.0
    resume_s: float = 30.0
    kill_s: float = 10.0


_FIELDS: Final = {field.name: field for field in dataclasses.fields(Settings)}
_MAY_BE_ZERO: Final = frozenset(
    {"drain_grace_s", "drain_limit_s", "exit_output_s", "self_exit_s", "zygote_linger_s"}
)


def load(path: str | None = None) -> Settings:
    """Read `path`, else what $PYRUNC_CONFIG names, else the usual file, which may be missing.

    Raises:
        SettingsError: a file that was asked for is missing, or the file is wrong.
    """
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
    """Bring tomllib's `what (at line 3, column 7)` into the form all our errors have."""
    found = re.fullmatch(r"(.*) \(at line (\d+), column \d+\)", text, re.DOTALL)
    return f"{path}:{found[2]}: {found[1]}" if found else f"{path}: {text}"


def _line_of(text: str, name: str) -> int:
    """Find the line a top-level key or table stands on; tomllib does not tell.  1 if in doubt."""
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
    if not isinstance(value, bool):
        raise _Wrong(f"{name}: expected true or false")
    return value


def _seconds(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _Wrong(f"{name}: expected a number of seconds")
    lowest_ok = value >= 0 if name in _MAY_BE_ZERO else value > 0
    if not math.isfinite(value) or not lowest_ok or value > _LONGEST_S:
        least = "0" if name in _MAY_BE_ZERO else "more than 0"
        raise _Wrong(f"{name}: expected {least} to {_LONGEST_S:.0f} seconds, not {value}")
    return float(value)


def _programs(name: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise _Wrong(f"{name}: expected a list of absolute paths")
    for path in value:
        if not isinstance(path, str) or not os.path.isabs(path):
            raise _Wrong(f"{name}: expected absolute paths, not {path!r}")
    return tuple(value)


# --- one container -----------------------------------------------------------------------------

BLOCK: Final = "block"
BUFFER: Final = "buffer"
DROP_OLDEST: Final = "drop-oldest"

POLICY_ANNOTATION: Final = "pyrunc.shim/stdio-policy"
GRACE_ANNOTATION: Final = "pyrunc.shim/drain-grace-ms"
HANGUP_ANNOTATION: Final = "pyrunc.shim/stdin-hangup-s"

BUFFER_LIMIT_BYTES: Final = 64 * 1024 * 1024
"""The most that an annotation can make a shim keep of one stream: who writes it is not root."""

_GRACE_LIMIT_MS: Final = 60_000


@dataclass(frozen=True, slots=True)
class ContainerPolicy:
    """How the streams of one container's processes are treated."""

    stdio_policy: str = BLOCK  # when nobody reads: BLOCK the writer, BUFFER, or DROP_OLDEST
    limit_bytes: int = 0  # of what is kept of one stream; 0 with BLOCK
    drain_grace_s: float = 0.5
    stdin_hangup_s: float | None = None  # from the last client's leaving to the end; None: no end


def container_policy(annotations: Mapping[str, str], settings: Settings) -> ContainerPolicy:
    """Read the annotations of an OCI configuration; what is not annotated is as in `settings`.

    Raises:
        InvalidArgument: an annotation of ours has a value that cannot be used.
    """
    stdio_policy, limit_bytes = _policy(annotations.get(POLICY_ANNOTATION, BLOCK))
    grace_s = settings.drain_grace_s
    if GRACE_ANNOTATION in annotations:
        grace_s = _number(annotations, GRACE_ANNOTATION, _GRACE_LIMIT_MS) / 1000
    hangup_s = None
    if HANGUP_ANNOTATION in annotations:
        hangup_s = float(_number(annotations, HANGUP_ANNOTATION, int(_LONGEST_S)))
    return ContainerPolicy(stdio_policy, limit_bytes, grace_s, hangup_s)


def _policy(text: str) -> tuple[str, int]:
    if text == BLOCK:
        return BLOCK, 0
    name, _, size = text.partition(":")
    if name in (BUFFER, DROP_OLDEST) and _is_number(size):
        limit_bytes = int(size)
        if 0 < limit_bytes <= BUFFER_LIMIT_BYTES:
            return name, limit_bytes
    expected = f"block, buffer:BYTES or drop-oldest:BYTES, at most {BUFFER_LIMIT_BYTES}"
    raise InvalidArgument(f"annotation {POLICY_ANNOTATION}={quote(text)}: expected {expected}")


def _number(annotations: Mapping[str, str], name: str, most: int) -> int:
    text = annotations[name]
    if not _is_number(text) or int(text) > most:
        raise InvalidArgument(f"annotation {name}={quote(text)}: expected 0 to {most}")
    return int(text)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 12  # int() takes time for thousands
