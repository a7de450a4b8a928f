"""The `delete` action: removes what a dead shim left of one container.  It needs no event loop.

containerd runs it after every container, also after an ordinary removal, and kills it after 5 s.
So it does little, and nothing that could harm a live shim.  Most of its time is imports.  So the
reply is encoded by hand: importing protobuf and the messages would take 50 % longer.
"""

import contextlib
import logging
import os
import select
import signal
import time
from collections.abc import Mapping
from typing import Final

from shimv2 import log
from shimv2.actions.sockets import unlink_if_dead
from shimv2.gocompat import gojson
from shimv2.gocompat.gotext import os_error, quote
from shimv2.mounts.umount import (
    CRIU_ROOT,
    FUSERMOUNTS,
    NeedsFusermount,
    left_by_criu,
    unmount_recursive_now,
)
from shimv2.runtime import pidfile
from shimv2.runtime.command import CommandFailed
from shimv2.runtime.once import delete_force_now, run_now
from shimv2.task.exits import recorded_exit
from shimv2.values import paths
from shimv2.values.errors import Refused
from shimv2.values.model import Exit, Identity

RUNTIME_LIMIT_S: Final = 4.0  # containerd's 5 s, less the time for the steps after it
_DEATH_LIMIT_S: Final = 1.0
KILLED: Final = 137  # 128 + SIGKILL: reported when no exit was recorded
_OPTIONS: Final = gojson.Struct(
    "Options", {"root": "string", "binary_name": "string"}, package="options"
)
_SPEC: Final = gojson.Struct("Spec", {"annotations": gojson.StringMap("string")})

_log = logging.getLogger(__name__)


def delete(identity: Identity) -> bytes:
    """Clean up after container `identity.id` and return a serialized DeleteResponse.

    Every step is tried, even if an earlier one failed; each failure is a line on stderr.

    Raises:
        Refused, ValueError, OSError: the id is invalid, or the options file cannot be read.
    """
    log.setup_stderr(identity.name)
    if "/" in identity.id or identity.id in (".", ".."):  # it is part of a path that is unmounted
        raise Refused(f"invalid container id {quote(identity.id)}")
    bundle = paths.bundle_for_delete(os.getcwd(), identity.id)
    binary = _content(paths.runtime_file(bundle))
    options = _json(paths.options_file(bundle), _OPTIONS)
    pid, no_pid = _init_pid(paths.init_pid_file(bundle))
    # Read before the kill: afterwards an init that was running would look as if it had exited.
    ended = recorded_exit(bundle, container_id=identity.id, init_pid=pid) if pid else None

    root = paths.runtime_root(str(options.get("root") or ""), identity.namespace)
    state = os.path.join(root, identity.id)
    try:
        if any(os.path.isdir(os.path.join(folder, CRIU_ROOT)) for folder in (state, bundle)):
            _end_restore(bundle)  # otherwise it would use what is removed here
        for path in left_by_criu(bundle, state):
            unmount_recursive_now(path)  # otherwise the runtime would remove the mounts' contents
        delete_force_now(
            binary=binary or str(options.get("binary_name") or ""),
            root=root,
            log_path=paths.runtime_log(bundle),
            container_id=identity.id,
            timeout_s=RUNTIME_LIMIT_S,
        )
        _remove_empty(state)
    except (CommandFailed, OSError) as error:
        _warn("failed to remove runc container", error)
    for folder in (paths.rootfs(bundle), paths.idmapped_layers(paths.rootfs(bundle))):
        try:
            _unmount(folder)
        except (OSError, CommandFailed) as error:
            _warn("failed to cleanup rootfs mount", error, op="unmount")
    try:
        unlink_if_dead(_socket(bundle, identity))
    except PermissionError:
        pass  # rootless, and no address file: the default directory is root's
    except OSError as error:
        _warn("failed to remove the socket", error, op="unlink")
    if no_pid is not None:
        _warn("failed to read init pid file", no_pid)
    return delete_response(ended or Exit(pid, KILLED, time.time_ns()))


