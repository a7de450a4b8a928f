"""The `-info` action: describes the shim and its runtime to containerd 2.0 and newer."""

import json
import os
import stat
from typing import Final

from google.protobuf.any_pb2 import Any
from google.protobuf.message import DecodeError

from protos.types_pb2 import RuntimeInfo, RuntimeVersion
from shimv2 import VERSION
from shimv2.api.requests import RUNC_OPTIONS, RUNTIME_OPTIONS, require_known, runtime_options
from shimv2.gocompat.anyurl import type_name
from shimv2.gocompat.gotext import os_error, quote
from shimv2.runtime.command import DEFAULT_BINARY, CommandFailed, look_up
from shimv2.runtime.once import features_now
from shimv2.values.errors import Refused, ShimError
from shimv2.values.model import RuncOptions

FEATURES_URL: Final = "types.containerd.io/opencontainers/runtime-spec/1/features/Features"
FEATURES_LIMIT_S: Final = 3.0


def runtime_info(name: str, stdin: bytes) -> bytes:
    """Return a serialized RuntimeInfo; `stdin` is an Any of runtime options, or empty.

    Raises:
        Refused: the options have another type, or the runtime they name is not found.
    """
    info = RuntimeInfo(name=name, version=RuntimeVersion(version=VERSION))
    options = RuncOptions()
    if stdin:
        packed = _packed(stdin)
        options = _options(packed)
        info.options.type_url = type_name(packed.type_url)  # without prefix: containerd compares it
        info.options.value = packed.value
    binary = options.binary_name or DEFAULT_BINARY
    try:
        path = _program(binary)
    except CommandFailed as error:
        raise Refused(f"failed to look up the path of {quote(binary)}: {error}") from None
    features = _features(path)
    if features:
        info.features.type_url = FEATURES_URL
        info.features.value = features
    return info.SerializeToString()


def _program(binary: str) -> str:
    """Return the runtime's path; a path with slashes is checked too, unlike in `look_up`.

    Raises:
        CommandFailed: there is no such program; Go's text.
    """
    path = look_up(binary)
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        raise CommandFailed(f"exec: {quote(binary)}: {os_error(error, op='stat')}") from None
    if stat.S_ISDIR(mode):
        raise CommandFailed(f"exec: {quote(binary)}: is a directory")
    if not mode & 0o111:
        raise CommandFailed(f"exec: {quote(binary)}: permission denied")
    return path


def _packed(stdin: bytes) -> Any:
    try:
        return Any.FromString(stdin)
    except DecodeError:
        why = "proto: cannot parse invalid wire-format data"
        raise Refused(f"failed to read runtime options (*options.Options): {why}") from None


def _options(packed: Any) -> RuncOptions:
    try:
        name = type_name(packed.type_url)
        if name not in (RUNC_OPTIONS, RUNTIME_OPTIONS):
            require_known(packed.type_url)
            go_type = f"*options.{name.rpartition('.')[2]}"  # Go's package of RUNC_OPTIONS
            raise Refused(f"invalid type {go_type}: invalid argument")
        return runtime_options(packed)
    except ShimError as error:
        raise Refused(f"failed to read runtime options (*options.Options): {error}") from None


def _features(path: str) -> bytes:
    """Return the runtime's features as JSON; empty if it has no verb `features`."""
    try:
        answer = features_now(path, timeout_s=FEATURES_LIMIT_S)
        known = json.loads(answer)
    except (CommandFailed, OSError, ValueError):
        return b""
    return answer if isinstance(known, dict) else b""
