"""Checkpoint and restore with the real CRIU, through the shim and through a containerd."""

import asyncio
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from protos import runc_pb2
from shimv2.ctl import spec
from shimv2.ctl.container import Container
from shimv2.ctl.harness import Harness, Setup, captured
from shimv2.ctl.reply import pack
from shimv2.ctl.streams import Capture, write_fifo
from shimv2.model import Stdio
from tests.support.cgroups import folder_of, unified
from tests.support.harnessed import add_exec, in_harness, refused, second_client
from tests.support.host import Host
from tests.support.until import eventually

pytestmark = [
    pytest.mark.root,
    pytest.mark.criu,
    pytest.mark.runc("Debian's crun is built without checkpoints"),
]

COUNT = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.05; done"
COUNTER = spec.Wanted(["sh", "-c", COUNT])
EXIT = runc_pb2.CheckpointOptions(exit=True)


@pytest.fixture
def dump(tmp_path: Path) -> str:
    """A folder that is not there yet, for a container's image."""
    return str(tmp_path / "dump")


def output(container: Container) -> Capture:
    assert isinstance(container.stdout, Capture)
    return container.stdout


async def counted(container: Container) -> int:
    """Wait for a further number; return the last whole one."""
    came = len(output(container).data)
    await eventually(lambda: len(output(container).data) > came + 8, "numbers")
    return int(output(container).text.rpartition("\n")[0].splitlines()[-1])


async def end(container: Container) -> None:
    await container.kill_and_wait()
    await container.remove()


async def restored(harness: Harness, id_: str, wanted: spec.Wanted, dump: str) -> Container:
    container = await harness.create(id_, wanted, stdin=True, checkpoint=dump)
    await container.task.start(id_)
    return container


def test_counter_is_restored_and_counts_on(criu_setup: Setup, dump: str) -> None:
    """The first runs on, the second begins where the image was made."""

    async def scenario(harness: Harness) -> None:
        first = await harness.run("c1", wanted=COUNTER, stdin=True)
        before = await counted(first)
        await first.task.checkpoint("c1", dump)
        after = await counted(first)
        assert (await first.task.state("c1")).status == "RUNNING"
        assert os.listdir(os.path.join(first.bundle.path, "work")) == []
        await end(first)

        second = await restored(harness, "c2", COUNTER, dump)
        await counted(second)
        begun = int(output(second).lines[0])
        assert before <= begun <= after
        assert (await second.task.stats("c2")).type_url.endswith(".Metrics")
        await add_exec(second, "e1", "true")
        await second.task.start("c2", "e1")
        assert (await second.task.wait("c2", "e1")).status == 0
        ended = await second.kill_and_wait()
        await second.outputs_ended()
        removed = await second.remove()
        assert removed.task is not None
        assert (ended.status, removed.task.status, removed.task.pid > 0) == (137, 137, True)
        assert harness.sink.told("c2") == [
            *("create c2", "start c2", "exec-added e1", "exec-started e1"),
            *("exit e1", "exit c2", "delete c2"),
        ]

    in_harness(criu_setup, scenario)


def test_checkpoint_with_exit_ends_the_container(criu_setup: Setup, dump: str) -> None:
    """It ends as if killed, Delete finds nothing in the runtime, and the image is good."""

    async def scenario(harness: Harness) -> None:
        first = await harness.run("c1", wanted=COUNTER)
        await counted(first)
        await first.task.checkpoint("c1", dump, EXIT)
        assert (await first.task.wait("c1", timeout_s=10)).status == 137
        deleted = await first.task.delete("c1")
        assert deleted.status == 137
        await first.outputs_ended()
        last = int(output(first).lines[-1])
        await first.remove()
        assert harness.sink.told("c1") == ["create c1", "start c1", "exit c1", "delete c1"]

        second = await restored(harness, "c1", COUNTER, dump)
        await counted(second)
        assert int(output(second).lines[0]) in {last, last + 1}
        await end(second)

    in_harness(criu_setup, scenario)


