"""The reply and the stdin of `start`, in each generation of containerd."""

import json

import pytest

from protos import bootstrap_pb2, runc_pb2
from shimv2.shimctl.launch import Binary
from shimv2.shimctl.reply import BadReply, Generation, Reply, runc_options

ADDRESS = "unix:///run/containerd/s/0123"
PLAIN = ADDRESS.encode()
JSON_2 = json.dumps({"version": 2, "address": ADDRESS, "protocol": "ttrpc"}).encode()
JSON_3 = json.dumps({"version": 3, "address": ADDRESS, "protocol": "ttrpc"}).encode()
PROTOBUF = bootstrap_pb2.BootstrapResult(
    version=3, address=ADDRESS, protocol="ttrpc"
).SerializeToString()
FORMS = {"plain": PLAIN, "json 2": JSON_2, "json 3": JSON_3, "protobuf": PROTOBUF}
ACCEPTED = {
    Generation.V1_6: {"plain"},
    Generation.V1_7: {"plain", "json 2"},
    Generation.V2_0: {"plain", "json 2", "json 3"},
    Generation.V2_3: set(FORMS),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("generation", Generation, ids=lambda g: g.value)
def test_reply_is_read_or_refused_as_that_daemon_does(form: str, generation: Generation) -> None:
    """The forms and versions that each generation accepts."""
    if form not in ACCEPTED[generation]:
        with pytest.raises(BadReply):
            Reply.parse(FORMS[form], generation=generation)
        return

    reply = Reply.parse(FORMS[form], generation=generation)

    assert (reply.address, reply.path) == (ADDRESS, "/run/containerd/s/0123")
    assert reply.version == (3 if form in {"json 3", "protobuf"} else 2)


def test_plain_reply_may_end_with_white_space() -> None:
    """Daemons remove it."""
    assert Reply.parse(PLAIN + b"\n", generation=Generation.V1_6).address == ADDRESS


@pytest.mark.parametrize("output", [b"", b"warning: x\nunix:///a", b'{"version":4}', b"\xff\xfe"])
def test_output_that_is_no_reply_is_refused(output: bytes) -> None:
    """A stray line on stderr would become part of the address."""
    with pytest.raises(BadReply):
        Reply.parse(output)


def test_remembered_reply_reads_back() -> None:
    """The next daemon reads `bootstrap.json`."""
    reply = Reply(ADDRESS, 3, "ttrpc", "protobuf")

    assert Reply.parse(reply.to_json().encode()) == Reply(ADDRESS, 3, "ttrpc", "json")


@pytest.mark.parametrize("generation", Generation, ids=lambda g: g.value)
def test_stdin_and_environment_of_start_are_that_daemons(generation: Generation) -> None:
    """Old daemons write the bare options or nothing, new ones BootstrapParams."""
    binary = Binary("/shim", "ns", "/g.sock", "/t.sock", generation=generation)
    options = runc_options(binary_name="crun")
    assert options is not None
    env = binary.environment()

    assert (env["TTRPC_ADDRESS"], env["GOMAXPROCS"]) == ("/t.sock", "2")
    if generation is Generation.V1_6:
        assert "MAX_SHIM_VERSION" not in env
    else:
        named = (env["MAX_SHIM_VERSION"], env["GRPC_ADDRESS"], env["NAMESPACE"])
        assert named == ("2", "/g.sock", "ns")
    if generation is Generation.V2_3:
        params = bootstrap_pb2.BootstrapParams.FromString(binary.start_input("c1", options))
        assert (params.instance_id, params.namespace) == ("c1", "ns")
        assert params.extensions[0].value == options
        assert not params.HasField("socket_dir")
    else:
        assert binary.start_input("c1", options) == options.SerializeToString()
        assert binary.start_input("c1", None) == b""


def test_command_line_has_the_daemons_flags_first() -> None:
    """They are in the order of containerd."""
    binary = Binary("/shim", "ns", "/g.sock", "/t.sock", containerd="/bin/c")

    assert binary.arguments("-id", "c1", "start") == [
        *("/shim", "-namespace", "ns", "-address", "/g.sock", "-publish-binary", "/bin/c"),
        *("-id", "c1", "start"),
    ]


def test_default_options_are_none_at_all() -> None:
    """containerd passes no options if all are defaults; a type name is bare."""
    options = runc_options(binary_name="crun", root="/r")

    assert runc_options() is None
    assert options is not None
    assert options.type_url == "containerd.runc.v1.Options"
    assert runc_pb2.Options.FromString(options.value).root == "/r"
