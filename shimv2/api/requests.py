"""Turns requests into specs.  All validation of requests is here.

The same functions serve the task services v2 and v3: their messages differ in the package only.
"""

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any, Final

from google.protobuf import any_pb2, descriptor_pool
from google.protobuf.message import DecodeError

from protos import runc_pb2, runtimeoptions_pb2, task_v2_pb2, task_v3_pb2
from shimv2.gocompat import gojson
from shimv2.gocompat.anyurl import type_name
from shimv2.gocompat.gotext import os_error, quote
from shimv2.values import oci
from shimv2.values.errors import InvalidArgument, Refused
from shimv2.values.model import CheckpointSpec, CreateSpec, ExecSpec, Mount, RuncOptions, Stdio

log = logging.getLogger(__name__)

RUNC_OPTIONS: Final = "containerd.runc.v1.Options"
RUNTIME_OPTIONS: Final = "runtimeoptions.v1.Options"
CHECKPOINT_OPTIONS: Final = "containerd.runc.v1.CheckpointOptions"

_UNREADABLE: Final = "proto: cannot parse invalid wire-format data"
_CONFIG_LIMIT_BYTES: Final = 1024 * 1024
_FIELDS: Final = {field.name: field for field in dataclasses.fields(RuncOptions)}

CreateRequest = task_v2_pb2.CreateTaskRequest | task_v3_pb2.CreateTaskRequest
ExecRequest = task_v2_pb2.ExecProcessRequest | task_v3_pb2.ExecProcessRequest
CheckpointRequest = task_v2_pb2.CheckpointTaskRequest | task_v3_pb2.CheckpointTaskRequest
UpdateRequest = task_v2_pb2.UpdateTaskRequest | task_v3_pb2.UpdateTaskRequest


def create_spec(request: CreateRequest) -> CreateSpec:
    """Build a CreateSpec from a Create request.

    Raises:
        Refused, InvalidArgument: its options are unknown, unreadable or of another type.
    """
    return CreateSpec(
        id=request.id,
        bundle=request.bundle,
        rootfs=tuple(
            Mount(mount.type, mount.source, mount.target, tuple(mount.options))
            for mount in request.rootfs
        ),
        stdio=_stdio(request),
        checkpoint=request.checkpoint,
        parent_checkpoint=request.parent_checkpoint,
        options=runtime_options(request.options if request.HasField("options") else None),
    )


def exec_spec(request: ExecRequest) -> ExecSpec:
    """Build an ExecSpec from an Exec request; its spec is the JSON of an OCI process.

    The spec's type URL is ignored, as in the Go shim.

    Raises:
        InvalidArgument: the request has no spec.
        Refused: the spec is not JSON or not a process; Go's text.
    """
    if not request.HasField("spec"):
        raise InvalidArgument("exec without a process spec")
    process = _json_value(request.spec.value, oci.PROCESS)
    # Go matches member names in any case, so other spellings are removed.
    process = {name: value for name, value in process.items() if name.lower() != "terminal"}
    process["terminal"] = request.terminal
    return ExecSpec(id=request.exec_id, stdio=_stdio(request), process=process)


def checkpoint_spec(request: CheckpointRequest) -> CheckpointSpec:
    """Build a CheckpointSpec from a Checkpoint request.

    Raises:
        Refused: its options have an unknown or another type, or cannot be parsed.
    """
    message = runc_pb2.CheckpointOptions()
    if request.HasField("options"):
        message = _checkpoint_options(request.options)
    return CheckpointSpec(
        path=request.path,
        exit=message.exit,
        open_tcp=message.open_tcp,
        external_unix_sockets=message.external_unix_sockets,
        terminal=message.terminal,
        file_locks=message.file_locks,
        empty_namespaces=tuple(message.empty_namespaces),
        work_path=message.work_path,
        parent_path=message.parent_path,
    )


def resources(request: UpdateRequest) -> Mapping[str, object]:
    """Return the OCI LinuxResources of an Update request; the type URL is ignored.

    Raises:
        InvalidArgument: the request has no resources.
        Refused: they are not JSON or not LinuxResources; Go's text.
    """
    if not request.HasField("resources"):
        raise InvalidArgument("update without resources")
    return _json_value(request.resources.value, oci.RESOURCES)