def test_input_and_terminal_are_connected_again(criu_setup: Setup, dump: str) -> None:
    """A restored shell answers on its new terminal."""
    wanted = spec.Wanted(["sh", "-c", "while read x; do echo got $x; done"], terminal=True)

    async def scenario(harness: Harness) -> None:
        first = await harness.create("c1", wanted, stdin=True)
        await first.task.start("c1")
        await write_fifo(first.bundle.fifo("stdin"), b"one\n")
        await output(first).until(b"got one\r\n")
        options = runc_pb2.CheckpointOptions(exit=True, terminal=True)
        await first.task.checkpoint("c1", dump, options)
        await first.task.wait("c1", timeout_s=10)
        await first.remove()

        second = await restored(harness, "c1", wanted, dump)
        await write_fifo(second.bundle.fifo("stdin"), b"two\n")
        await output(second).until(b"got two\r\n")
        await second.task.resize_pty("c1", width=70, height=20)
        await write_fifo(second.bundle.fifo("stdin"), b"\x04")
        assert (await second.task.wait("c1", timeout_s=10)).status == 0
        await output(second).ended()
        await second.remove()

    in_harness(criu_setup, scenario)


def test_input_of_a_pipe_is_connected_again(criu_setup: Setup, dump: str) -> None:
    """Without a terminal: stdin reaches a restored container, its end too."""
    wanted = spec.Wanted(["sh", "-c", "while read x; do echo got $x; done; exit 3"])

    async def scenario(harness: Harness) -> None:
        first = await harness.run("c1", wanted=wanted, stdin=True)
        await first.task.checkpoint("c1", dump, EXIT)
        await first.task.wait("c1", timeout_s=10)
        await first.remove()

        second = await restored(harness, "c1", wanted, dump)
        await write_fifo(second.bundle.fifo("stdin"), b"two\n")
        await output(second).until(b"got two\n")
        await second.task.close_io("c1")
        assert (await second.task.wait("c1", timeout_s=10)).status == 3
        await second.remove()

    in_harness(criu_setup, scenario)


def test_criu_takes_every_option(criu_setup: Setup, dump: str, tmp_path: Path) -> None:
    """It takes them all together; its log is kept in the client's folder (O-574)."""

    async def scenario(harness: Harness) -> None:
        container = await harness.run("c1", wanted=COUNTER)
        options = runc_pb2.CheckpointOptions(
            open_tcp=True,
            external_unix_sockets=True,
            terminal=True,
            file_locks=True,
            empty_namespaces=["network"],
            work_path=str(tmp_path / "work"),
        )
        await container.task.checkpoint("c1", dump, options)
        assert (tmp_path / "work" / "dump.log").stat().st_size > 0
        await end(container)

    in_harness(criu_setup, scenario)


def test_paused_container_stays_paused(criu_setup: Setup, dump: str) -> None:
    """Its image can be made, and it runs on only when it is resumed."""

    async def scenario(harness: Harness) -> None:
        container = await harness.run("c1", wanted=COUNTER)
        await counted(container)
        await container.task.pause("c1")
        await container.task.checkpoint("c1", dump)
        assert (await container.task.state("c1")).status == "PAUSED"
        await container.task.resume("c1")
        await counted(container)
        await end(container)

    in_harness(criu_setup, scenario)


# --- failures ----------------------------------------------------------------------------------


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
    """A text that says where to look, an empty work folder, a counter that counts on."""

    async def scenario(harness: Harness) -> None:
        container = await harness.run("c1", wanted=COUNTER)
        await counted(container)
        code, text = await refused(container.task.checkpoint("c1", path))
        said = "runc did not terminate successfully: exit status 1: "
        assert (code, text.startswith(said)) == (2, True)
        assert text.endswith(f" path= {container.bundle.path}/criu-dump.log")
        assert (await container.task.state("c1")).status == "RUNNING"
        assert os.listdir(os.path.join(container.bundle.path, "work")) == []
        await counted(container)
        await end(container)

    with place(Path(host.folder)) as path:
        in_harness(criu_setup, scenario)


@pytest.mark.ours("Go's has no limit of its own")
def test_checkpoint_that_hangs_is_killed_and_the_container_runs_on(
    criu_setup: Setup, dump: str, tmp_path: Path
) -> None:
    """CRIU waits in the middle of its work, everything stopped; then it is killed."""
    settings = tmp_path / "settings.toml"
    settings.write_text("checkpoint_s = 2.0\n")
    limited = replace(criu_setup, env={**criu_setup.env, "PYRUNC_CONFIG": str(settings)})
    os.mkdir(dump)
    os.mkfifo(os.path.join(dump, "pages-1.img"))  # nobody reads it

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


