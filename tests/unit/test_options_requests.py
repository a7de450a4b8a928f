"""Requests of Exec and Update are read once, here."""

import json
from typing import Any

import pytest
from google.protobuf import any_pb2

from protos import task_v2_pb2, task_v3_pb2
from shimv2.api import requests
from shimv2.values.errors import InvalidArgument, Refused
from shimv2.values.model import Stdio

APIS = [task_v2_pb2, task_v3_pb2]
PROCESS_URL = "types.containerd.io/opencontainers/runtime-spec/1/Process"


def exec_request(value: bytes, *, terminal: bool = False) -> task_v2_pb2.ExecProcessRequest:
    return task_v2_pb2.ExecProcessRequest(
        id="c1",
        exec_id="e1",
        terminal=terminal,
        stdin="/in",
        stdout="/out",
        stderr="/err",
        spec=any_pb2.Any(type_url=PROCESS_URL, value=value),
    )


def test_exec_is_read_with_all_fields() -> None:
    value = {"args": ["sh", "-c", "true"], "cwd": "/", "futureField": {"x": 1}}

    spec = requests.exec_spec(exec_request(json.dumps(value).encode()))

    assert (spec.id, spec.stdio) == ("e1", Stdio("/in", "/out", "/err", False))
    assert spec.process == {**value, "terminal": False}


@pytest.mark.rule("task.exec.2")
@pytest.mark.parametrize("api", APIS, ids=["v2", "v3"])
def test_exec_with_any_type_url_is_read(api: Any) -> None:
    """The type URL is ignored."""
    spec = any_pb2.Any(type_url="odd", value=b'{"args":["a"]}')
    request = api.ExecProcessRequest(exec_id="e1", spec=spec)

    assert requests.exec_spec(request).process["args"] == ["a"]


@pytest.mark.rule("task.exec.6")
@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("value", [b'{"terminal":true}', b'{"TERMINAL":true,"Terminal":false}'])
def test_terminal_of_the_request_overrides_that_of_the_spec(terminal: bool, value: bytes) -> None:
    """Go reads any spelling, so only ours may remain."""
    assert requests.exec_spec(exec_request(value, terminal=terminal)).process == {
        "terminal": terminal
    }


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (b"bad", "invalid JSON: Expecting value: line 1 column 1 (char 0)"),
        (b"", "invalid JSON: Expecting value: line 1 column 1 (char 0)"),
        (
            b'{"args":"x"}',
            "json: cannot unmarshal string into Go struct field Process.args of type []string",
        ),
        (b"[]", "json: cannot unmarshal array into Go value of type specs.Process"),
    ],
)
def test_exec_without_a_process_is_refused_with_the_text_of_go(value: bytes, error: str) -> None:
    """Clients see Go's text of the JSON error."""
    with pytest.raises(Refused) as caught:
        requests.exec_spec(exec_request(value))

    assert str(caught.value) == error


def test_exec_of_null_is_an_empty_process() -> None:
    """As in Go; the runtime then reports what is missing."""
    assert requests.exec_spec(exec_request(b"null")).process == {"terminal": False}


def test_exec_without_a_spec_is_an_invalid_argument() -> None:
    """The reference crashes."""
    with pytest.raises(InvalidArgument):
        requests.exec_spec(task_v2_pb2.ExecProcessRequest(id="c1", exec_id="e1"))


@pytest.mark.parametrize("api", APIS, ids=["v2", "v3"])
def test_update_is_passed_through(api: Any) -> None:
    """JSON of LinuxResources under any URL."""
    value = {"pids": {"limit": 55}, "new": {"x": [1]}}
    request = api.UpdateTaskRequest(
        id="c1", resources=any_pb2.Any(type_url="odd", value=json.dumps(value).encode())
    )

    assert requests.resources(request) == value


LIMIT_FIELD = "Go struct field LinuxMemory.memory.limit of type int64"


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (b"bad", "invalid JSON: Expecting value: line 1 column 1 (char 0)"),
        (
            b'{"memory":{"limit":"x"}}',
            f"json: cannot unmarshal string into {LIMIT_FIELD}",
        ),
    ],
)
def test_update_without_resources_is_refused_with_the_text_of_go(value: bytes, error: str) -> None:
    """Clients see Go's text of the JSON error."""
    request = task_v2_pb2.UpdateTaskRequest(resources=any_pb2.Any(value=value))
    with pytest.raises(Refused) as caught:
        requests.resources(request)

    assert str(caught.value) == error


def test_update_without_resources_is_an_invalid_argument() -> None:
    """The reference crashes."""
    with pytest.raises(InvalidArgument):
        requests.resources(task_v2_pb2.UpdateTaskRequest(id="c1"))