def _stdio(request: CreateRequest | ExecRequest) -> Stdio:
    return Stdio(request.stdin, request.stdout, request.stderr, request.terminal)


def _json_value(data: bytes, shape: gojson.Struct) -> dict[str, Any]:
    try:
        value = gojson.loads(data)
        gojson.check(value, shape)
    except gojson.JsonError as error:
        raise Refused(str(error)) from None
    return value if isinstance(value, dict) else {}  # JSON null: Go leaves all fields empty


def _checkpoint_options(packed: any_pb2.Any) -> runc_pb2.CheckpointOptions:
    if packed.type_url != CHECKPOINT_OPTIONS:
        require_known(packed.type_url)
        given, wanted = quote(packed.type_url), quote(CHECKPOINT_OPTIONS)
        raise Refused(f"can't unmarshal type {given} to output {wanted}")
    try:
        return runc_pb2.CheckpointOptions.FromString(packed.value)
    except DecodeError:
        raise Refused(_UNREADABLE) from None


def require_known(url: str) -> None:
    """Raise Refused, with Go's text, if the type URL names no known message."""
    try:
        descriptor_pool.Default().FindMessageTypeByName(type_name(url))
    except KeyError:
        raise Refused(f"type with url {url}: not found") from None


# --- options of the runtime --------------------------------------------------------------------


def runtime_options(packed: any_pb2.Any | None) -> RuncOptions:
    """Unpack the options of Create, `start` or `-info`; without a value, return the defaults.

    Raises:
        Refused: the type is unknown, or the value cannot be parsed.
        InvalidArgument: the type is known but is no runtime option, or the TOML is wrong.
    """
    if packed is None or not packed.value:  # like the Go shim, which ignores the URL then
        return RuncOptions()
    name = type_name(packed.type_url)
    try:
        if name == RUNC_OPTIONS:
            return _from_message(runc_pb2.Options.FromString(packed.value))
        if name == RUNTIME_OPTIONS:
            return _from_config(runtimeoptions_pb2.Options.FromString(packed.value))
    except DecodeError:
        raise Refused(_UNREADABLE) from None
    require_known(packed.type_url)
    raise InvalidArgument(f"options of type {name}, not {RUNC_OPTIONS}")


def _from_message(message: runc_pb2.Options) -> RuncOptions:
    return RuncOptions(**{field.name: value for field, value in message.ListFields()})


def _from_config(message: runtimeoptions_pb2.Options) -> RuncOptions:
    """Read `runtimeoptions.v1.Options`, which CRI sends to runtimes it does not know.

    It has a TOML text or names a TOML file.  The text may be a whole section of containerd's
    configuration, so a key that is not an option is logged as a warning and ignored.
    """
    where = message.config_path or "options"
    body = bytes(message.config_body)
    if not body and message.config_path:
        try:
            with open(message.config_path, "rb") as file:
                body = file.read(_CONFIG_LIMIT_BYTES)
        except OSError as error:
            raise InvalidArgument(f"runtime options: {os_error(error)}") from None
    import tomllib  # noqa: PLC0415 - few clients send a file, and each shim would have the module

    try:
        return _from_values(tomllib.loads(body.decode()), where)
    except ValueError as error:  # TOMLDecodeError and UnicodeDecodeError among them
        raise InvalidArgument(f"runtime options in {where}: {error}") from None


def _from_values(values: Mapping[str, Any], where: str) -> RuncOptions:
    """Pick the options by name, in CamelCase (BinaryName) or snake_case (binary_name).

    Raises:
        ValueError: a value has the wrong type.
    """
    known = {name.replace("_", ""): name for name in _FIELDS}
    options: dict[str, Any] = {}
    for key, value in values.items():
        name = known.get(key.lower().replace("_", ""))
        if name is None:
            log.warning("runtime options in %s: unknown key %s is ignored", where, quote(key))
            continue
        _require_type(key, value, _FIELDS[name].default)
        options[name] = value
    return RuncOptions(**options)


def _require_type(key: str, value: object, default: object) -> None:
    wanted = type(default)
    if type(value) is not wanted:  # not isinstance(): a bool is an int in Python
        raise ValueError(f"{key}: expected {wanted.__name__}, not {type(value).__name__}")
    if isinstance(value, int) and not 0 <= value <= 0xFFFF_FFFF:
        raise ValueError(f"{key}: {value} is out of range")
