"""The reply and the stdin of a shim's `start`, for each generation of containerd.  Pure."""

import json
from dataclasses import dataclass
from enum import Enum
from typing import Final, Literal

from google.protobuf import any_pb2
from google.protobuf.message import DecodeError

from protos import bootstrap_pb2, runc_pb2

Form = Literal["plain", "json", "protobuf"]
OPTIONS_URL: Final = "containerd.runc.v1.Options"
_MAX_VERSION: Final = 3


class Generation(Enum):
    """The containerd that the harness imitates: its stdin, environment and accepted replies."""

    V1_6 = "1.6"  # stdin: the runtime options as a bare Any, or nothing; reply: the plain address
    V1_7 = "1.7"  # the same stdin; the reply may be JSON, version 2
    V2_0 = "2.0"  # the same stdin; JSON up to version 3
    V2_3 = "2.3"  # stdin: BootstrapParams; reply: BootstrapResult

    @property
    def forms(self) -> tuple[Form, ...]:
        if self is Generation.V1_6:
            return ("plain",)
        return ("plain", "json") if self is not Generation.V2_3 else ("protobuf", "json", "plain")


class BadReply(ValueError):
    """`start` succeeded, but this generation of containerd does not accept its reply."""


@dataclass(frozen=True, slots=True)
class Reply:
    """The shim's address and the version of the Task service that it announces."""

    address: str
    version: int = 2
    protocol: str = "ttrpc"
    form: Form = "plain"

    @property
    def path(self) -> str:
        return self.address.removeprefix("unix://")

    def to_json(self) -> str:
        what = {"version": self.version, "address": self.address, "protocol": self.protocol}
        return json.dumps(what)

    @classmethod
    def parse(cls, output: bytes, *, generation: Generation = Generation.V2_3) -> "Reply":
        """Parse a reply as that generation of containerd does.

        Raises:
            BadReply: containerd would refuse it.
        """
        reply = cls._from_protobuf(output) or cls._from_json(output) or cls._from_text(output)
        if reply.form not in generation.forms:
            msg = f"containerd {generation.value} does not understand a {reply.form} reply"
            raise BadReply(msg)
        newest = 2 if generation in {Generation.V1_6, Generation.V1_7} else _MAX_VERSION
        if not 2 <= reply.version <= newest:
            msg = f"unsupported shim version ({reply.version}): not implemented"
            raise BadReply(msg)
        if reply.protocol != "ttrpc":
            msg = f"unexpected protocol: {reply.protocol!r}"
            raise BadReply(msg)
        return reply

    @classmethod
    def _from_protobuf(cls, output: bytes) -> "Reply | None":
        # A text reply never parses: "{" and "u" as tags have an invalid wire type.
        try:
            result = bootstrap_pb2.BootstrapResult.FromString(output)
        except DecodeError:
            return None
        return cls(result.address, result.version, result.protocol, "protobuf")

    @classmethod
    def _from_json(cls, output: bytes) -> "Reply | None":
        try:
            what = json.loads(output)
        except ValueError:
            return None
        if not isinstance(what, dict):
            return None
        try:
            return cls(str(what["address"]), int(what["version"]), str(what["protocol"]), "json")
        except (KeyError, ValueError):
            msg = f"not a reply: {what!r}"
            raise BadReply(msg) from None

    @classmethod
    def _from_text(cls, output: bytes) -> "Reply":
        text = output.decode(errors="replace").strip()
        if not text.startswith("unix://"):
            msg = f"not the address of a socket: {text!r}"
            raise BadReply(msg)
        return cls(text)


def pack(url: str, value: bytes) -> any_pb2.Any:
    """Return an Any with the bare type name (no slash), which containerd compares exactly."""
    return any_pb2.Any(type_url=url, value=value)


def runc_options(
    *, binary_name: str = "", root: str = "", io_uid: int = 0, io_gid: int = 0
) -> any_pb2.Any | None:
    """Return the runtime's options as containerd passes them, or None when all are defaults."""
    options = runc_pb2.Options(binary_name=binary_name, root=root, io_uid=io_uid, io_gid=io_gid)
    value = options.SerializeToString()
    return pack(OPTIONS_URL, value) if value else None
