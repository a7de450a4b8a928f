"""The fields of replies, files and events when no error occurs."""

import asyncio
import json
import os
import signal
import stat
import subprocess
from pathlib import Path

import pytest
from google.protobuf.empty_pb2 import Empty

from protos import runc_pb2, task_v2_pb2
from shimv2.shimctl import spec
from shimv2.shimctl.bundle import mounts_below
from shimv2.shimctl.container import Container
from shimv2.shimctl.harness import Harness, Setup
from shimv2.shimctl.testbed.leaks import alive
from shimv2.shimctl.testbed.until import eventually
from tests.support.cgroups import folder_of
from tests.support.faults import Faults
from tests.support.harnessed import add_exec, in_harness, refused, second_client
from tests.support.ttrpc_peer import Peer
from ttrpc import ConnectionClosed

pytestmark = pytest.mark.root

SLEEP = spec.Wanted(["sleep", "1000"])
ZERO_TIME_S = -62_135_596_800  # Go's: the year 1
POD = {"io.containerd.runc.v2.group": "pod"}


async def state_of(container: Container, exec_id: str = "") -> task_v2_pb2.StateResponse:
    """Return State's reply as the protobuf message."""
    request = task_v2_pb2.StateRequest(id=container.id, exec_id=exec_id)
    return await container.task.call("State", request, task_v2_pb2.StateResponse)


def command(*argv: str) -> None:
    subprocess.run(argv, check=True)


def parent_of(pid: int) -> int:
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(words[1])


@pytest.mark.rule(
    "task.create.1",
    "task.create.5",
    "task.start.1",
    "task.state.1",
    "task.state.3",
    "task.delete.1",
    "task.connect.1",
    "cli.files.2",
    "cli.files.4",
    "cli.files.5",
    "cli.serve.6",
)
def test_state_has_all_fields_of_the_request(setup: Setup) -> None:
    """State from Create to Delete, the files in the bundle, and those that are removed at the
    end."""

    async def scenario(harness: Harness) -> None:
        script = "touch /here; exec sleep 1000"
        container = await harness.create("c1", spec.Wanted(["sh", "-c", script]), stdin=True)
        bundle = container.bundle
        created = await state_of(container)
        assert (created.id, created.bundle, created.exec_id) == ("c1", bundle.path, "")
        assert [created.stdin, created.stdout, created.stderr] == [
            bundle.fifo(name) for name in ("stdin", "stdout", "stderr")
        ]
        assert not created.terminal
        assert (created.exit_status, created.HasField("exited_at")) == (0, True)
        assert (created.exited_at.seconds, created.exited_at.nanos) == (ZERO_TIME_S, 0)
        ran = Path(bundle.path, "rootfs", "here")
        assert not ran.exists()

        pid = await container.task.start("c1")
        connected = await container.task.connected("c1")
        assert pid == created.pid == (await state_of(container)).pid == connected.task_pid
        assert parent_of(pid) == connected.shim_pid
        await eventually(ran.exists, "the program to run")

        files = {name: Path(bundle.path, name) for name in ("options.json", "runtime")}
        assert {stat.S_IMODE(path.stat().st_mode) for path in files.values()} == {0o600}
        assert [path.read_text() for path in files.values()] == ["{}", ""]
        assert Path(bundle.path, "init.pid").read_text() == str(pid)
        assert Path(bundle.path, "log.json").is_file()

        runtime_state = f"/run/containerd/runc/{setup.namespace}/c1"
        assert os.path.isdir(runtime_state)
        ended = await container.kill_and_wait()
        deleted = await container.task.delete("c1")
        assert (deleted.pid, deleted.status, deleted.at_ns) == (pid, 137, ended.at_ns)
        assert not os.path.exists(runtime_state)
        assert mounts_below(bundle.path) == []
        await container.remove()

    in_harness(setup, scenario)


