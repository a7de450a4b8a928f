"""The same verbs with real runtimes: runc and crun."""

import asyncio
import glob
import json
import os
import shutil
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from shimv2.kernel import linux
from shimv2.kernel.reaper import Reaper
from shimv2.runtime.interface import read_pid_file
from shimv2.runtime.once import delete_force_now
from shimv2.runtime.runc import Runc
from shimv2.shimctl.rootfs import make_rootfs
from shimv2.shimctl.spec import Wanted, config, process
from shimv2.shimctl.testbed.runtimes import crun
from shimv2.values import paths
from shimv2.values.errors import NotFound, RuntimeFailed
from tests.support.aio import run
from tests.support.host import runs_as_root

pytestmark = pytest.mark.root
LIMIT_S = 30.0
NAMESPACE = "pyrunc-unit-runtime"


@pytest.fixture(scope="module")
def rootfs(tmp_path_factory: pytest.TempPathFactory) -> str:
    if not runs_as_root():
        pytest.skip("containers need root and runc")
    path = str(tmp_path_factory.mktemp("rootfs"))
    make_rootfs(path)
    return path


class Machine:
    """A bundle, a real runtime with a state folder of its own, and a reaper."""

    def __init__(self, folder: Path, rootfs: str, binary: str, container_id: str) -> None:
        self.id = container_id
        self.bundle = str(folder / "bundle")
        self.root = str(folder / "root")
        self.binary = binary
        self.rootfs = rootfs
        os.mkdir(self.bundle)
        self.log = paths.runtime_log(self.bundle)

    def configure(self, *args: str) -> None:
        wanted = config(Wanted(args), namespace=NAMESPACE, container_id=self.id)
        wanted["root"] = {"path": self.rootfs}
        with open(paths.config_file(self.bundle), "w") as file:
            json.dump(wanted, file)

    def run(self, story: Callable[[Runc, Reaper], Coroutine[Any, Any, None]]) -> None:
        async def main() -> None:
            reaper = Reaper(asyncio.get_running_loop())
            reaper.start()
            runc = Runc(reaper=reaper, binary=self.binary, root=self.root, log_path=self.log)
            try:
                await story(runc, reaper)
            finally:
                reaper.start()
                await runc.delete(self.id, force=True, timeout_s=LIMIT_S)
                reaper.stop()

        run(main(), 60.0)

    async def create(self, runc: Runc, reaper: Reaper) -> "asyncio.Future[Any]":
        """Create the container; return the future of its init's exit."""
        pid_file = paths.init_pid_file(self.bundle)
        with reaper.launching():
            await runc.create(
                self.id,
                bundle=self.bundle,
                pid_file=pid_file,
                fds={},
                spawned=lambda: None,
                timeout_s=LIMIT_S,
            )
            return reaper.claim(read_pid_file(pid_file))

    async def exec(self, runc: Runc, reaper: Reaper, *args: str) -> "asyncio.Future[Any]":
        pid_file = paths.exec_pid_file(self.bundle, "e1")
        with reaper.launching():
            await runc.exec(
                self.id,
                process=process(Wanted(args)),
                pid_file=pid_file,
                fds={},
                spawned=lambda: None,
                timeout_s=LIMIT_S,
            )
            return reaper.claim(read_pid_file(pid_file, whose="exec"))


@pytest.fixture(params=["runc", "crun"])
def machine(request: pytest.FixtureRequest, tmp_path: Path, rootfs: str) -> Iterator[Machine]:
    binary = "runc" if request.param == "runc" else crun(str(tmp_path))
    linux.set_child_subreaper(True)
    made = Machine(tmp_path, rootfs, binary, f"c{os.getpid()}-{request.param}")
    made.configure("/bin/sleep", "1000")
    yield made
    linux.set_child_subreaper(False)
    left = glob.glob(f"/sys/fs/cgroup/**/{NAMESPACE}/{made.id}", recursive=True)
    for folder in glob.glob(f"/sys/fs/cgroup/*/{NAMESPACE}"):
        os.rmdir(folder)
    shutil.rmtree(made.root, ignore_errors=True)
    assert left == []


def is_crun(machine: Machine) -> bool:
    return machine.binary != "runc"


@pytest.mark.vm
def test_container_is_created_runs_and_is_deleted(machine: Machine) -> None:
    """Create, start, exec, pause, resume, update, kill, delete."""

    async def story(runc: Runc, reaper: Reaper) -> None:
        exited = await machine.create(runc, reaper)
        assert runc.has_container(machine.id)
        await runc.start(machine.id, timeout_s=LIMIT_S)
        ended = await (await machine.exec(runc, reaper, "sh", "-c", "exit 7"))
        assert ended.status == 7
        await runc.pause(machine.id, timeout_s=LIMIT_S)
        await runc.resume(machine.id, timeout_s=LIMIT_S)
        resources = {"pids": {"limit": 55}}
        await runc.update(machine.id, resources=resources, timeout_s=LIMIT_S)
        assert not exited.done()
        await runc.kill(machine.id, 9, timeout_s=LIMIT_S)
        assert (await exited).status == 137
        await runc.delete(machine.id, timeout_s=LIMIT_S)
        assert not runc.has_container(machine.id)

    machine.run(story)


