"""A Checkpoint is read once: its options are of exactly one type."""

from typing import Any

import pytest
from google.protobuf import any_pb2

from protos import runc_pb2, task_v2_pb2, task_v3_pb2
from shimv2.api import requests
from shimv2.values.errors import Refused
from shimv2.values.model import CheckpointSpec

NAME = "containerd.runc.v1.CheckpointOptions"


def request(
    url: str, value: bytes = b"", api: Any = task_v2_pb2
) -> task_v2_pb2.CheckpointTaskRequest:
    packed = any_pb2.Any(type_url=url, value=value)
    made: task_v2_pb2.CheckpointTaskRequest = api.CheckpointTaskRequest(
        id="c1", path="/i", options=packed
    )
    return made


@pytest.mark.rule("task.checkpoint.2")
@pytest.mark.parametrize("api", [task_v2_pb2, task_v3_pb2], ids=["v2", "v3"])
def test_checkpoint_is_read_with_all_fields(api: Any) -> None:
    """All fields with a meaning; the image's path is that of the request."""
    message = runc_pb2.CheckpointOptions(
        exit=True,
        open_tcp=True,
        external_unix_sockets=True,
        terminal=True,
        file_locks=True,
        empty_namespaces=["network", "ipc"],
        cgroups_mode="soft",
        image_path="/ignored",
        work_path="/w",
        parent_path="/p",
    )

    spec = requests.checkpoint_spec(request(NAME, message.SerializeToString(), api))

    assert spec == CheckpointSpec(
        path="/i",
        exit=True,
        open_tcp=True,
        external_unix_sockets=True,
        terminal=True,
        file_locks=True,
        empty_namespaces=("network", "ipc"),
        work_path="/w",
        parent_path="/p",
    )


def test_checkpoint_without_options_has_the_defaults() -> None:
    bare = task_v2_pb2.CheckpointTaskRequest(id="c1", path="/i")

    assert requests.checkpoint_spec(bare) == CheckpointSpec(path="/i")
    assert requests.checkpoint_spec(request(NAME)) == CheckpointSpec(path="/i")


@pytest.mark.parametrize(
    ("url", "value", "error"),
    [
        ("foo.Bar", b"", "type with url foo.Bar: not found"),
        ("", b"", "type with url : not found"),
        (
            f"type.googleapis.com/{NAME}",
            b"",
            f'can\'t unmarshal type "type.googleapis.com/{NAME}" to output "{NAME}"',
        ),
        (
            "containerd.runc.v1.Options",
            b"",
            f'can\'t unmarshal type "containerd.runc.v1.Options" to output "{NAME}"',
        ),
        (NAME, b"\xff", "proto: cannot parse invalid wire-format data"),
    ],
)
def test_other_options_are_refused_with_the_text_of_the_reference(
    url: str, value: bytes, error: str
) -> None:
    """Unlike with Create, a type URL with a prefix is another type, and an empty value is
    decoded."""
    with pytest.raises(Refused) as refusal:
        requests.checkpoint_spec(request(url, value))

    assert str(refusal.value) == error
