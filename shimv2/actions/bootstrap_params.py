"""The protobuf messages of `start`: containerd's request on stdin and the reply on stdout."""

from dataclasses import replace
from typing import Final, TypeVar

from google.protobuf.any_pb2 import Any
from google.protobuf.message import DecodeError, Message

from protos.bootstrap_pb2 import BootstrapParams, BootstrapResult
from shimv2.actions.start_request import Request
from shimv2.api.requests import RUNC_OPTIONS, RUNTIME_OPTIONS, runtime_options
from shimv2.gocompat.anyurl import type_name
from shimv2.values.errors import ShimError
from shimv2.values.model import Identity, RuncOptions

_DEBUG_LEVEL: Final = -4  # BootstrapParams.log_level: -4 and below means debug

M = TypeVar("M", bound=Message)


def read(identity: Identity, stdin: bytes) -> Request:
    """Parse stdin: BootstrapParams of containerd >= 2.3, else an Any of options, or nothing.

    An Any also parses as BootstrapParams, because both begin with a string and bytes.  So stdin
    counts as BootstrapParams only if its values equal those of the command line.
    """
    params = _parsed(BootstrapParams, stdin)
    named = (identity.id, identity.namespace)
    if params is not None and (params.instance_id, params.namespace) == named:
        return _new_request(identity, params)
    packed = _parsed(Any, stdin)
    options = RuncOptions() if packed is None else _options(packed)
    return Request(identity, options, "", new=False)


def result(version: int, address: str) -> bytes:
    """Serialize the reply to containerd 2.3 and newer."""
    reply = BootstrapResult(version=version, address=address, protocol="ttrpc")
    return reply.SerializeToString()


def _new_request(identity: Identity, params: BootstrapParams) -> Request:
    # The level decides, not the flag `-debug`, as in the Go shim.
    known = replace(
        identity,
        grpc_address=params.containerd_grpc_address,
        ttrpc_address=identity.ttrpc_address or params.containerd_ttrpc_address,
        debug=params.log_level <= _DEBUG_LEVEL,
    )
    options = RuncOptions()
    for extension in params.extensions:
        if type_name(extension.value.type_url) in (RUNC_OPTIONS, RUNTIME_OPTIONS):
            options = _options(extension.value)
    return Request(known, options, params.socket_dir, new=True)


def _options(packed: Any) -> RuncOptions:
    """Unpack the options; errors are ignored, because Create gets the same options and reports."""
    try:
        return runtime_options(packed)
    except ShimError:
        return RuncOptions()


def _parsed(kind: type[M], data: bytes) -> M | None:
    try:
        return kind.FromString(data)
    except DecodeError:
        return None
