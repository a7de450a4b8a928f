"""The three generations of `start`: stdin, and the version that a joined shim serves."""

import socket
import struct
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from google.protobuf.any_pb2 import Any as Packed

from protos.bootstrap_pb2 import BootstrapParams
from protos.runc_pb2 import CheckpointOptions, Options
from shimv2.actions import daemonize, running_shim
from shimv2.actions.running_shim import has_task_service
from shimv2.actions.start import read_request
from shimv2.kernel import title
from shimv2.shimctl.testbed.until import until
from shimv2.values.errors import Refused
from shimv2.values.model import Identity, RuncOptions
from tests.support.cgroups import no_cgroup, unified

ME = Identity("io.containerd.pyrunc.v2", "ns", "c1", "/flag.sock", "/env.ttrpc", debug=False)


def params(**given: Any) -> bytes:
    known = {"instance_id": "c1", "namespace": "ns", "containerd_grpc_address": "/params.sock"}
    return BootstrapParams(**{**known, **given}).SerializeToString()


def options(*, url: str = "containerd.runc.v1.Options", **given: Any) -> Packed:
    return Packed(type_url=url, value=Options(**given).SerializeToString())


# --- which generation ---------------------------------------------------------------------------


@pytest.mark.rule("cli.reply.1")
def test_matching_parameters_are_the_new_generation() -> None:
    """Id and namespace of the parameters are those of the flags."""
    request = read_request(ME, params(socket_dir="/s"))

    assert request.new
    assert request.socket_dir == "/s"
    assert request.identity.grpc_address == "/params.sock"


@pytest.mark.rule("cli.reply.1")
@pytest.mark.parametrize(
    "stdin",
    [
        b"",
        params(instance_id="other"),
        params(namespace="other"),
        b"\x0a\xff",
        b"\xff" * 20,
        b"not protobuf at all",
        params(instance_id="c1")[:3],
        Packed(type_url="c1", value=b"x").SerializeToString(),  # parses as BootstrapParams
        Packed(type_url="c1", value=b"\xff").SerializeToString(),
        options(binary_name="crun").SerializeToString(),
    ],
)
def test_anything_else_is_an_old_generation(stdin: bytes) -> None:
    """Also an Any whose URL is the id, and garbage."""
    request = read_request(ME, stdin)

    assert not request.new
    assert request.identity == ME
    assert request.socket_dir == ""


@pytest.mark.rule("cli.reply.1")
def test_any_that_equals_id_and_namespace_counts_as_the_new_generation() -> None:
    """The rule is exact: nothing else distinguishes these bytes."""
    assert read_request(ME, Packed(type_url="c1", value=b"ns").SerializeToString()).new


@pytest.mark.rule("cli.reply.9")
@pytest.mark.parametrize(
    ("level", "debug"), [(0, False), (4, False), (-3, False), (-4, True), (-8, True), (12, False)]
)
def test_log_level_decides_about_debug_and_the_flag_does_not(level: int, debug: bool) -> None:
    """The new generation's server gets -debug from the level only."""
    flagged = Identity(ME.name, ME.namespace, ME.id, "", "", debug=True)

    assert read_request(flagged, params(log_level=level)).identity.debug is debug
    assert read_request(flagged, b"").identity.debug


@pytest.mark.rule("cli.reply.10")
def test_events_go_to_the_address_of_the_environment_or_else_of_the_parameters() -> None:
    """TTRPC_ADDRESS; without it the address of the parameters."""
    stdin = params(containerd_ttrpc_address="/params.ttrpc")
    silent = Identity(ME.name, ME.namespace, ME.id, "", "", debug=False)

    assert read_request(ME, stdin).identity.ttrpc_address == "/env.ttrpc"
    assert read_request(silent, stdin).identity.ttrpc_address == "/params.ttrpc"


# --- options ------------------------------------------------------------------------------------


def extension(packed: Packed) -> dict[str, object]:
    return {"value": packed}


@pytest.mark.rule("cli.reply.4")
def test_options_are_found_in_either_generation() -> None:
    packed = options(shim_cgroup="/x", binary_name="crun")
    expected = RuncOptions(shim_cgroup="/x", binary_name="crun")
    other = extension(Packed(type_url="example.Other", value=b"x"))
    stdin = params(extensions=[other, extension(packed), other])

    assert read_request(ME, packed.SerializeToString()).options == expected
    assert read_request(ME, stdin).options == expected


