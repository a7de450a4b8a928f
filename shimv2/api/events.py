"""Converts the shim's events to containerd's topics and messages."""

import time
from typing import Final

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from protos import events_pb2, types_pb2
from shimv2.gocompat.anyurl import pack
from shimv2.values.model import (
    GO_ZERO_TIME_S,
    Created,
    Deleted,
    Event,
    ExecAdded,
    ExecStarted,
    Exit,
    Exited,
    Mount,
    Oom,
    Paused,
    Resumed,
    Started,
)

OOM_TOPIC: Final = "/tasks/oom"

_NS: Final = 1_000_000_000


def timestamp(at_ns: int) -> Timestamp:
    return Timestamp(seconds=at_ns // _NS, nanos=at_ns % _NS)


def exited_at(ended: Exit | None) -> Timestamp:
    """Return the exit time; Go's zero time while the process runs.

    An absent field would be read as 1970 by Go clients.
    """
    return timestamp(ended.at_ns) if ended else Timestamp(seconds=GO_ZERO_TIME_S)


def mount_message(mount: Mount) -> types_pb2.Mount:
    return types_pb2.Mount(
        type=mount.type, source=mount.source, target=mount.target, options=mount.options
    )


def topic_and_message(event: Event) -> tuple[str, Message]:
    """Return the topic and message of an event (containerd: core/runtime/events.go)."""
    match event:
        case Created(container_id, bundle, rootfs, stdio, checkpoint, pid):
            io = events_pb2.TaskIO(
                stdin=stdio.stdin,
                stdout=stdio.stdout,
                stderr=stdio.stderr,
                terminal=stdio.terminal,
            )
            return "/tasks/create", events_pb2.TaskCreate(
                container_id=container_id,
                bundle=bundle,
                rootfs=[mount_message(mount) for mount in rootfs],
                io=io,
                checkpoint=checkpoint,
                pid=pid,
            )
        case Started(container_id, pid):
            return "/tasks/start", events_pb2.TaskStart(container_id=container_id, pid=pid)
        case ExecAdded(container_id, exec_id):
            message = events_pb2.TaskExecAdded(container_id=container_id, exec_id=exec_id)
            return "/tasks/exec-added", message
        case ExecStarted(container_id, exec_id, pid):
            return "/tasks/exec-started", events_pb2.TaskExecStarted(
                container_id=container_id, exec_id=exec_id, pid=pid
            )
        case Exited(container_id, id_, ended):
            return "/tasks/exit", events_pb2.TaskExit(
                container_id=container_id,
                id=id_,
                pid=ended.pid,
                exit_status=ended.status,
                exited_at=exited_at(ended),
            )
        case Deleted(container_id, pid, ended):
            return "/tasks/delete", events_pb2.TaskDelete(
                container_id=container_id,
                pid=pid,
                exit_status=ended.status if ended else 0,
                exited_at=exited_at(ended),
            )
        case Paused(container_id):
            return "/tasks/paused", events_pb2.TaskPaused(container_id=container_id)
        case Resumed(container_id):
            return "/tasks/resumed", events_pb2.TaskResumed(container_id=container_id)
        case Oom(container_id):
            return OOM_TOPIC, events_pb2.TaskOOM(container_id=container_id)


def envelope(event: Event, namespace: str) -> types_pb2.Envelope:
    """Wrap `event` for containerd's events service, with the time it happened."""
    topic, message = topic_and_message(event)
    return types_pb2.Envelope(
        timestamp=timestamp(time.time_ns()),
        namespace=namespace,
        topic=topic,
        event=pack(message),
    )