@pytest.mark.ours("the shim of containerd 1.6 unmounts the root only")
@pytest.mark.rule("task.delete.2")
def test_what_is_mounted_below_the_root_is_unmounted_too(setup: Setup) -> None:
    """Also mounts that another process made there meanwhile."""

    async def scenario(harness: Harness) -> None:
        container = await harness.run("c1", "true")
        await container.task.wait("c1")
        below = Path(container.bundle.path, "rootfs", "below")
        below.mkdir()
        command("mount", "-t", "tmpfs", "tmpfs", str(below))
        await container.task.delete("c1")
        assert mounts_below(container.bundle.path) == []
        await container.remove()

    in_harness(setup, scenario)


@pytest.mark.rule("task.create.13")
def test_container_without_mounts_is_left_its_root(setup: Setup) -> None:
    """dockerd mounts the root itself: the mount is kept."""

    async def scenario(harness: Harness) -> None:
        container = await harness.start_shim("c1", spec.Wanted(["sh", "-c", "exit 3"]))
        config = Path(container.bundle.path, "config.json")
        whole = json.loads(config.read_text())
        whole["root"]["readonly"] = True
        config.write_text(json.dumps(whole))
        root = f"{container.bundle.path}/rootfs"
        command("mount", "--bind", setup.rootfs, root)
        await container.create()
        assert mounts_below(container.bundle.path) == [root]
        await container.task.start("c1")
        assert (await container.task.wait("c1")).status == 3
        await container.task.delete("c1")
        assert mounts_below(container.bundle.path) == [root]
        command("umount", root)
        await container.remove()

    in_harness(setup, scenario)


@pytest.mark.rule("task.delete.6", "events.order.4", "task.wait.5")
@pytest.mark.ours("Wait of the Go shim never returns")
def test_container_that_never_ran_has_no_exit_of_its_own(setup: Setup) -> None:
    """Status 0, the zero time, a killed init; its exit may be published after the Delete."""

    async def scenario(harness: Harness) -> None:
        container = await harness.create("c1", SLEEP)
        pid = (await state_of(container)).pid
        other = await second_client(container)
        waiter = asyncio.create_task(other.wait("c1"))
        await other.state("c1")  # answered after the Wait has arrived
        request = task_v2_pb2.DeleteRequest(id="c1")
        answer = await container.task.call("Delete", request, task_v2_pb2.DeleteResponse)
        assert (answer.pid, answer.exit_status, answer.exited_at.seconds) == (pid, 0, ZERO_TIME_S)
        async with asyncio.timeout(5):
            assert (await waiter).status in {
                0,
                137,
            }  # 0 if Delete came before the reaping of the init
        await eventually(lambda: not alive(pid), "the init to be gone")
        await other.close()
        await container.remove()
        await harness.sink.wait_for("/tasks/delete")
        events = harness.sink.events_of("c1")
        assert (events[0], sorted(set(events[1:]) | {"exit c1"})) == (
            "create c1",
            ["delete c1", "exit c1"],
        )

    in_harness(setup, scenario)


@pytest.mark.rule("task.pids.1", "task.start.2", "task.exec.1")
def test_pids_name_the_execs(setup: Setup) -> None:
    """The init, an exec with its id, and what they started."""

    async def scenario(harness: Harness) -> None:
        container = await harness.run("c1", "sh", "-c", "sleep 1000 & exec sleep 1001")
        init = (await state_of(container)).pid
        await add_exec(container, "e1", "sleep", "1002")
        assert (await state_of(container, "e1")).pid == 0
        pid = await container.task.start("c1", "e1")
        request = task_v2_pb2.PidsRequest(id="c1")

        async def infos() -> dict[int, tuple[str, str]]:
            answer = await container.task.call("Pids", request, task_v2_pb2.PidsResponse)
            found = {}
            for each in answer.processes:
                details = runc_pb2.ProcessDetails.FromString(each.info.value)
                found[each.pid] = (each.info.type_url, details.exec_id)
            return found

        found = await infos()
        while len(found) < 3:  # the shell may not have started its child yet
            found = await infos()
        assert len(found) == 3
        assert found[init] == ("", "")
        assert found[pid] == ("containerd.runc.v1.ProcessDetails", "e1")
        assert os.readlink(f"/proc/{pid}/ns/pid") == os.readlink(f"/proc/{init}/ns/pid")
        await container.kill_and_wait()
        await container.remove()

    in_harness(setup, scenario)


