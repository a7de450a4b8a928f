"""Requests are read once, and all their errors are found there."""

from pathlib import Path
from typing import Any

import pytest
from google.protobuf import any_pb2
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from protos import runc_pb2, runtimeoptions_pb2, task_v2_pb2, task_v3_pb2, types_pb2
from shimv2.api import requests
from shimv2.values.errors import InvalidArgument, Refused, ShimError
from shimv2.values.model import Mount, RuncOptions, Stdio

APIS = [task_v2_pb2, task_v3_pb2]
PROCESS_URL = "types.containerd.io/opencontainers/runtime-spec/1/Process"


def packed(message: Message, url: str | None = None) -> any_pb2.Any:
    name = message.DESCRIPTOR.full_name
    return any_pb2.Any(type_url=name if url is None else url, value=message.SerializeToString())


def generic(body: bytes = b"", path: str = "") -> any_pb2.Any:
    return packed(runtimeoptions_pb2.Options(config_body=body, config_path=path))


# --- Create ------------------------------------------------------------------------------------


@pytest.mark.parametrize("api", APIS, ids=["v2", "v3"])
def test_create_is_read_with_all_fields(api: Any) -> None:
    """Every field of the request is read, in both services."""
    request = api.CreateTaskRequest(
        id="c1",
        bundle="/b",
        rootfs=[types_pb2.Mount(type="bind", source="/s", target="t", options=["rbind", "ro"])],
        terminal=True,
        stdin="/in",
        stdout="/out",
        stderr="/err",
        checkpoint="/cp",
        parent_checkpoint="/pcp",
        options=packed(runc_pb2.Options(binary_name="crun", systemd_cgroup=True)),
    )

    spec = requests.create_spec(request)

    assert (spec.id, spec.bundle, spec.checkpoint, spec.parent_checkpoint) == (
        "c1",
        "/b",
        "/cp",
        "/pcp",
    )
    assert spec.rootfs == (Mount("bind", "/s", "t", ("rbind", "ro")),)
    assert spec.stdio == Stdio("/in", "/out", "/err", True)
    assert spec.options == RuncOptions(binary_name="crun", systemd_cgroup=True)


def test_create_without_options_has_the_defaults() -> None:
    assert requests.create_spec(task_v2_pb2.CreateTaskRequest(id="c1")).options == RuncOptions()


# --- runtime options ---------------------------------------------------------------------------


@pytest.mark.rule("task.create.2", "options.runc.6")
def test_every_option_arrives() -> None:
    """The fields of containerd.runc.v1.Options."""
    message = runc_pb2.Options(
        no_pivot_root=True,
        no_new_keyring=True,
        shim_cgroup="/cg",
        io_uid=1,
        io_gid=4294967295,
        binary_name="/usr/bin/crun",
        root="/r",
        systemd_cgroup=True,
        criu_image_path="/i",
        criu_work_path="/w",
        task_api_address="a",
        task_api_version=3,
    )

    assert requests.runtime_options(packed(message)) == RuncOptions(
        no_pivot_root=True,
        no_new_keyring=True,
        shim_cgroup="/cg",
        io_uid=1,
        io_gid=4294967295,
        binary_name="/usr/bin/crun",
        root="/r",
        systemd_cgroup=True,
        criu_image_path="/i",
        criu_work_path="/w",
        task_api_address="a",
        task_api_version=3,
    )


@pytest.mark.rule("task.create.2")
def test_options_with_a_prefixed_url_are_read() -> None:
    """Options are `containerd.runc.v1.Options`, under their bare name or a prefixed one; any other
    type is refused with code 2 if it has a value.
    """
    url = "type.googleapis.com/containerd.runc.v1.Options"

    assert requests.runtime_options(packed(runc_pb2.Options(root="/r"), url)).root == "/r"


@pytest.mark.rule("options.runc.5")
def test_criu_path_of_an_old_daemon_is_read() -> None:
    """Field 8 is reserved since 2.0; accepted from 1.x daemons."""
    any_ = any_pb2.Any(type_url="containerd.runc.v1.Options", value=b"\x42\x04/cri\x3a\x02/r")

    assert requests.runtime_options(any_) == RuncOptions(root="/r", criu_path="/cri")


@pytest.mark.rule("task.create.2")
@pytest.mark.parametrize("url", ["foo.Bar", "", "containerd.runc.v1.CheckpointOptions"])
def test_options_without_a_value_are_the_defaults(url: str) -> None:
    """The type URL of an empty value is ignored."""
    assert requests.runtime_options(any_pb2.Any(type_url=url)) == RuncOptions()


@pytest.mark.rule("task.create.2")
@pytest.mark.parametrize("url", ["foo.Bar", "", "x/y/foo.Bar", "bad type!"])
def test_options_of_an_unknown_type_are_refused(url: str) -> None:
    """Code 2, without a second suffix."""
    with pytest.raises(Refused) as caught:
        requests.runtime_options(any_pb2.Any(type_url=url, value=b"x"))

    assert str(caught.value) == f"type with url {url}: not found"


@pytest.mark.rule("task.create.3")
def test_options_of_a_known_but_other_type_are_an_invalid_argument() -> None:
    """The reference crashes; our shim answers code 3."""
    with pytest.raises(InvalidArgument, match=r"CheckpointOptions.*: invalid argument$"):
        requests.runtime_options(packed(runc_pb2.CheckpointOptions(exit=True)))


