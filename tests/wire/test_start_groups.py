"""Containers that share a shim, and simultaneous `start`s."""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest
from google.protobuf.empty_pb2 import Empty

from protos.bootstrap_pb2 import BootstrapResult
from protos.task_v2_pb2 import ShutdownRequest
from shimv2.shimctl.testbed.until import until
from shimv2.values.paths import socket_path
from tests.support.boot import Boot, answers, path_of, shim_pid
from ttrpc import BlockingClient, ConnectionClosed

GROUP = "io.containerd.runc.v2.group"
SANDBOX = "io.kubernetes.cri.sandbox-id"
PARALLEL = 20
GO_SHIM = "containerd-shim-runc-v2"


@pytest.fixture
def boot() -> Iterator[Boot]:
    with Boot() as made:
        yield made


def config(**annotations: str | None) -> str:
    return json.dumps({"annotations": annotations})


@pytest.mark.rule("cli.group.1")
@pytest.mark.parametrize(
    ("annotations", "group"),
    [
        ({GROUP: "g"}, "g"),
        ({SANDBOX: "pod"}, "pod"),
        ({SANDBOX: "pod", GROUP: "g"}, "g"),
        ({SANDBOX: "pod", GROUP: ""}, ""),
        ({GROUP: None}, ""),
        ({"other": "x"}, "c1"),
    ],
)
def test_annotations_decide_who_shares_a_shim(
    boot: Boot, annotations: dict[str, str | None], group: str
) -> None:
    """The first annotation that is present counts, even if it is empty."""
    boot.bundle("c1", config(**annotations))

    path = path_of(boot.new_start("c1"))

    assert path == socket_path(boot.address, boot.namespace, group, folder=boot.socket_dir)


@pytest.mark.rule("cli.group.3", "cli.group.4")
def test_second_container_of_a_group_joins(boot: Boot) -> None:
    """The same reply, no new server, and an address file of its own."""
    boot.bundle("pause", config(**{SANDBOX: "pause"}))
    member = boot.bundle("member", config(**{SANDBOX: "pause"}))
    first = boot.new_start("pause")
    pid = boot.server()

    second = boot.new_start("member")

    assert (second.returncode, second.stdout, second.stderr) == (0, first.stdout, b"")
    assert boot.server() == pid
    assert (member / "address").read_text() == f"unix://{path_of(first)}"


@pytest.mark.rule("cli.end.3")
def test_socket_of_a_group_goes_with_its_shim(boot: Boot) -> None:
    """The group is not the id; the shim unlinks the socket that it bound."""
    boot.bundle("c1", config(**{GROUP: "another"}))
    path = path_of(boot.new_start("c1"))
    until(lambda: answers(path), "the server to answer")

    boot.stop()

    assert os.listdir(boot.socket_dir) == []


@pytest.mark.rule("cli.group.5")
def test_parallel_starts_of_one_group_make_one_server(boot: Boot) -> None:
    """All succeed with the same answer."""
    ids = [f"c{i}" for i in range(PARALLEL)]
    for id_ in ids:
        boot.bundle(id_, config(**{GROUP: "g"}))
    starts = [boot.popen_start(id_) for id_ in ids]

    done = [(start.communicate(timeout=60), start.returncode) for start in starts]

    assert {code for _, code in done} == {0}
    assert {errors for (_, errors), _ in done} == {b""}
    assert len({output for (output, _), _ in done}) == 1
    assert len(boot.servers()) == 1


def test_start_right_after_the_end_of_the_last_shim_is_served(boot: Boot) -> None:
    """The old shim's unlink never removes the new one's socket."""
    boot.bundle("c1")
    path = path_of(boot.new_start("c1"))

    def served() -> bool:
        # `start` may have joined the shim that is exiting, as in the reference: the daemon tries
        # again.
        return answers(path) or path_of(boot.new_start("c1")) != path

    for _ in range(10):
        until(lambda: answers(path), "the server to answer")
        os.kill(boot.server(), signal.SIGTERM)

        assert path_of(boot.new_start("c1")) == path

        until(served, "the server to answer")
        until(lambda: len(boot.servers()) == 1, "the old one to end")
        assert answers(path)


def test_twenty_starts_during_the_last_shutdown_are_served(boot: Boot) -> None:
    """A `start` while the pod's shim exits gets a shim."""
    _starts_during_shutdown(boot, 20)


@pytest.mark.soak
def test_two_hundred_starts_during_the_last_shutdown_are_served(boot: Boot) -> None:
    """The same, at two hundred moments."""
    _starts_during_shutdown(boot, 200)


