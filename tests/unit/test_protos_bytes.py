"""Golden bytes: the encoding of some messages, as Go writes and reads it."""

import pytest
from google.protobuf.any_pb2 import Any
from google.protobuf.message import DecodeError, Message
from google.protobuf.timestamp_pb2 import Timestamp

from protos import (
    bootstrap_pb2,
    cgroups_v1_pb2,
    cgroups_v2_pb2,
    events_pb2,
    runc_pb2,
    runtimeoptions_pb2,
    task_types_pb2,
    task_v2_pb2,
    task_v3_pb2,
    ttrpc_events_pb2,
    types_pb2,
)
from ttrpc import _wire_pb2

ZERO_TIME = Timestamp(seconds=-62135596800)  # year 1, Go's time.Time{}: "has not exited"
UINT64_MAX = 2**64 - 1  # a limit of "max"

CONNECT_REQUEST = _wire_pb2.Request(
    service="containerd.task.v2.Task",
    method="Connect",
    payload=task_v2_pb2.ConnectRequest(id="c1").SerializeToString(),
)
UNIMPLEMENTED = _wire_pb2.Response(status=_wire_pb2.Status(code=12, message="service foo"))
WITH_TIMEOUT = _wire_pb2.Request(
    timeout_nano=5_000_000_000,
    metadata=[
        _wire_pb2.KeyValue(key="k", value="1"),
        _wire_pb2.KeyValue(key="k", value="2"),
    ],
)
FORWARD = ttrpc_events_pb2.ForwardRequest(
    envelope=types_pb2.Envelope(
        namespace="ns",
        topic="/tasks/oom",
        event=Any(
            type_url="containerd.events.TaskOOM",
            value=events_pb2.TaskOOM(container_id="c1").SerializeToString(),
        ),
    )
)
RUNNING = task_v2_pb2.StateResponse(
    id="c1", pid=300, status=task_types_pb2.RUNNING, exited_at=ZERO_TIME
)

GOLDEN = {
    "ttrpc 2.9: a unary request": (
        CONNECT_REQUEST,
        "0a17 636f6e7461696e6572642e7461736b2e76322e5461736b 1207 436f6e6e656374 1a04 0a026331",
    ),
    "ttrpc 2.9: an error": (UNIMPLEMENTED, "0a0f 080c 120b 7365727669636520666f6f"),
    "ttrpc 2.9: success without a payload": (_wire_pb2.Response(), ""),
    "ttrpc 2.1: nanoseconds, and a key that comes twice": (
        WITH_TIMEOUT,
        "2080e497d012 2a06 0a016b 120131 2a06 0a016b 120132",
    ),
    "a negative int32 takes ten bytes": (
        _wire_pb2.Status(code=-1),
        "08 ffffffffffffffffff01",
    ),
    "task API State: the zero time is there": (
        RUNNING,
        "0a026331 18ac02 2002 520b 088092b8c398feffffff01",
    ),
    "the type URL is bare": (
        FORWARD,
        (
            "0a33 1202 6e73 1a0a 2f7461736b732f6f6f6d"
            "2221 0a19 636f6e7461696e6572642e6576656e74732e5461736b4f4f4d 1204 0a026331"
        ),
    ),
    "io without stdio has no bytes": (
        events_pb2.TaskCreate(container_id="c1", io=events_pb2.TaskIO(), pid=7),
        "0a026331 2200 3007",
    ),
    "a negative enum takes ten bytes": (
        bootstrap_pb2.BootstrapParams(log_level=bootstrap_pb2.LOG_LEVEL_DEBUG),
        "18 fcffffffffffffffff01",
    ),
    "a folder that is empty, not absent": (
        bootstrap_pb2.BootstrapParams(socket_dir=""),
        "4a00",
    ),
    "a packed enum": (
        bootstrap_pb2.BootstrapResult(
            version=3, protocol="ttrpc", capabilities=[bootstrap_pb2.CAPABILITY_UNSPECIFIED]
        ),
        "0803 1a05 7474727063 2201 00",
    ),
    "the limit max": (
        cgroups_v2_pb2.Metrics(pids=cgroups_v2_pb2.PidsStat(current=1, limit=UINT64_MAX)),
        "0a0d 0801 10 ffffffffffffffffff01",
    ),
    "field 4 comes after field 2": (
        cgroups_v2_pb2.Metrics(
            cpu=cgroups_v2_pb2.CPUStat(usage_usec=1), memory=cgroups_v2_pb2.MemoryStat()
        ),
        "1202 0801 2200",
    ),
    "pressure is a double": (
        cgroups_v2_pb2.PSIData(avg10=0.5, total=1),
        "09 000000000000e03f 2001",
    ),
    "numbers per CPU are packed": (
        cgroups_v1_pb2.CPUUsage(per_cpu=[1, 300]),
        "2203 01 ac02",
    ),
    "an entry of a map": (
        task_v3_pb2.UpdateTaskRequest(annotations={"k": "v"}),
        "1a06 0a016b 120176",
    ),
}


