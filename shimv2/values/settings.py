"""Settings of the administrator for all shims, and annotations of one container.  Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from shimv2.gocompat.gotext import quote
from shimv2.values.errors import InvalidArgument

LONGEST_S: Final = 86_400.0
SHARE_MEMORY: Final = ("auto", "off")


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings file.  The defaults are those of a shim without one."""

    json_v3_reply: bool = False
    """Answer `start` of containerd 2.0 to 2.2 in JSON, version 3, as their own shim does."""

    drain_grace_s: float = 0.5
    """How long Delete waits after the last byte while a process holds the streams open."""

    drain_limit_s: float = 10.0
    """How long Delete waits for output that is still being copied."""

    exit_output_s: float = 0.25
    """How long an exit event waits for a connected reader to drain the output; 0 = not."""

    self_exit_s: float = 0.0
    """After how long a shim without container and connection ends; 0 = never, as the Go shim."""

    zygote: bool = True
    """Keep a zygote, from which later shims are forked, where the launcher is installed."""

    share_memory: str = "auto"
    """One of SHARE_MEMORY: "auto" shares the zygote's memory where that works, "off" never does."""

    zygote_linger_s: float = 60.0
    """How long the zygote stays after the last of its shims."""

    logging_binaries: tuple[str, ...] | None = None
    """The absolute paths of the programs that `binary://` may name; None = any."""

    # How long each command of the runtime may take; then the runtime is killed.
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


# --- one container -----------------------------------------------------------------------------

# The values of POLICY_ANNOTATION: what happens to output while no client reads it.
BLOCK: Final = "block"  # the container waits, as with the Go shim
BUFFER: Final = "buffer"  # it waits once `limit_bytes` are kept
DROP_OLDEST: Final = "drop-oldest"  # it never waits

POLICY_ANNOTATION: Final = "pyrunc.shim/stdio-policy"
GRACE_ANNOTATION: Final = "pyrunc.shim/drain-grace-ms"
HANGUP_ANNOTATION: Final = "pyrunc.shim/stdin-hangup-s"

BUFFER_LIMIT_BYTES: Final = 64 * 1024 * 1024
"""The largest limit that an annotation can set: its author need not be an administrator."""

_GRACE_LIMIT_MS: Final = 60_000


@dataclass(frozen=True, slots=True)
class IoPolicy:
    """How the streams of one container's processes are treated."""

    stdio_policy: str = BLOCK  # BLOCK, BUFFER or DROP_OLDEST
    limit_bytes: int = 0  # kept in memory per stream, beside pipe and FIFO; 0 with BLOCK
    drain_grace_s: float = 0.5  # how long Delete waits for a byte while a writer is left
    drain_limit_s: float = 10.0
    stdin_hangup_s: float | None = None  # from the last client's disconnect to EOF; None: no EOF
    exit_output_s: float = 0.25  # how long an exit event waits for a client to drain the output
    open_limit_s: float = 30.0  # for all output FIFOs together


def io_policy(annotations: Mapping[str, str], settings: Settings) -> IoPolicy:
    """Read the annotations of an OCI configuration; `settings` has the defaults.

    Raises:
        InvalidArgument: an annotation of this shim has an invalid value.
    """
    stdio_policy, limit_bytes = _policy(annotations.get(POLICY_ANNOTATION, BLOCK))
    grace_s = settings.drain_grace_s
    if GRACE_ANNOTATION in annotations:
        grace_s = _number(annotations, GRACE_ANNOTATION, _GRACE_LIMIT_MS) / 1000
    hangup_s = None
    if HANGUP_ANNOTATION in annotations:
        hangup_s = float(_number(annotations, HANGUP_ANNOTATION, int(LONGEST_S)))
    return IoPolicy(
        stdio_policy=stdio_policy,
        limit_bytes=limit_bytes,
        drain_grace_s=grace_s,
        drain_limit_s=settings.drain_limit_s,
        stdin_hangup_s=hangup_s,
        exit_output_s=settings.exit_output_s,
    )


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
    return text.isascii() and text.isdecimal() and len(text) <= 12  # int() is slow if it is long
