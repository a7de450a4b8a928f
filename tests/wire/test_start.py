"""`start` as each generation of containerd runs it, and the server that it starts."""

import errno
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.any_pb2 import Any as Packed

from protos.bootstrap_pb2 import BootstrapResult
from protos.runc_pb2 import Options
from shimv2.shimctl.testbed.until import until
from shimv2.values.paths import socket_path
from tests.support.boot import (
    SOCKETS,
    Boot,
    answers,
    dead_socket,
    fds,
    install,
    path_of,
)


@pytest.fixture
def boot() -> Iterator[Boot]:
    with Boot() as made:
        yield made


# --- the reply ----------------------------------------------------------------------------------


@pytest.mark.rule("cli.reply.2", "cli.socket.1", "cli.serve.4")
@pytest.mark.root
@pytest.mark.parametrize(
    "stdin",
    [
        b"",
        Packed(type_url="containerd.runc.v1.Options", value=b"").SerializeToString(),
        Packed(type_url="c1", value=b"x").SerializeToString(),
        b"garbage",
    ],
)
def test_old_daemons_get_the_plain_address(boot: Boot, stdin: bytes) -> None:
    """No newline, and nothing on stderr, for any input."""
    boot.bundle("c1")

    done = boot.start("c1", stdin=stdin)

    path = socket_path(boot.address, boot.namespace, "c1")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"unix://{path}".encode(), b"")
    assert os.path.dirname(path) == SOCKETS
    assert answers(path, 2)
    assert answers(path, 3)


@pytest.mark.rule("cli.reply.2")
@pytest.mark.root
def test_reply_is_json_if_the_administrator_configures_it(boot: Boot) -> None:
    """`json_v3_reply` gives the reply of containerd 2.1.9, to the byte."""
    boot.bundle("c1")
    settings = boot.folder / "shim.toml"
    settings.write_text("json_v3_reply = true\n")

    done = boot.start("c1", env={"PYRUNC_CONFIG": str(settings)})

    path = socket_path(boot.address, boot.namespace, "c1")
    address = f'{{"version":3,"address":"unix://{path}","protocol":"ttrpc"}}'
    assert (done.stdout, done.stderr) == (address.encode(), b"")
    boot.stop()


@pytest.mark.rule("cli.reply.3", "cli.socket.1")
def test_new_daemons_get_a_message(boot: Boot) -> None:
    """BootstrapResult, also with MAX_SHIM_VERSION=2."""
    boot.bundle("c1")

    done = boot.new_start("c1", env={"MAX_SHIM_VERSION": "2"})

    path = socket_path(boot.address, boot.namespace, "c1", folder=boot.socket_dir)
    expected = BootstrapResult(version=3, address=f"unix://{path}", protocol="ttrpc")
    assert BootstrapResult.FromString(done.stdout) == expected
    assert done.stderr == b""


@pytest.mark.root
@pytest.mark.rule("cli.reply.11")
def test_input_beyond_ten_mebibytes_is_not_read(boot: Boot) -> None:
    """Truncated input is no message of the new kind."""
    boot.bundle("c1")
    name, length = b"\xa2\x7d", b"\x80\x80\x80\x05"  # an unknown field, of 10 MiB
    stdin = boot.params("c1") + name + length + bytes(10 << 20)

    done = boot.start("c1", stdin=stdin)

    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"unix:///run/containerd/s/")


@pytest.mark.rule("cli.flags.9")
def test_binary_for_publishing_need_not_be_there(boot: Boot) -> None:
    """Daemons still pass it; no shim runs it."""
    bundle = boot.bundle("c1")
    args = boot.args("c1", "start")
    args[args.index("-publish-binary") + 1] = "/no/such/binary"

    done = boot.run(args, cwd=bundle, stdin=boot.params("c1"))

    assert (done.returncode, done.stderr) == (0, b"")
    assert answers(path_of(done))


def test_arguments_after_start_are_ignored(boot: Boot) -> None:
    """Only the first word is the action."""
    boot.bundle("c1")

    done = boot.run(
        [*boot.args("c1", "start"), "-foo", "delete"],
        cwd=boot.state / "c1",
        stdin=boot.params("c1"),
    )

    assert answers(path_of(done))


@pytest.mark.rule("cli.socket.6")
def test_second_start_gives_the_same_answer_and_no_second_server(boot: Boot) -> None:
    """A name with a listening server is joined, a dead one is replaced."""
    boot.bundle("c1")
    first = boot.new_start("c1")
    pid = boot.server()

    second = boot.new_start("c1")

    assert (second.returncode, second.stdout, second.stderr) == (0, first.stdout, b"")
    assert boot.server() == pid


# --- what the daemon waits for ------------------------------------------------------------------


@pytest.mark.rule("cli.reply.6")
def test_start_ends_while_the_server_lives_and_holds_no_output(boot: Boot) -> None:
    """The daemon reads until every holder of the pipe has closed it."""
    boot.bundle("c1")

    done = boot.new_start("c1")  # returns at the end of file of both pipes only

    path_of(done)
    assert {fds(boot.server())[n] for n in (0, 1)} == {"/dev/null"}


@pytest.mark.rule("cli.reply.5")
@pytest.mark.parametrize(
    "env",
    [
        {"PYTHONWARNINGS": "always"},
        {"PYTHONWARNINGS": "error"},
        {"PYTHONWARNINGS": "nonsense"},
        {"PYTHONDEVMODE": "1", "PYTHONVERBOSE": "1"},
        {"LC_ALL": "nowhere_XX.none", "LANG": "", "PYTHONIOENCODING": "bad"},
        {"PYTHONSTARTUP": "/nonexistent", "PYTHONHOME": "/nonexistent"},
    ],
)
def test_nothing_is_on_stderr_whatever_the_environment(boot: Boot, env: dict[str, str]) -> None:
    """A byte on stderr would be a part of the reply."""
    boot.bundle("c1")

    done = boot.new_start("c1", env=env)

    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.rule("cli.reply.5")
