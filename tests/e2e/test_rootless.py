"""Rootless: the shim, the runtime and the daemon as an unprivileged user."""

import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shimv2.shimctl.bundle import Bundle, mounts_below
from shimv2.shimctl.harness import Harness, Setup
from shimv2.shimctl.reply import Generation
from shimv2.shimctl.testbed.containerd import Containerd
from shimv2.shimctl.testbed.leaks import alive
from shimv2.values.model import Mount
from tests.support.harnessed import (
    add_exec,
    assert_alive_and_empty,
    created_on,
    in_harness,
    outcome,
    refused,
)
from tests.support.host import RUNTIME, Host
from tests.support.rootless import User, available, python_is_readable
from ttrpc import StatusError

pytestmark = [pytest.mark.root, pytest.mark.ours("the tests make a user's copy of ours")]

RUNTIMES = ["runc", "crun"]


@pytest.fixture
def user(host: Host) -> Iterator[User]:
    if not available():
        pytest.skip("ordinary users may not make user namespaces")
    if not python_is_readable():
        pytest.skip("ordinary users may not run this interpreter")
    made = User.make(host)
    yield made
    assert made.left() == []


def setup_of(user: User, runtime: str, *, generation: Generation = Generation.V2_3) -> Setup:
    """Return the setup of a rootless daemon of that generation."""
    newest = generation is Generation.V2_3
    return Setup(
        shim=user.shim,
        state=os.path.join(user.home, "s"),
        namespace=user.host.mark,
        runtime=runtime,
        runtime_root=os.path.join(user.runtime_dir, "runc"),
        io_uid=os.geteuid(),
        io_gid=os.getegid(),
        socket_dir=os.path.join(user.runtime_dir, "sockets") if newest else "",
        generation=generation,
    )


def proposed(user: User, *args: str) -> dict[str, Any]:
    """Return the config of `spec --rootless`, with the user's own copy of the root."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["runc", "spec", "--rootless"], cwd=folder, check=True)
        config: dict[str, Any] = json.loads(Path(folder, "config.json").read_text())
    config["process"] |= {"terminal": False, "args": args}
    config["process"]["env"].append(f"MARK={user.host.mark}")  # its cgroup does not have the mark
    config["root"] = {"path": user.rootfs, "readonly": True}
    config["ociVersion"] = "1.0.2"
    return config


def rootless(user: User, *, mounted: bool = False) -> Any:
    """Replace a bundle's configuration by that of `spec --rootless`; the root may be mounted."""

    def edit(_bundle: Bundle, config: dict[str, Any]) -> None:
        args = config["process"]["args"]
        config.clear()
        config.update(proposed(user, *args))
        if mounted:
            config["root"] = {"path": "rootfs"}

    return edit


def no_mounts(_bundle: Bundle) -> list[Mount]:
    return []


@pytest.mark.rule("cli.user.1")
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_container_of_an_unprivileged_user_runs_and_is_deleted(user: User, runtime: str) -> None:
    """Create, Exec, Kill, Delete, Shutdown, `delete`: all without privileges."""

    async def scenario(harness: Harness) -> None:
        script = "id -u; trap 'exit 5' TERM; while :; do sleep 0.05; done"
        container = await created_on(harness, no_mounts, "sh", "-c", script, edit=rootless(user))
        task, sockets = container.task, harness.setup.socket_dir
        assert os.path.dirname(container.reply.path) == sockets
        await task.start("c1")
        pid = (await task.state("c1")).pid
        assert f"Uid:\t{os.geteuid()}\t" in Path(f"/proc/{pid}/status").read_text()
        assert await task.pids("c1") == [pid]
        await add_exec(container, "e1", "sh", "-c", "sleep 0.2; exit 7")
        await task.start("c1", "e1")
        assert await task.pids("c1") == [pid, (await task.state("c1", "e1")).pid]
        code, text = await refused(task.stats("c1"))
        assert (code, text) == (5, "cgroup does not exist: not found")
        assert (await task.wait("c1", "e1")).status == 7
        assert (await task.delete("c1", "e1")).status == 7
        assert await task.pids("c1") == [pid]
        await task.kill("c1", signal.SIGTERM)
        assert await outcome(container) == (5, "0\n", "")
        assert os.listdir(sockets) == []
        assert os.listdir(os.path.join(harness.setup.runtime_root, user.host.mark)) == []

    assert user.do(lambda: in_harness(setup_of(user, runtime), scenario)) == 0


@pytest.mark.rule("cli.user.2")
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_container_of_a_users_dead_shim_is_cleaned_by_delete(user: User, runtime: str) -> None:
    """`delete` finds the runtime's root and the socket, although both have other paths than for
    root."""

    async def scenario(harness: Harness) -> None:
        container = await created_on(harness, no_mounts, "sleep", "1000", edit=rootless(user))
        await container.task.start("c1")
        pid = (await container.task.state("c1")).pid
        removed = await container.destroy()
        assert (removed.exit.status, removed.exit.pid) == (137, pid)
        assert removed.action.stderr == ""
        assert not alive(pid)
        assert os.listdir(harness.setup.socket_dir) == []
        assert os.listdir(os.path.join(harness.setup.runtime_root, user.host.mark)) == []

    assert user.do(lambda: in_harness(setup_of(user, runtime), scenario)) == 0


