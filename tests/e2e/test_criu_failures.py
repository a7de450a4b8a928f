"""Failing checkpoints and restores with the real CRIU: error texts and leftovers."""

import asyncio
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from shimv2.shimctl.harness import Harness, Setup
from shimv2.shimctl.testbed.until import eventually
from tests.support.counting import COUNTER, EXIT, counted, end
from tests.support.harnessed import in_harness, refused, second_client
from tests.support.host import Host

pytestmark = [
    pytest.mark.root,
    pytest.mark.criu,
    pytest.mark.runc("Debian's crun is built without checkpoints"),
]


@contextmanager
def full(folder: Path) -> Iterator[str]:
    with mounted(folder, "size=64k") as path:
        yield path


@contextmanager
def read_only(folder: Path) -> Iterator[str]:
    with mounted(folder, "ro") as path:
        yield path


@contextmanager
def below_a_file(folder: Path) -> Iterator[str]:
    (folder / "file").touch()
    yield str(folder / "file" / "image")


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[str]:
    target = folder / "disk"
    target.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", target], check=True)
    try:
        yield str(target)
    finally:
        subprocess.run(["umount", target], check=True)


@pytest.mark.parametrize("place", [full, read_only, below_a_file])
def test_checkpoint_that_cannot_be_written_is_refused_and_the_container_runs_on(
    criu_setup: Setup, host: Host, place: Callable[[Path], AbstractContextManager[str]]
) -> None:
    """The text has the path of the log, the work folder is empty, and the container continues."""

    async def scenario(harness: Harness) -> None:
        container = await harness.run("c1", wanted=COUNTER)
        await counted(container)
        code, text = await refused(container.task.checkpoint("c1", path))
        prefix = "runc did not terminate successfully: exit status 1: "
        assert (code, text.startswith(prefix)) == (2, True)
        assert text.endswith(f" path= {container.bundle.path}/criu-dump.log")
        assert (await container.task.state("c1")).status == "RUNNING"
        assert os.listdir(os.path.join(container.bundle.path, "work")) == []
        await counted(container)
        await end(container)

    with place(Path(host.folder)) as path:
        in_harness(criu_setup, scenario)


@pytest.mark.ours("the Go shim has no limit of its own")
def test_checkpoint_that_hangs_is_killed_and_the_container_runs_on(
    criu_setup: Setup, dump: str, tmp_path: Path
) -> None:
    """CRIU hangs while all processes are stopped, and is killed."""
    settings = tmp_path / "settings.toml"
    settings.write_text("checkpoint_s = 2.0\n")
    limited = replace(criu_setup, env={**criu_setup.env, "PYRUNC_CONFIG": str(settings)})
    os.mkdir(dump)
    os.mkfifo(os.path.join(dump, "pages-1.img"))  # without a reader

    async def scenario(harness: Harness) -> None:
        container = await harness.run("c1", wanted=COUNTER)
        await counted(container)
        code, text = await refused(container.task.checkpoint("c1", dump))
        assert (code, "exit status 137" in text) == (2, True)
        await counted(container)
        os.unlink(os.path.join(dump, "pages-1.img"))
        await container.task.checkpoint("c1", dump)
        await end(container)

    in_harness(limited, scenario)


@pytest.mark.ours("Go shims kill it with the call")
def test_checkpoint_outlives_its_caller(criu_setup: Setup, dump: str) -> None:
    """The image is complete although the client disconnected meanwhile; other calls are
    answered."""
    fifo = os.path.join(dump, "pages-1.img")
    os.mkdir(dump)
    os.mkfifo(fifo)

    async def scenario(harness: Harness) -> None:
        container = await harness.run("c1", wanted=COUNTER)
        await counted(container)
        client = await second_client(container)
        first = asyncio.create_task(client.checkpoint("c1", dump))
        init = (await container.task.connected("c1")).task_pid
        await eventually(lambda: traced(init), "CRIU to be at work")
        await client.close()
        await asyncio.wait([first])
        assert first.exception() is not None
        assert (await container.task.state("c1")).status == "RUNNING"
        drained = asyncio.create_task(asyncio.to_thread(Path(fifo).read_bytes))
        assert len(await drained) > 0
        await eventually(lambda: os.path.exists(os.path.join(dump, "inventory.img")), "the image")
        await counted(container)
        await end(container)

    in_harness(criu_setup, scenario)