@pytest.mark.rule("task.create.3")
@pytest.mark.parametrize(
    ("url", "value"),
    [
        (requests.RUNC_OPTIONS, b"\xff"),
        (requests.RUNC_OPTIONS, b"\x32\x02x"),
        (requests.RUNC_OPTIONS, b"\x32\x01\xff"),  # a name that is no UTF-8
        (requests.RUNTIME_OPTIONS, b"\x0a\xff"),
        (requests.RUNTIME_OPTIONS, b"\x0a\x02\xff\xfe"),
    ],
)
def test_garbage_is_refused_with_the_text_of_the_reference(url: str, value: bytes) -> None:
    """Options that cannot be read have code 2, those of another known type code 3."""
    with pytest.raises(Refused) as caught:
        requests.runtime_options(any_pb2.Any(type_url=url, value=value))

    assert str(caught.value) == "proto: cannot parse invalid wire-format data"


@given(st.binary(max_size=40), st.sampled_from([requests.RUNC_OPTIONS, requests.RUNTIME_OPTIONS]))
def test_any_value_is_read_or_refused(value: bytes, url: str) -> None:
    """Options come from a client: any value is read or refused."""
    try:
        requests.runtime_options(any_pb2.Any(type_url=url, value=value))
    except ShimError as error:
        text = str(error)
    else:
        text = "they are options"

    assert text


@pytest.mark.rule("task.create.4")
def test_generic_options_in_a_toml_body_are_read() -> None:
    """What CRI sends for runtimes it does not know; names in either spelling."""
    body = b"""
        TypeUrl = "not ours"
        BinaryName = "crun"
        Root = "/r"
        SystemdCgroup = true
        NoPivotRoot = true
        NoNewKeyring = true
        ShimCgroup = "/cg"
        IoUid = 7
        io_gid = 8
        CriuPath = "/criu"
        CriuImagePath = "/i"
        CriuWorkPath = "/w"
    """

    assert requests.runtime_options(generic(body)) == RuncOptions(
        binary_name="crun",
        root="/r",
        systemd_cgroup=True,
        no_pivot_root=True,
        no_new_keyring=True,
        shim_cgroup="/cg",
        io_uid=7,
        io_gid=8,
        criu_path="/criu",
        criu_image_path="/i",
        criu_work_path="/w",
    )


@pytest.mark.rule("task.create.4")
def test_generic_options_in_a_file_are_read(tmp_path: Path) -> None:
    """config_path, as `ctr --runtime-config-path` sends it."""
    config = tmp_path / "config.toml"
    config.write_text('BinaryName = "crun"\n')

    assert requests.runtime_options(generic(path=str(config))).binary_name == "crun"


@pytest.mark.rule("options.generic.2")
def test_unknown_generic_option_is_logged_and_ignored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A misspelt name is logged; the file may be a section that other programs read too."""
    config = tmp_path / "config.toml"
    config.write_text('BinaryNmae = "crun"\nRoot = "/r"\n[Other]\nkey = 1\n')

    assert requests.runtime_options(generic(path=str(config))) == RuncOptions(root="/r")
    assert [record.getMessage() for record in caplog.records] == [
        f'runtime options in {config}: unknown key "{name}" is ignored'
        for name in ("BinaryNmae", "Other")
    ]


@pytest.mark.rule("options.generic.1")
def test_body_of_generic_options_takes_precedence_over_the_file() -> None:
    assert requests.runtime_options(generic(b'Root = "/r"', "/no/such")).root == "/r"


@pytest.mark.rule("options.generic.2")
@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"= 1", "at line 1"),
        (b"\xff", "decode"),
        (b"BinaryName = 1", "BinaryName: expected str, not int"),
        (b'SystemdCgroup = "yes"', "SystemdCgroup: expected bool, not str"),
        (b"IoUid = true", "IoUid: expected int, not bool"),
        (b"IoUid = -1", "IoUid: -1 is out of range"),
        (b"IoUid = 4294967296", "IoUid: 4294967296 is out of range"),
    ],
)
def test_wrong_generic_options_are_an_invalid_argument(body: bytes, reason: str) -> None:
    """An invalid configuration must not start a container."""
    with pytest.raises(InvalidArgument, match=reason):
        requests.runtime_options(generic(body))


@pytest.mark.rule("options.generic.1")
def test_missing_file_of_generic_options_is_an_invalid_argument(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=f"open {tmp_path}/no: no such file or directory"):
        requests.runtime_options(generic(path=f"{tmp_path}/no"))


# --- requests.json ------------------------------------------------------------------------------


@pytest.mark.rule("cli.files.3")
@pytest.mark.parametrize(
    ("given_options", "text"),
    [
        (RuncOptions(), "{}"),
        (RuncOptions(binary_name="runc"), '{"binary_name":"runc"}'),
        (
            RuncOptions(systemd_cgroup=True, binary_name="crun", io_uid=5),
            '{"io_uid":5,"binary_name":"crun","systemd_cgroup":true}',
        ),
        (
            RuncOptions(binary_name="/argv", root="/rr", task_api_address="x"),
            '{"binary_name":"/argv","root":"/rr","task_api_address":"x"}',
        ),
    ],
)
def test_options_file_is_that_of_the_reference(given_options: RuncOptions, text: str) -> None:
    """Snake case, field order, zero values left out."""
    assert given_options.to_json() == text