def test_streams_that_cannot_be_the_containers_are_refused(user: User) -> None:
    """Without io_uid and io_gid their owner would be root; the Create leaves nothing behind."""

    async def scenario(harness: Harness) -> None:
        with pytest.raises(StatusError, match=r"failed to chown stdout: operation not permitted"):
            await created_on(harness, no_mounts, "true", edit=rootless(user))
        container = harness.containers["c1"]
        await assert_alive_and_empty(container)
        await container.remove()
        assert os.listdir(harness.setup.socket_dir) == []

    def work() -> None:
        in_harness(replace(setup_of(user, "runc"), io_uid=0, io_gid=0), scenario)

    assert user.do(work) == 0


@pytest.mark.rule("cli.user.3")
@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(
    "generation", [Generation.V1_6, Generation.V2_0], ids=lambda generation: generation.value
)
def test_root_of_a_user_namespace_needs_no_new_protocol(
    user: User, runtime: str, generation: Generation
) -> None:
    """`unshare -rm` with an empty /run: socket and state have the paths of root, and an overlay is
    mounted."""

    def overlay(bundle: Bundle) -> list[Mount]:
        return [bundle.overlay(user.rootfs)]

    async def scenario(harness: Harness) -> None:
        script = "touch /new && id -u; exit 6"
        container = await created_on(
            harness, overlay, "sh", "-c", script, edit=rootless(user, mounted=True)
        )
        bundle = container.bundle
        assert os.path.dirname(container.reply.path) == "/run/containerd/s"
        assert mounts_below(bundle.path) == [os.path.join(bundle.path, "rootfs")]
        await container.task.start("c1")
        assert await outcome(container) == (6, "0\n", "")
        assert mounts_below(bundle.path) == []
        assert os.listdir("/run/containerd/s") == []
        assert os.listdir(os.path.join("/run/containerd/runc", user.host.mark)) == []

    def work() -> None:
        made = setup_of(user, runtime, generation=generation)
        in_harness(replace(made, runtime_root="", io_uid=0, io_gid=0), scenario)

    assert user.do(work, own_namespace=True) == 0


@pytest.mark.parametrize("options", [[], ["ro"]], ids=["rw", "ro"])
def test_read_only_root_in_a_user_namespace(user: User, options: list[str]) -> None:
    """A bind of a mount of the host: the remount that makes it read-only keeps its locked flags."""

    def bind(_bundle: Bundle) -> list[Mount]:
        return [Mount("bind", user.rootfs, "", ("rbind", *options))]

    async def scenario(harness: Harness) -> None:
        script = "touch /new 2>/dev/null; echo $?"
        container = await created_on(
            harness, bind, "sh", "-c", script, edit=rootless(user, mounted=True)
        )
        await container.task.start("c1")
        assert await outcome(container) == (0, f"{len(options)}\n", "")

    def work() -> None:
        made = setup_of(user, "runc", generation=Generation.V1_6)
        in_harness(replace(made, runtime_root="", io_uid=0, io_gid=0), scenario)

    assert user.do(work, own_namespace=True) == 0


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_users_own_containerd_runs_containers(user: User, runtime: str) -> None:
    """Debian's containerd as an unprivileged user, who is root of a user namespace, with ctr."""

    def work() -> None:
        options, config = Path(user.home, "options.toml"), Path(user.home, "config.json")
        options.write_text(f'BinaryName = "{runtime}"\n')
        run = ["run", "--runtime", RUNTIME, "--runtime-config-path", str(options)]
        run += ["--config", str(config)]
        os.mkdir("c")
        service = Containerd(os.path.abspath("c"), namespace=user.host.mark, path=user.home)
        service.start()
        try:
            config.write_text(json.dumps(proposed(user, "sleep", "1000")))
            service.ctr(*run, "-d", "c1")
            done = service.ctr("task", "exec", "--exec-id", "e1", "c1", "id", "-u")
            assert (done.stdout, done.stderr) == (b"0\n", b"")
            service.ctr("task", "kill", "-s", "KILL", "c1")
            service.wait_status("c1", "STOPPED")
            assert service.remove_task("c1") == 137
            service.ctr("container", "rm", "c1")
            config.write_text(json.dumps(proposed(user, "sh", "-c", "echo told; exit 3")))
            done = service.ctr(*run, "--rm", "c2", check=False)
            assert (done.returncode, done.stdout) == (3, b"told\n")
            assert service.tasks() == {}
            assert os.listdir("/run/containerd/s") == []
        finally:
            service.stop()

    assert user.do(work, own_namespace=True) == 0