@pytest.mark.ours("Go shims run the runtime for the processes")
@pytest.mark.rule("task.pids.4", "task.state.4", "task.kill.6")
def test_reads_need_no_runtime(faulty: Setup, faults: Faults) -> None:
    """State, Pids, Stats, Connect, and the signal of an exec: from memory and the kernel."""

    async def scenario(harness: Harness) -> None:
        container = await harness.run("c1", *SLEEP.args)
        task = container.task
        await add_exec(container, "e1", "sleep", "1000")
        await task.start("c1", "e1")
        os.rename(faults.binary, f"{faults.binary}.away")
        state = await task.state("c1")
        assert (state.status, state.pid in await task.pids("c1")) == ("RUNNING", True)
        assert (await task.connected("c1")).task_pid == state.pid
        assert (await task.stats("c1")).value
        await task.kill("c1", signal.SIGKILL, "e1")
        assert (await task.wait("c1", "e1", timeout_s=10)).status == 137
        os.rename(f"{faults.binary}.away", faults.binary)
        await container.kill_and_wait()
        await container.remove()

    in_harness(faulty, scenario)


@pytest.mark.ours("Kill of the Go shim waits for the verb")
@pytest.mark.rule("task.kill.8", "task.exits.9")
def test_kill_does_not_wait_for_a_stuck_verb(faulty: Setup, faults: Faults) -> None:
    """A container can be killed while its Start hangs."""

    async def scenario(harness: Harness) -> None:
        container = await harness.create("c1", SLEEP)
        faults.hold("start.after")
        start = asyncio.create_task(container.task.start("c1"))
        await eventually(lambda: faults.held("start.after"), "the runtime to be called")
        other = await second_client(container)
        await other.kill("c1", signal.SIGKILL)
        assert (await other.wait("c1", timeout_s=10)).status == 137
        assert not start.done()
        faults.release()
        await start
        await other.close()
        await container.remove()

    in_harness(faulty, scenario)


@pytest.mark.rule("task.start.8", "events.topics.8")
def test_start_that_fails_leaves_the_container_created(faulty: Setup, faults: Faults) -> None:
    """No event, the runtime's error text, and it can be started again."""

    async def scenario(harness: Harness) -> None:
        container = await harness.create("c1", SLEEP)
        faults.at("start.before", "echo startbad >&2; exit 1")
        code, text = await refused(container.task.start("c1"))
        assert (code, text.startswith("OCI runtime start failed: ")) == (2, True)
        assert "startbad" in text
        assert (await container.task.state("c1")).status == "CREATED"
        await container.task.start("c1")
        await container.kill_and_wait()
        await container.remove()
        assert harness.sink.events_of("c1") == ["create c1", "start c1", "exit c1", "delete c1"]

    in_harness(faulty, scenario)


@pytest.mark.rule("task.errors.7")
def test_start_that_is_too_late_changes_nothing(setup: Setup) -> None:
    """A deadline in the past: Go's error text; a later Start succeeds."""

    async def scenario(harness: Harness) -> None:
        container = await harness.create("c1", SLEEP)
        with Peer.connect(container.reply.path) as peer:
            service = "containerd.task.v2.Task"
            # A string in field 1 is encoded like the id.
            await peer.request(1, "Start", "c1", service=service, timeout_ns=-1)
            expected = "OCI runtime start failed: context deadline exceeded: <nil>"
            assert await peer.refusal() == (1, 2, expected)
        assert (await container.task.state("c1")).status == "CREATED"
        await container.task.start("c1")
        await container.kill_and_wait()
        await container.remove()

    in_harness(setup, scenario)


