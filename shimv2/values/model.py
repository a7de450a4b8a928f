"""The values that the packages of the shim pass to each other: requests, exits, events.  Pure."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Final, Protocol

GO_ZERO_TIME_S: Final = -62_135_596_800
"""Go's zero time (year 1), in seconds: `exited_at` of a process that has not exited."""


@dataclass(frozen=True, slots=True)
class Identity:
    """The flags and environment that containerd started this shim with."""

    name: str  # io.containerd.X.vN, from argv[0] containerd-shim-X-vN
    namespace: str
    id: str  # of the first container of the group
    grpc_address: str  # the daemon's; only hashed into the name of the socket
    ttrpc_address: str  # the socket that takes events; "" = none
    debug: bool


@dataclass(frozen=True, slots=True)
class Exit:
    """How one process ended.  Recorded once: every reply and event has the same time."""

    pid: int
    status: int  # 0..255; 128 + the number of the signal that killed it
    at_ns: int  # CLOCK_REALTIME


@dataclass(frozen=True, slots=True)
class Mount:
    type: str
    source: str
    target: str
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Stdio:
    """The streams of a process, as the client gave them: FIFO paths, URIs, or "" for none."""

    stdin: str = ""
    stdout: str = ""
    stderr: str = ""
    terminal: bool = False


@dataclass(frozen=True, slots=True)
class RuncOptions:
    """`containerd.runc.v1.Options`; the names and defaults are containerd's."""

    no_pivot_root: bool = False
    no_new_keyring: bool = False
    shim_cgroup: str = ""
    io_uid: int = 0
    io_gid: int = 0
    binary_name: str = ""  # "" = runc
    root: str = ""  # "" = /run/containerd/runc
    criu_path: str = ""
    systemd_cgroup: bool = False
    criu_image_path: str = ""
    criu_work_path: str = ""
    task_api_address: str = ""
    task_api_version: int = 0

    def to_json(self) -> str:
        """Return the text of containerd's `options.json`: in field order, without zero values."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        given = {name: value for name, value in values.items() if value}
        return json.dumps(given, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class CreateSpec:
    id: str
    bundle: str
    rootfs: tuple[Mount, ...] = ()
    stdio: Stdio = Stdio()
    checkpoint: str = ""
    parent_checkpoint: str = ""
    options: RuncOptions = RuncOptions()


@dataclass(frozen=True, slots=True)
class CheckpointSpec:
    """A checkpoint to make; the names are those of `containerd.runc.v1.CheckpointOptions`."""

    path: str  # the directory of the image
    exit: bool = False  # end the container afterwards
    open_tcp: bool = False
    external_unix_sockets: bool = False
    terminal: bool = False
    file_locks: bool = False
    empty_namespaces: tuple[str, ...] = ()
    work_path: str = ""  # the directory of CRIU's logs; "" = in the bundle, removed afterwards
    parent_path: str = ""  # an earlier image, of which this one is a difference


@dataclass(frozen=True, slots=True)
class ExecSpec:
    id: str
    stdio: Stdio
    process: Mapping[str, object]  # the OCI process, with `terminal` as in the request


# --- events, in the order in which they occur --------------------------------------------------


@dataclass(frozen=True, slots=True)
class Created:
    container_id: str
    bundle: str
    rootfs: tuple[Mount, ...]
    stdio: Stdio
    checkpoint: str
    pid: int


@dataclass(frozen=True, slots=True)
class Started:
    container_id: str
    pid: int


@dataclass(frozen=True, slots=True)
class ExecAdded:
    container_id: str
    exec_id: str


@dataclass(frozen=True, slots=True)
class ExecStarted:
    container_id: str
    exec_id: str
    pid: int


@dataclass(frozen=True, slots=True)
class Exited:
    container_id: str
    id: str  # the container's id for its init, else the exec's
    exit: Exit


@dataclass(frozen=True, slots=True)
class Deleted:
    container_id: str
    pid: int
    exit: Exit | None  # None: it never ran


@dataclass(frozen=True, slots=True)
class Paused:
    container_id: str


@dataclass(frozen=True, slots=True)
class Resumed:
    container_id: str


@dataclass(frozen=True, slots=True)
class Oom:
    """The kernel killed a process of the container because memory ran out."""

    container_id: str


Event = Created | Started | ExecAdded | ExecStarted | Exited | Deleted | Paused | Resumed | Oom


class EventSink(Protocol):
    """Takes events in order.  `emit` does not wait and does not raise."""

    def emit(self, event: Event) -> None: ...


@dataclass(slots=True)  # not frozen: one is made for each State call
class ProcessState:
    """The reply to State."""

    id: str
    bundle: str
    pid: int
    status: str  # CREATED, RUNNING, PAUSING, PAUSED, STOPPED
    stdio: Stdio
    exit: Exit | None = None