def test_missing_binary_is_reported_with_its_name(machine: Machine) -> None:
    """Docker maps the text to exit status 127."""
    machine.configure("/bin/nosuch")

    async def story(runc: Runc, reaper: Reaper) -> None:
        with pytest.raises(RuntimeFailed) as caught:
            await machine.create(runc, reaper)
        text = str(caught.value)
        assert text.startswith("OCI runtime create failed: ")
        assert "/bin/nosuch" in text
        assert "no such file or directory" in text.lower()
        assert not runc.has_container(machine.id)

    machine.run(story)


def test_exec_of_a_missing_binary_is_reported(machine: Machine) -> None:
    """The error is not reported again for a later call that fails without a log entry."""

    async def story(runc: Runc, reaper: Reaper) -> None:
        exited = await machine.create(runc, reaper)
        await runc.start(machine.id, timeout_s=LIMIT_S)
        with pytest.raises(RuntimeFailed) as caught:
            await machine.exec(runc, reaper, "nosuch")
        text = str(caught.value)
        assert text.startswith("OCI runtime exec failed: ")
        assert "nosuch" in text
        assert "not found in $PATH" in text
        await runc.kill(machine.id, 9, timeout_s=LIMIT_S)
        await exited

    machine.run(story)


def test_second_create_leaves_the_first_container_alone(machine: Machine) -> None:
    """The runtime refuses the id that is in use."""

    async def story(runc: Runc, reaper: Reaper) -> None:
        exited = await machine.create(runc, reaper)
        with pytest.raises(RuntimeFailed, match="already exists"):
            await machine.create(runc, reaper)
        await runc.start(machine.id, timeout_s=LIMIT_S)
        await runc.kill(machine.id, 9, timeout_s=LIMIT_S)
        assert (await exited).status == 137

    machine.run(story)


def test_invalid_signal_is_reported_raw(machine: Machine) -> None:
    """The runtime's text, unchanged."""

    async def story(runc: Runc, reaper: Reaper) -> None:
        await machine.create(runc, reaper)
        with pytest.raises(RuntimeFailed) as caught:
            await runc.kill(machine.id, 65, timeout_s=LIMIT_S)
        text = str(caught.value)
        assert text.startswith("unknown error after kill: ")
        assert text.lower().endswith("invalid argument\n")

    machine.run(story)


def test_kill_and_delete_after_the_end_are_no_errors_a_daemon_minds(machine: Machine) -> None:
    """NotFound on kill is ignored; a repeated delete succeeds."""

    async def story(runc: Runc, reaper: Reaper) -> None:
        exited = await machine.create(runc, reaper)
        await runc.kill(machine.id, 9, timeout_s=LIMIT_S)
        await exited
        if not is_crun(machine):  # crun has no error for a container that has ended
            with pytest.raises(NotFound, match="process already finished"):
                await runc.kill(machine.id, 9, timeout_s=LIMIT_S)
        await runc.delete(machine.id, timeout_s=LIMIT_S)
        await runc.delete(machine.id, timeout_s=LIMIT_S)
        with pytest.raises(NotFound, match="no such container"):
            await runc.kill(machine.id, 9, timeout_s=LIMIT_S)

    machine.run(story)


@pytest.mark.vm
def test_refused_update_is_reported_raw(machine: Machine) -> None:
    """The runtime's text, unchanged."""

    async def story(runc: Runc, reaper: Reaper) -> None:
        await machine.create(runc, reaper)
        resources = {"cpu": {"cpus": "999"}}
        with pytest.raises(RuntimeFailed) as caught:
            await runc.update(machine.id, resources=resources, timeout_s=LIMIT_S)
        text = str(caught.value)
        assert "did not terminate successfully: exit status 1: " in text
        assert text.lower().endswith("numerical result out of range\n")

    machine.run(story)


@pytest.mark.parametrize("delay_ms", [0, 5, 10, 15, 20, 30, 50, 80])
def test_create_cancelled_at_any_moment_can_be_undone(machine: Machine, delay_ms: int) -> None:
    """After the roll-back's forced delete no process, state or cgroup is left."""

    async def story(runc: Runc, reaper: Reaper) -> None:
        call = asyncio.ensure_future(machine.create(runc, reaper))
        await asyncio.wait([call], timeout=delay_ms / 1000)
        call.cancel()
        await asyncio.wait([call])
        await runc.delete(machine.id, force=True, timeout_s=LIMIT_S)
        assert not runc.has_container(machine.id)

    machine.run(story)


@pytest.mark.vm
def test_forced_delete_ends_a_running_container(machine: Machine) -> None:
    """The `delete` action does this after a crash of the shim."""

    async def story(runc: Runc, reaper: Reaper) -> None:
        exited = await machine.create(runc, reaper)
        await runc.start(machine.id, timeout_s=LIMIT_S)
        reaper.stop()  # as without a reaper: the blocking call waits for its own child
        delete_force_now(
            binary=machine.binary,
            root=machine.root,
            log_path=machine.log,
            container_id=machine.id,
            timeout_s=LIMIT_S,
        )
        assert not runc.has_container(machine.id)
        reaper.start()
        assert (await exited).status == 137

    machine.run(story)