@pytest.mark.rule("task.stats.3")
def test_stats_of_a_cgroup_that_vanished_are_no_error(setup: Setup) -> None:
    """Another process removed it before the Delete."""

    async def scenario(harness: Harness) -> None:
        container = await harness.run("c1", *SLEEP.args)
        pid = (await state_of(container)).pid
        folders = {folder_of(pid, name) for name in ("memory", "pids", "cpu", "cpuacct", "blkio")}
        url = (await container.task.stats("c1")).type_url
        await container.kill_and_wait()
        for folder in folders:
            folder.rmdir()
        assert (await container.task.stats("c1")).type_url == url
        await container.remove()

    in_harness(setup, scenario)


@pytest.mark.rule("task.shutdown.2", "task.shutdown.3", "cli.end.1", "events.transport.9")
def test_shim_runs_until_a_shutdown(setup: Setup) -> None:
    """Also without a container.  Then Shutdown ignores its id, and the last event is sent before
    the exit."""

    async def scenario(harness: Harness) -> None:
        container = await harness.run("c1", "true")
        task = container.task
        await harness.sink.wait_for("/tasks/start")
        harness.sink.stall()
        await task.wait("c1")
        shim = (await task.connected("c1")).shim_pid
        await task.delete("c1")
        assert (await task.connected("c1")).shim_pid == shim
        assert os.path.exists(container.reply.path)
        try:
            await task.shutdown("another")
        except ConnectionClosed:
            pytest.fail("the answer comes before the end")
        for _ in range(20):
            await task.connected("c1")  # an event is not sent yet, so open connections are kept
        harness.sink.answer()
        await task.client.wait_closed()
        await eventually(lambda: not os.path.exists(container.reply.path), "the socket to go")
        await eventually(lambda: not alive(shim), "the shim to exit")
        assert harness.sink.events_of("c1") == ["create c1", "start c1", "exit c1", "delete c1"]
        await container.remove()

    in_harness(setup, scenario)


@pytest.mark.rule("task.closeio.1", "task.closeio.2", "task.closeio.3")
def test_close_io_does_not_look_at_its_flag(setup: Setup) -> None:
    """It closes stdin whatever the flag; a second call is no error."""

    async def scenario(harness: Harness) -> None:
        container = await harness.run("c1", "sh", "-c", "cat; exit 4", stdin=True)
        request = task_v2_pb2.CloseIORequest(id="c1", stdin=False)
        for _ in range(2):
            await container.task.call("CloseIO", request, Empty)
        assert (await container.task.wait("c1", timeout_s=10)).status == 4
        await container.remove()

    in_harness(setup, scenario)


@pytest.mark.rule("cli.group.7")
def test_member_of_a_pod_needs_no_start_of_its_own(setup: Setup) -> None:
    """Newer daemons connect to the pod's shim and call Create for another bundle."""

    async def scenario(harness: Harness) -> None:
        wanted = spec.Wanted(SLEEP.args, annotations=POD)
        first = await harness.run("c1", wanted=wanted)
        member = harness.make_bundle("c2", spec.Wanted(["sh", "-c", "exit 4"], annotations=POD))
        await first.task.create("c2", member.path, rootfs=[harness.root_mount(member)])
        assert not os.path.exists(os.path.join(member.path, "address"))
        await first.task.start("c2")
        assert (await first.task.wait("c2", timeout_s=10)).status == 4
        await first.task.delete("c2")
        member.remove()
        assert (await first.task.state("c1")).status == "RUNNING"
        await first.kill_and_wait()
        await first.remove()
        assert harness.sink.events_of("c2") == ["create c2", "start c2", "exit c2", "delete c2"]

    in_harness(setup, scenario)