def traced(pid: int) -> bool:
    return "TracerPid:\t0\n" not in Path(f"/proc/{pid}/status").read_text()


@pytest.mark.ours("the Go shim has no limit of its own")
@pytest.mark.parametrize("file", ["core-1.img", "pages-1.img"])
def test_restore_that_hangs_is_killed_and_nothing_is_left(
    criu_setup: Setup, dump: str, tmp_path: Path, file: str
) -> None:
    """CRIU hangs before or after it has made processes, and is killed with all of them."""
    settings = tmp_path / "settings.toml"
    settings.write_text("restore_s = 2.0\n")
    limited = replace(criu_setup, env={**criu_setup.env, "PYRUNC_CONFIG": str(settings)})
    path = os.path.join(dump, file)

    async def scenario(harness: Harness) -> None:
        first = await harness.run("c1", wanted=COUNTER)
        await counted(first)
        await first.task.checkpoint("c1", dump, EXIT)
        await first.task.wait("c1", timeout_s=10)
        await first.remove()
        os.rename(path, f"{path}.kept")
        os.mkfifo(path)  # without a writer
        second = await harness.create("c1", COUNTER, checkpoint=dump)
        code, text = await refused(second.task.start("c1"))
        assert (code, text.startswith("OCI runtime restore failed: ")) == (2, True)
        assert (await second.task.state("c1")).status == "CREATED"
        os.rename(f"{path}.kept", path)
        await second.task.start("c1")
        await counted(second)
        await end(second)

    in_harness(limited, scenario)


@pytest.mark.ours("Go shims remove the contents of mounts there")
def test_shim_that_dies_in_a_restore_leaves_the_containers_files_alone(
    criu_setup: Setup, host: Host, dump: str
) -> None:
    """The killed runtime leaves the root mounted in the folder that `delete` removes."""
    path = os.path.join(dump, "core-1.img")

    async def scenario(harness: Harness) -> None:
        first = await harness.run("c1", wanted=COUNTER)
        await counted(first)
        await first.task.checkpoint("c1", dump, EXIT)
        await first.task.wait("c1", timeout_s=10)
        await first.remove()
        os.unlink(path)
        os.mkfifo(path)
        second = await harness.create("c1", COUNTER, checkpoint=dump)
        upper = os.path.join(second.bundle.own, "upper")
        before = os.listdir(upper)
        starting = asyncio.create_task(refused(second.task.start("c1")))
        root = f"/run/containerd/runc/{harness.setup.namespace}/c1/criu-root"
        await eventually(lambda: os.path.ismount(root), "the runtime to be at work")
        os.kill((await second.task.connected("c1")).shim_pid, signal.SIGKILL)
        await asyncio.wait([starting])
        assert starting.exception() is not None
        await second.binary.delete(second.bundle)
        assert os.listdir(upper) == before
        assert not os.path.exists(root)
        await second.destroy()

    in_harness(criu_setup, scenario)
    for folder in host.leaks.cgroups():  # of a killed runtime, not known to the shim: empty
        os.rmdir(folder)


def test_restore_of_a_broken_image_changes_nothing(criu_setup: Setup, dump: str) -> None:
    """The runtime's error text, the state created, and no leftovers; a second attempt works."""

    async def scenario(harness: Harness) -> None:
        first = await harness.run("c1", wanted=COUNTER)
        await counted(first)
        await first.task.checkpoint("c1", dump, EXIT)
        await first.task.wait("c1", timeout_s=10)
        await first.remove()
        core, kept = (os.path.join(dump, name) for name in ("core-1.img", "kept"))
        os.rename(core, kept)
        second = await harness.create("c1", COUNTER, checkpoint=dump)
        code, text = await refused(second.task.start("c1"))
        assert (code, text.startswith("OCI runtime restore failed: criu failed: ")) == (2, True)
        assert (await second.task.state("c1")).status == "CREATED"
        assert await refused(second.task.kill("c1", 9)) == (5, "no such container: not found")
        await second.task.delete("c1")
        await second.remove()
        third = await harness.create("c2", COUNTER, checkpoint=f"{dump}/none")
        assert await refused(third.task.start("c2")) == (
            2,
            (
                f"OCI runtime restore failed: open {dump}/none/descriptors.json: "
                "no such file or directory"
            ),
        )
        await third.remove()

    in_harness(criu_setup, scenario)
