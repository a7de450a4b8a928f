"""Checkpoint and restore with the real CRIU, through the shim and through a containerd."""

import os
import subprocess
from pathlib import Path

import pytest

from protos import runc_pb2
from shimv2.shimctl import spec
from shimv2.shimctl.harness import Harness, Setup, captured
from shimv2.shimctl.reply import pack
from shimv2.shimctl.streams import write_fifo
from shimv2.values.model import Stdio
from tests.support.cgroups import folder_of, unified
from tests.support.counting import COUNTER, EXIT, counted, end, output, restored
from tests.support.harnessed import add_exec, in_harness
from tests.support.host import Host

pytestmark = [
    pytest.mark.root,
    pytest.mark.criu,
    pytest.mark.runc("Debian's crun is built without checkpoints"),
]


@pytest.mark.rule("task.checkpoint.7", "task.restore.5")
def test_counter_is_restored_and_counts_on(criu_setup: Setup, dump: str) -> None:
    """The first container continues; the second begins where the image was made."""

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
        assert harness.sink.events_of("c2") == [
            *("create c2", "start c2", "exec-added e1", "exec-started e1"),
            *("exit e1", "exit c2", "delete c2"),
        ]

    in_harness(criu_setup, scenario)


@pytest.mark.rule("task.checkpoint.7")
def test_checkpoint_with_exit_ends_the_container(criu_setup: Setup, dump: str) -> None:
    """It exits as if killed, the runtime does not know it at Delete, and the image can be
    restored."""

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
        assert harness.sink.events_of("c1") == ["create c1", "start c1", "exit c1", "delete c1"]

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
    """Without a terminal: stdin and its end reach a restored container."""
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


def test_criu_accepts_every_option(criu_setup: Setup, dump: str, tmp_path: Path) -> None:
    """CRIU accepts all options together; its log is kept in the client's folder."""

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
    """Its image can be made, and it continues only after a Resume."""

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


@pytest.mark.ours("2.x ignores criu_path, 1.6 passes it to every call")
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


def test_oom_of_a_restored_container_is_published(criu_setup: Setup, dump: str) -> None:
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
        assert harness.sink.events_of("c1")[-4:] == ["start c1", "oom c1", "exit c1", "delete c1"]

    in_harness(criu_setup, scenario)