def _starts_during_shutdown(boot: Boot, count: int) -> None:
    """Check that `start` succeeds, whether it or the shutdown is first.

    It may join the shim that is exiting, which cannot be prevented: then the daemon finds no server
    and runs `start` again.  There is never a second server, nor a socket without one.
    """
    for id_ in ("a", "b"):
        boot.bundle(id_, config(**{GROUP: "g"}))
    path = path_of(boot.new_start("a"))
    ended = joined = 0
    for _ in range(count):
        old = boot.served(path)
        start = boot.popen_start("b")
        time.sleep(random.uniform(0, 0.25))  # a random moment
        shut_down(path)
        output, errors = start.communicate(timeout=30)
        assert (start.returncode, errors) == (0, b"")
        assert BootstrapResult.FromString(output).address == f"unix://{path}"

        wait_for_end(boot, old)
        if boot.servers():
            ended += 1
        else:
            joined += 1
            assert not os.path.exists(path)
            assert path_of(boot.new_start("b")) == path
        assert boot.served(path) != old
    print(f"{ended} came after the end, {joined} had joined")


def wait_for_end(boot: Boot, pid: int) -> None:
    until(lambda: pid not in boot.servers(), "the old server to end")


def shut_down(path: str) -> None:
    service, request = "containerd.task.v2.Task", ShutdownRequest(id="a")
    gone = contextlib.suppress(ConnectionClosed)  # it may exit before it has answered
    with gone, BlockingClient.connect(path, timeout_s=10) as client:
        client.call(service, "Shutdown", request, Empty, timeout_s=10)


@pytest.mark.rule("cli.spawn.8")
def test_killed_starts_and_delete_leave_nothing(boot: Boot) -> None:
    """SIGKILL at random moments, then `delete`: no socket, no server."""
    bundle = boot.bundle("c1")
    (boot.folder / "stdin").write_bytes(boot.params("c1"))
    (boot.folder / "true").symlink_to("/bin/true")
    (bundle / "runtime").write_text("/bin/true")
    for _ in range(10):
        with (boot.folder / "stdin").open("rb") as stdin:
            start = subprocess.Popen(
                boot.args("c1", "start"), cwd=bundle, stdin=stdin, stdout=subprocess.DEVNULL
            )
        try:
            start.wait(random.uniform(0.05, 0.4))
        except subprocess.TimeoutExpired:
            start.kill()
            start.wait(10)

        until(lambda: not _unsettled(boot), "the server to end or to serve")
        for pid in boot.servers():
            os.kill(pid, signal.SIGKILL)
        until(lambda: not boot.servers(), "the servers to be gone")
        done = boot.delete("c1")

        assert done.returncode == 0
        assert not os.path.isdir(boot.socket_dir) or os.listdir(boot.socket_dir) == []


def _unsettled(boot: Boot) -> bool:
    """Whether there is a server that does not serve yet, and may wait for its `start`."""
    path = socket_path(boot.address, boot.namespace, "c1", folder=boot.socket_dir)
    return bool(boot.servers()) and not answers(path)


@pytest.mark.rule("cli.group.4")
@pytest.mark.root
def test_running_shim_of_the_reference_is_joined_with_its_version(boot: Boot) -> None:
    """The shim of containerd 1.x serves v2 only, and the reply to a new daemon has that version."""
    go_shim = shutil.which(GO_SHIM)
    if go_shim is None:
        pytest.skip("the reference's shim is not installed")
    boot.bundle("c1")
    args = [go_shim, *boot.args("c1", "start")[1:]]
    reference = boot.run(args, cwd=boot.state / "c1")
    path = path_of(reference)
    try:
        assert boot.start("c1").stdout == reference.stdout
        new = boot.new_start("c1", params={"socket_dir": ""})

        result = BootstrapResult.FromString(new.stdout)
        assert (result.address, result.version) == (f"unix://{path}", 2)
        assert boot.servers() == []
    finally:
        _end_reference(boot)


def _end_reference(boot: Boot) -> None:
    def running() -> list[int]:
        found = []
        for name in filter(str.isdecimal, os.listdir("/proc")):
            try:
                with open(f"/proc/{name}/cmdline", "rb") as file:
                    words = file.read().split(b"\0")
            except OSError:
                continue
            if boot.namespace.encode() in words:
                found.append(int(name))
        return found

    for pid in running():
        os.kill(pid, signal.SIGTERM)
    until(lambda: not running(), "the reference's shim to end")


def test_connect_returns_the_pid_of_the_server(boot: Boot) -> None:
    """The double fork changes the pid twice: clients get the last one."""
    boot.bundle("c1")
    path = path_of(boot.new_start("c1"))

    assert shim_pid(path) == boot.server()