@pytest.mark.parametrize("case", GOLDEN)
def test_message_has_the_bytes_of_the_reference(case: str) -> None:
    """The case of that name is encoded and decoded."""
    message, digits = GOLDEN[case]
    wire = bytes.fromhex(digits)

    assert message.SerializeToString().hex() == wire.hex()
    assert type(message).FromString(wire) == message


@pytest.mark.parametrize(
    ("message", "url"),
    [
        (events_pb2.TaskExit, "containerd.events.TaskExit"),
        (runc_pb2.Options, "containerd.runc.v1.Options"),
        (runc_pb2.CheckpointOptions, "containerd.runc.v1.CheckpointOptions"),
        (runc_pb2.ProcessDetails, "containerd.runc.v1.ProcessDetails"),
        (runtimeoptions_pb2.Options, "runtimeoptions.v1.Options"),
        (cgroups_v1_pb2.Metrics, "io.containerd.cgroups.v1.Metrics"),
        (cgroups_v2_pb2.Metrics, "io.containerd.cgroups.v2.Metrics"),
    ],
)
def test_full_name_is_the_type_url_that_go_compares(message: type[Message], url: str) -> None:
    """The bare full name, no prefix and no slash."""
    assert message.DESCRIPTOR.full_name == url


def test_unknown_level_is_kept() -> None:
    """A level between the known ones is kept."""
    params = bootstrap_pb2.BootstrapParams.FromString(bytes.fromhex("18faffffffffffffffff01"))

    assert params.log_level == -6


def test_absent_socket_folder_differs_from_an_empty_one() -> None:
    """socket_dir is optional."""
    assert not bootstrap_pb2.BootstrapParams().HasField("socket_dir")
    assert bootstrap_pb2.BootstrapParams(socket_dir="").HasField("socket_dir")


def test_absent_status_differs_from_an_empty_one() -> None:
    """Success has no status; a status with code 0 is encoded as 0a00."""
    assert not _wire_pb2.Response.FromString(b"").HasField("status")
    assert _wire_pb2.Response.FromString(b"\x0a\x00").HasField("status")


def test_criu_path_of_an_old_daemon_is_read() -> None:
    """Daemons since 2.0 have field 8 reserved, those of 1.x send it."""
    options = runc_pb2.Options.FromString(bytes.fromhex("3201 72 4204 63726975 4801"))

    assert (options.binary_name, options.systemd_cgroup) == ("r", True)
    assert options.criu_path == "criu"


def test_field_of_a_newer_daemon_is_ignored() -> None:
    """Unknown fields of every wire type are skipped."""
    newer = bytes.fromhex("0a026331 fa0101 78 f80101 fd0100000000 f9010000000000000000 1001")
    request = task_v2_pb2.ShutdownRequest.FromString(newer)

    assert (request.id, request.now) == ("c1", True)


def test_string_that_is_not_utf8_is_refused() -> None:
    """Go refuses it as well."""
    with pytest.raises(DecodeError):
        task_v2_pb2.StateRequest.FromString(b"\x0a\x01\xff")


def test_time_before_1970_has_positive_nanoseconds() -> None:
    """Seconds are negative, nanoseconds positive."""
    stamp = Timestamp()
    stamp.FromNanoseconds(-1)

    assert (stamp.seconds, stamp.nanos) == (-1, 999_999_999)