@pytest.mark.ours("Go's kill it with the call")
def test_checkpoint_outlives_its_caller(criu_setup: Setup, dump: str) -> None:
    """The image is complete though the client left in the middle; calls are answered meanwhile."""
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


@pytest.mark.ours("Go's has no limit of its own")
@pytest.mark.parametrize("file", ["core-1.img", "pages-1.img"])
def test_restore_that_hangs_is_killed_and_nothing_is_left(
    criu_setup: Setup, dump: str, tmp_path: Path, file: str
) -> None:
    """CRIU waits before or after it has made processes; then it is killed with all of them."""
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
        os.mkfifo(path)  # nobody writes it
        second = await harness.create("c1", COUNTER, checkpoint=dump)
        code, text = await refused(second.task.start("c1"))
        assert (code, text.startswith("OCI runtime restore failed: ")) == (2, True)
        assert (await second.task.state("c1")).status == "CREATED"
        os.rename(f"{path}.kept", path)
        await second.task.start("c1")
        await counted(second)
        await end(second)

    in_harness(limited, scenario)


@pytest.mark.ours("Go's remove what is mounted there")
def test_shim_that_dies_in_a_restore_leaves_the_containers_files_alone(
    criu_setup: Setup, host: Host, dump: str
) -> None:
    """The runtime, killed with it, had the root mounted in the folder that `delete` removes."""
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
    for folder in host.leaks.cgroups():  # of a killed runtime, which nobody knows: empty
        os.rmdir(folder)


def test_restore_of_a_broken_image_changes_nothing(criu_setup: Setup, dump: str) -> None:
    """The runtime's words, state created, nothing left of the attempt; then it works (O-560)."""

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


@pytest.mark.ours("2.x ignores criu_path, 1.6's passes it to every call")
def test_criu_is_found_by_the_option(setup: Setup, criu: str, host: Host, dump: str) -> None:
    """`criu_path`, with a runc that still has `--criu`; nothing on PATH."""
    os.unlink(os.path.join(host.bin, "criu"))

    async def scenario(harness: Harness) -> None:
        container = await harness.start_shim("c1", COUNTER)
        container.bundle.make_fifos()
        container.read(captured)
        options = runc_pb2.Options(criu_path=criu)
        await container.create(
            rootfs=[harness.root_mount(container.bundle)],
            stdio=Stdio("", container.bundle.fifo("stdout"), container.bundle.fifo("stderr")),
            options=pack(options.DESCRIPTOR.full_name, options.SerializeToString()),
        )
        await container.task.start("c1")
        await counted(container)
        await container.task.checkpoint("c1", dump)
        await end(container)

    version = subprocess.run(["runc", "--version"], check=True, capture_output=True, text=True)
    if not version.stdout.startswith(("runc version 1.0", "runc version 1.1")):
        pytest.skip("this runc has no --criu")
    in_harness(setup, scenario)


def test_oom_of_a_restored_container_is_told(criu_setup: Setup, dump: str) -> None:
    """The cgroup of a restored container is watched from its Start on."""
    script = "read x; tail /dev/zero; exit 1"
    wanted = spec.Wanted(["sh", "-c", script], memory_limit_bytes=32 << 20)

    async def scenario(harness: Harness) -> None:
        first = await harness.run("c1", wanted=wanted, stdin=True)
        await first.task.checkpoint("c1", dump, EXIT)
        await first.task.wait("c1", timeout_s=10)
        await first.remove()
        second = await restored(harness, "c1", wanted, dump)
        pid = (await second.task.connected("c1")).task_pid
        limit = "memory.max" if unified() else "memory.limit_in_bytes"
        assert (folder_of(pid, "memory") / limit).read_text() == f"{32 << 20}\n"
        await write_fifo(second.bundle.fifo("stdin"), b"\n")
        await second.task.wait("c1", timeout_s=30)
        await second.remove()
        assert harness.sink.told("c1")[-4:] == ["start c1", "oom c1", "exit c1", "delete c1"]

    in_harness(criu_setup, scenario)