@pytest.mark.rule("cli.reply.4")
@pytest.mark.parametrize(
    "packed",
    [
        Packed(type_url="example.Unknown", value=b"x"),
        Packed(type_url="containerd.runc.v1.Options", value=b"\xff"),
        Packed(
            type_url="containerd.runc.v1.CheckpointOptions",
            value=CheckpointOptions(exit=True).SerializeToString(),
        ),
    ],
)
def test_bad_options_are_left_for_create_to_refuse(packed: Packed) -> None:
    """The Go shims 1.7.24 and 2.1.9 ignore options that they cannot decode; Create gets the same
    ones."""
    assert read_request(ME, packed.SerializeToString()).options == RuncOptions()
    assert read_request(ME, params(extensions=[extension(packed)])).options == RuncOptions()


# --- the version of a running shim --------------------------------------------------------------


@contextmanager
def shim(reply: bytes | None) -> Iterator[tuple[str, list[bytes]]]:
    """Serve one connection: record the request, answer `reply`, or wait without an answer."""
    asked: list[bytes] = []
    with (
        tempfile.TemporaryDirectory(prefix="b", dir="/tmp") as folder,
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener,
    ):
        listener.bind(f"{folder}/s")
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                asked.append(connection.recv(4096))
                if reply is None:
                    connection.recv(1)  # until the other side disconnects
                else:
                    connection.sendall(reply)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"{folder}/s", asked
        thread.join(10)
        until(lambda: not thread.is_alive(), "the fake shim to end")


def answer(payload: bytes, *, kind: int = 2) -> bytes:
    return struct.pack(">IIBB", len(payload), 1, kind, 0) + payload


def status(code: int, text: str) -> bytes:
    inner = bytes([0x08, code, 0x12, len(text)]) + text.encode()
    length = bytes([len(inner)]) if len(inner) < 128 else bytes([len(inner) & 0x7F | 0x80, 1])
    return b"\x0a" + length + inner


@pytest.mark.parametrize(
    ("reply", "served"),
    [
        (answer(b""), True),
        (answer(status(5, "container not created: not found")), True),
        (answer(status(12, "service containerd.task.v3.Task")), False),
        (answer(status(12, 120 * "x")), False),
        (answer(status(2, "\x08\x0c")), True),
        (answer(b"\x0a"), True),
        (answer(b"\x0a\xff"), True),
        (answer(b"", kind=3), True),
        (answer(b"")[:4], True),
        (b"", True),
    ],
)
def test_only_a_clear_no_counts_as_one(reply: bytes, served: bool) -> None:
    """A new binary that joins an old shim replies with that shim's version; if unsure, with its
    own."""
    with shim(reply) as (path, asked):
        assert has_task_service(path, 3) is served

    assert b"containerd.task.v3.Task" in asked[0]


def test_silent_shim_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shim that hangs must not block the `start` that joins it."""
    monkeypatch.setattr(running_shim, "_LIMIT_S", 0.05)
    with shim(None) as (path, _):
        assert has_task_service(path, 2)

    assert has_task_service("/nonexistent", 2)


# --- the place of a server ----------------------------------------------------------------------


def test_server_is_shown_with_the_command_line_of_the_reference() -> None:
    """Operators and tools find a shim by it."""
    me = Identity("io.containerd.runc.v2", "ns", "c1", "/a.sock", "", debug=True)

    words = ["-namespace", "ns", "-id", "c1", "-address", "/a.sock", "-debug"]
    assert title.server_args(me) == words


@pytest.mark.vm
@pytest.mark.parametrize("path", ["x", "/a/../b", ".."])
def test_cgroup_that_is_no_absolute_path_is_refused(path: str) -> None:
    """With the text of the library of each generation."""
    why = "invalid group path" if unified() else "cgroup deleted"
    with pytest.raises(Refused, match=f"^failed to load cgroup {path}: cgroups: {why}$"):
        daemonize.join_cgroup(path)


@pytest.mark.vm
def test_missing_cgroup_is_refused() -> None:
    """The shim makes no cgroup."""
    with pytest.raises(Refused, match=f"^{no_cgroup('/b-none')}$"):
        daemonize.join_cgroup("/b-none")


def test_oom_score_of_no_process_is_an_error() -> None:
    text = "failed to adjust OOM score for shim: get parent OOM score: open /proc/0/oom_score_adj"
    with pytest.raises(Refused, match=text):
        daemonize.oom_score_of(0)