def _end_restore(bundle: str) -> None:
    """Kill what a dead shim left of a restore: the runtime, and CRIU, which outlives the runtime.

    The runtime is recognized by the log file in its command line, CRIU by its working directory.
    """
    log_path = os.fsencode(paths.runtime_log(bundle))
    work = os.path.realpath(paths.work_dir(bundle))
    for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))):
        try:
            if pid == os.getpid() or not _is_of_restore(pid, log_path, work):
                continue
            ended = os.pidfd_open(pid)
        except OSError:
            continue  # the process has ended
        try:
            signal.pidfd_send_signal(ended, signal.SIGKILL)
            select.select([ended], [], [], _DEATH_LIMIT_S)
        except ProcessLookupError:
            pass
        finally:
            os.close(ended)


def _is_of_restore(pid: int, log_path: bytes, work: str) -> bool:
    """Whether `log_path` is an argument of the process, or `work` its working directory."""
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        if log_path in file.read().split(b"\0"):
            return True
    return os.readlink(f"/proc/{pid}/cwd") == work


def _remove_empty(state: str) -> None:
    """Remove the empty directories of a restore that was killed before it wrote any state.

    runc does not know such a container and does not always remove them (seen: 1.1.5).
    """
    for folder in (os.path.join(state, CRIU_ROOT), state):
        with contextlib.suppress(OSError):
            os.rmdir(folder)


def _unmount(folder: str) -> None:
    while True:
        try:
            unmount_recursive_now(folder)
        except NeedsFusermount as error:
            _fusermount(error.path)
        else:
            return


def _fusermount(path: str) -> None:
    for name in FUSERMOUNTS:
        try:
            run_now([name, "-u", path], RUNTIME_LIMIT_S)
        except CommandFailed:
            if name == FUSERMOUNTS[-1]:
                raise
        else:
            return


def _warn(what: str, error: Exception, *, op: str = "open") -> None:
    text = os_error(error, op=op) if isinstance(error, OSError) else str(error)
    _log.warning("%s", what, extra={"error": text})


def _init_pid(path: str) -> tuple[int, Exception | None]:
    """Read the pid that the runtime wrote; 0 and the reason if there is none."""
    try:
        return pidfile.read(path), None
    except (OSError, ValueError) as error:
        return 0, error


def _socket(bundle: str, identity: Identity) -> str:
    """Return the socket path of the dead shim: from its address file, else computed.

    Go shims of 2.x write no address file, and leave their socket when they are killed.
    """
    path = _content(paths.address_file(bundle)).strip().removeprefix("unix://")
    if os.path.isabs(path):
        return path
    try:
        folder = os.readlink(paths.socket_dir_link(bundle))
    except OSError:
        folder = paths.SOCKET_DIR
    try:
        spec = _json(paths.config_file(bundle), _SPEC)
    except (OSError, ValueError):
        spec = {}
    annotations = spec.get("annotations")
    group = paths.group_id(annotations if isinstance(annotations, dict) else {}, identity.id)
    return paths.socket_path(identity.grpc_address, identity.namespace, group or "", folder=folder)


def _json(path: str, shape: gojson.Struct) -> Mapping[str, object]:
    """Read a JSON object; return an empty one when the file is missing.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no JSON object of this shape; Go's text.
    """
    data = _data(path)
    if data is None:
        return {}
    value = gojson.loads(data)
    gojson.check(value, shape)
    return value if isinstance(value, dict) else {}


def _content(path: str) -> str:
    return os.fsdecode(_data(path) or b"")


def _data(path: str) -> bytes | None:
    """Read a file of the bundle; return None when it is missing, as after a failed Create."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except (FileNotFoundError, NotADirectoryError):
        return None


# --- the answer ---------------------------------------------------------------------------------


def delete_response(ended: Exit) -> bytes:
    """Serialize containerd.task.v2.DeleteResponse (v3 is the same): pid, status, time.

    Without protobuf, whose import would take longer than the rest of the action (docs/adr/0005).
    """
    seconds, nanos = divmod(ended.at_ns, 1_000_000_000)
    at = _number(1, seconds) + _number(2, nanos)
    head = _number(1, ended.pid) + _number(2, ended.status)
    return head + bytes([3 << 3 | 2, len(at)]) + at


def _number(field: int, value: int) -> bytes:
    """Encode a varint field; 0 is left out, as proto3 does."""
    if not value:
        return b""
    raw = bytearray([field << 3])
    while value > 0x7F:
        raw.append(value & 0x7F | 0x80)
        value >>= 7
    raw.append(value)
    return bytes(raw)