@pytest.mark.parametrize("warnings", ["always", "default"])
def test_script_without_isolation_warns_of_nothing(boot: Boot, warnings: str) -> None:
    """The same if a packager's script passes PYTHONWARNINGS on."""
    boot.bundle("c1")
    install(boot.shim, "-s")

    done = boot.new_start("c1", env={"PYTHONWARNINGS": warnings, "PYTHONDONTWRITEBYTECODE": "1"})

    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.rule("cli.reply.12")
@pytest.mark.parametrize(
    "closed",
    [
        ">&-",
        "2>&-",
        # Without stdin the socket is in the default folder.
        pytest.param("<&-", marks=pytest.mark.root),
        pytest.param("<&- >&- 2>&-", marks=pytest.mark.root),
    ],
)
def test_closed_standard_fds_become_null(boot: Boot, closed: str) -> None:
    """Neither the socket nor a pipe may get the numbers 0, 1 or 2."""
    boot.bundle("c1")
    (boot.folder / "stdin").write_bytes(b"" if "<" in closed else boot.params("c1"))
    words = " ".join(boot.args("c1", "start"))
    input_ = "" if "<" in closed else f"<{boot.folder}/stdin"
    folder = boot.socket_dir if input_ else SOCKETS

    done = subprocess.run(
        ["sh", "-c", f"exec {words} {input_} {closed}"],
        cwd=boot.state / "c1",
        check=False,
        capture_output=True,
        timeout=30,
    )

    path = socket_path(boot.address, boot.namespace, "c1", folder=folder)
    assert (done.returncode, done.stderr) == (0, b"")
    assert answers(path)
    open_fds = fds(boot.server())
    assert [open_fds[n] for n in (0, 1)] == ["/dev/null", "/dev/null"]
    assert open_fds[2] == str(boot.state / "c1" / "log")
    boot.stop()


# --- files --------------------------------------------------------------------------------------


@pytest.mark.rule("cli.files.1")
def test_address_is_written_and_replaces_what_is_there(boot: Boot) -> None:
    """containerd 1.6 and 1.7 read only this after a restart."""
    bundle = boot.bundle("c1")
    (boot.folder / "other").write_text("precious")
    (bundle / "address").symlink_to(boot.folder / "other")

    path = path_of(boot.new_start("c1"))

    assert (bundle / "address").read_text() == f"unix://{path}"
    assert not (bundle / "address").is_symlink()
    assert (boot.folder / "other").read_text() == "precious"
    assert sorted(os.listdir(bundle)) == ["address", "config.json", "log", "s"]


@pytest.mark.rule("cli.socket.5")
def test_link_to_the_socket_folder_replaces_an_older_one(boot: Boot) -> None:
    """A link `s` in the bundle names a folder that the daemon chose."""
    bundle = boot.bundle("c1")
    (bundle / "s").symlink_to("/nonexistent")

    boot.new_start("c1")

    assert os.readlink(bundle / "s") == boot.socket_dir


@pytest.mark.rule("cli.socket.6")
def test_stale_socket_is_replaced(boot: Boot) -> None:
    """A name with a listening server is joined, a dead one is replaced."""
    boot.bundle("c1")
    os.mkdir(boot.socket_dir)
    path = socket_path(boot.address, boot.namespace, "c1", folder=boot.socket_dir)
    dead_socket(path)

    assert path_of(boot.new_start("c1")) == path
    assert answers(path)


def test_ended_server_leaves_no_socket(boot: Boot) -> None:
    """A server removes its socket before it exits."""
    boot.bundle("c1")
    path = path_of(boot.new_start("c1"))
    boot.served(path)

    boot.stop()

    assert os.listdir(boot.socket_dir) == []
    assert not os.path.exists(path)


@pytest.mark.rule("cli.serve.5")
def test_server_that_is_executed_serves_the_socket_it_is_given(boot: Boot) -> None:
    """Without an action; the socket is that of `-socket`, or fd 3."""
    bundle = boot.bundle("c1")
    path = str(boot.folder / "x.sock")
    server = subprocess.Popen(
        [str(boot.shim), "-namespace", boot.namespace, "-id", "c1", "-socket", path],
        cwd=bundle,
        stdin=subprocess.DEVNULL,
    )
    try:
        until(lambda: os.path.exists(path) and answers(path), "the server to answer")
    finally:
        server.terminate()
        assert server.wait(10) == 0
    assert not os.path.exists(path)


@pytest.mark.rule("cli.serve.2")
def test_log_fifo_may_be_missing_when_start_runs(boot: Boot) -> None:
    """`start` succeeds, then connections are refused."""
    boot.bundle("c1", log=False)

    path = path_of(boot.new_start("c1"))

    def refused() -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            return sock.connect_ex(path) == errno.ECONNREFUSED

    until(refused, "the server to give up")


def test_options_of_either_generation_move_the_server_nowhere_by_default(boot: Boot) -> None:
    """With options without a shim cgroup the server stays in the cgroup of its caller."""
    boot.bundle("c1")
    packed = Packed(
        type_url="containerd.runc.v1.Options",
        value=Options(systemd_cgroup=True).SerializeToString(),
    )
    boot.new_start("c1", params={"extensions": [{"value": packed}]})

    ours = Path("/proc/self/cgroup").read_text()
    assert Path(f"/proc/{boot.server()}/cgroup").read_text() == ours
