"""Checkpoint, and Create from one: states, texts and failures, without CRIU.

Where a checkpoint or a restore has to succeed, a script does it in the runtime's place.
"""

import asyncio
import os
from dataclasses import replace
from pathlib import Path

import pytest
from google.protobuf import any_pb2
from google.protobuf.empty_pb2 import Empty

from protos import runc_pb2, task_v2_pb2
from shimv2.ctl import spec
from shimv2.ctl.container import Container
from shimv2.ctl.harness import Harness, Setup, captured
from shimv2.ctl.streams import Capture
from shimv2.model import Stdio
from tests.support.faults import Faults
from tests.support.harnessed import add_exec, in_harness, refused, second_client
from tests.support.leaks import alive
from tests.support.until import eventually

pytestmark = pytest.mark.root

SLEEP = spec.Wanted(["sleep", "1000"])
OPTIONS = "containerd.runc.v1.CheckpointOptions"
CREATED = (2, "cannot checkpoint a task in created state")
# What a restore is to whoever looks at the result: the container is made, and runs.
RESTORE = """
ROOT=$2
while [ $# -gt 1 ]; do
    case $1 in
        --bundle) BUNDLE=$2;;
        --console-socket) CONSOLE="--console-socket $2";;
        --image-path) [ -d "$2" ] || exit 1;;
    esac
    shift
done
runc --root "$ROOT" create --bundle "$BUNDLE" --pid-file "$PIDFILE" $CONSOLE "$1" || exit
runc --root "$ROOT" start "$1"
"""
FREEZE = """
for ID; do :; done
runc --root "$2" pause "$ID"
"""
THAW = FREEZE.replace("pause", "resume")


async def end(container: Container) -> None:
    await container.kill_and_wait()
    await container.remove()


async def checkpoint_with(container: Container, url: str, value: bytes) -> None:
    """Send a Checkpoint with any options."""
    options = any_pb2.Any(type_url=url, value=value)
    request = task_v2_pb2.CheckpointTaskRequest(id=container.id, path="/no/such", options=options)
    await container.task.call("Checkpoint", request, Empty)


def test_container_to_be_restored_is_created_and_nothing_else(setup: Setup) -> None:
    """The row createdCheckpoint of the state table, and a restore that fails (O-559 to O-564)."""

    async def scenario(harness: Harness) -> None:
        container = await harness.create("c1", SLEEP, checkpoint="/no/such")
        task = container.task
        state = await task.state("c1")
        assert (state.status, state.exit, await pid_of(container)) == ("CREATED", None, 0)
        exec_ = task.exec("c1", "e1", spec.process(SLEEP))
        assert await refused(exec_) == (2, "cannot exec in a created state")
        assert await refused(task.pause("c1")) == (2, "cannot pause task in created state")
        assert await refused(task.resume("c1")) == (2, "cannot resume task in created state")
        assert await refused(task.checkpoint("c1", "/no/such")) == CREATED
        assert await refused(task.stats("c1")) == (5, "cgroup does not exist: not found")
        code, text = await refused(task.pids("c1"))
        assert (code, "does not exist" in text) == (2, True)
        code, text = await refused(task.update("c1", {}))
        assert (code, "does not exist" in text) == (2, True)
        code, text = await refused(task.start("c1"))
        assert (code, text.startswith("OCI runtime restore failed: ")) == (2, True)
        assert (await task.state("c1")).status == "CREATED"
        assert await refused(task.kill("c1", 9)) == (5, "no such container: not found")
        deleted = await task.delete("c1")
        assert (deleted.pid, deleted.status) == (0, 0)
        assert await refused(task.state("c1")) == (5, "container not created: not found")
        await container.remove()
        assert harness.sink.told("c1") == ["create c1", "delete c1"]

    in_harness(setup, scenario)


def output(container: Container) -> Capture:
    assert isinstance(container.stdout, Capture)
    return container.stdout


def pipes_of(pid: int) -> list[str]:
    links = (os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd"))
    return sorted(link for link in links if link.startswith("pipe:"))


async def pid_of(container: Container) -> int:
    return (await container.task.connected(container.id)).task_pid


def test_options_of_a_checkpoint_are_of_exactly_one_type(setup: Setup) -> None:
    """The URL is compared as a whole, unlike that of Create's options (O-74, O-75)."""

    async def scenario(harness: Harness) -> None:
        container = await harness.run("c1", *SLEEP.args)
        assert await refused(checkpoint_with(container, "foo.Bar", b"")) == (
            2,
            "type with url foo.Bar: not found",
        )
        url = f"type.googleapis.com/{OPTIONS}"
        code, text = await refused(checkpoint_with(container, url, b""))
        assert (code, url in text) == (2, True)
        assert "can't unmarshal type" in text or text.endswith("not found")  # the latter: 1.6
        code, _ = await refused(checkpoint_with(container, OPTIONS, b"\xff"))
        assert code == 2
        assert (await container.task.state("c1")).status == "RUNNING"
        await end(container)

    in_harness(setup, scenario)


@pytest.mark.ours("1.6's dies of it")
def test_options_of_a_checkpoint_of_another_type_are_refused(setup: Setup) -> None:
    """In the words of 1.7 and later."""

    async def scenario(harness: Harness) -> None:
        container = await harness.run("c1", *SLEEP.args)
        other = "containerd.runc.v1.Options"
        assert await refused(checkpoint_with(container, other, b"")) == (
            2,
            f'can\'t unmarshal type "{other}" to output "{OPTIONS}"',
        )
        await end(container)

    in_harness(setup, scenario)


def test_containers_without_processes_have_no_checkpoint(setup: Setup) -> None:
    """The column Checkpoint of the state table."""

    async def scenario(harness: Harness) -> None:
        container = await harness.create("c1", SLEEP)
        assert await refused(container.task.checkpoint("c1", "/no/such")) == CREATED
        await container.task.start("c1")
        await container.kill_and_wait()
        assert await refused(container.task.checkpoint("c1", "/no/such")) == (
            2,
            "cannot checkpoint a stopped container",
        )
        assert await refused(container.task.checkpoint("nosuch", "/no/such")) == (
            5,
            "container not created: not found",
        )
        await container.remove()

    in_harness(setup, scenario)


def test_failed_checkpoint_names_the_log_and_leaves_only_that(
    faulty: Setup, faults: Faults
) -> None:
    """One line of the runtime's, CRIU's log in the bundle, nothing in the work folder (O-76)."""

    async def scenario(harness: Harness) -> None:
        container = await harness.run("c1", *SLEEP.args)
        log = Path(container.bundle.path, "criu-dump.log")
        work = Path(container.bundle.path, "work")
        faults.at(
            "checkpoint.before",
            f"mkdir -p {work}/criu-work; echo why >{work}/criu-work/dump.log\n"
            "echo 'criu failed: type DUMP errno 0'; echo 'log file: /x'; exit 1",
        )
        assert await refused(container.task.checkpoint("c1", "/no/such")) == (
            2,
            (
                f"{faults.binary} did not terminate successfully: exit status 1: "
                f"criu failed: type DUMP errno 0 path= {log}"
            ),
        )
        assert log.read_text() == "why\n"
        assert os.listdir(work) == []
        assert (await container.task.state("c1")).status == "RUNNING"
        await end(container)
        assert harness.sink.told("c1") == ["create c1", "start c1", "exit c1", "delete c1"]

    in_harness(faulty, scenario)


def test_work_folder_of_the_client_is_kept(faulty: Setup, faults: Faults) -> None:
    """It is where CRIU's logs of a success can be read (options 6.2)."""

    async def scenario(harness: Harness) -> None:
        container = await harness.run("c1", *SLEEP.args)
        work = Path(container.bundle.path, "mine")
        faults.at("checkpoint.before", f"mkdir -p {work}; echo fine >{work}/dump.log; exit 0")
        options = runc_pb2.CheckpointOptions(work_path=str(work))
        await container.task.checkpoint("c1", "/no/such", options)
        assert (work / "dump.log").read_text() == "fine\n"
        assert not Path(container.bundle.path, "criu-dump.log").exists()
        await end(container)

    in_harness(faulty, scenario)


@pytest.mark.ours("Go's leave it frozen")
def test_checkpoint_that_is_killed_does_not_leave_the_container_frozen(
    faulty: Setup, faults: Faults
) -> None:
    """CRIU freezes the cgroup: whoever kills it has to thaw."""

    async def scenario(harness: Harness) -> None:
        container = await harness.run("c1", *SLEEP.args)
        faults.at("checkpoint.before", FREEZE + "kill -9 $$")
        code, text = await refused(container.task.checkpoint("c1", "/no/such"))
        assert (code, "exit status 137" in text) == (2, True)
        await add_exec(container, "e1", "true")
        await container.task.start("c1", "e1")  # refused by runc if it were frozen
        assert (await container.task.wait("c1", "e1", timeout_s=10)).status == 0
        await end(container)

    in_harness(faulty, scenario)


@pytest.mark.ours("Go's let it run on, as paused")
def test_checkpoint_that_is_killed_does_not_let_a_paused_container_run(
    faulty: Setup, faults: Faults
) -> None:
    """CRIU thaws the cgroup for a moment: what is told as paused stays so."""

    async def scenario(harness: Harness) -> None:
        container = await harness.run("c1", *SLEEP.args)
        await container.task.pause("c1")
        faults.at("checkpoint.before", THAW + "kill -9 $$")
        await refused(container.task.checkpoint("c1", "/no/such"))
        assert (await container.task.state("c1")).status == "PAUSED"
        await container.task.resume("c1")  # refused by runc if it ran
        await end(container)
        assert harness.sink.told("c1")[2:4] == ["paused c1", "resumed c1"]

    in_harness(faulty, scenario)


@pytest.mark.ours("Go's kill the runtime with the call")
def test_checkpoint_outlives_its_caller_and_is_joined_by_the_same_call(
    faulty: Setup, faults: Faults
) -> None:
    """An image is not broken off because the daemon is restarted."""

    async def scenario(harness: Harness) -> None:
        container = await harness.run("c1", *SLEEP.args)
        faults.hold("checkpoint.before")
        client = await second_client(container)
        first = asyncio.create_task(client.checkpoint("c1", "/no/such"))
        await eventually(lambda: faults.held("checkpoint.before"), "the runtime to be called")
        await client.close()
        await asyncio.wait([first])
        assert first.exception() is not None
        for _ in range(2):  # by the second answer the shim has seen that the first client is gone
            await container.task.state("c1")
        faults.at("checkpoint.after", "exit 0")
        again = asyncio.create_task(container.task.checkpoint("c1", "/no/such"))
        await asyncio.sleep(0)
        assert (await container.task.state("c1")).status == "RUNNING"  # and the call has arrived
        faults.release()
        await again
        assert faults.held("checkpoint.after")
        await end(container)

    in_harness(faulty, scenario)


@pytest.mark.ours("Go's have no limit but the caller's")
def test_time_limit_of_a_checkpoint_is_a_setting_of_its_own(
    faulty: Setup, faults: Faults, tmp_path: Path
) -> None:
    settings = tmp_path / "settings.toml"
    settings.write_text("checkpoint_s = 0.3\n")
    limited = replace(faulty, env={**faulty.env, "PYRUNC_CONFIG": str(settings)})

    async def scenario(harness: Harness) -> None:
        container = await harness.run("c1", *SLEEP.args)
        faults.at("checkpoint.before", "sleep 1000")
        code, text = await refused(container.task.checkpoint("c1", "/no/such"))
        assert (code, "did not terminate successfully: exit status 137" in text) == (2, True)
        assert (await container.task.state("c1")).status == "RUNNING"
        await end(container)

    in_harness(limited, scenario)


# --- restore -----------------------------------------------------------------------------------


@pytest.fixture
def image(tmp_path: Path) -> str:
    (tmp_path / "image").mkdir()
    return str(tmp_path / "image")


def test_restored_container_has_streams_execs_stats_and_ends(
    faulty: Setup, faults: Faults, image: str
) -> None:
    """From Start on it is a container like any other, its events in order."""

    async def scenario(harness: Harness) -> None:
        wanted = spec.Wanted(["sh", "-c", "echo out; echo err >&2; read x; echo $x; exit 7"])
        container = await harness.create("c1", wanted, stdin=True, checkpoint=image)
        task, other = container.task, await second_client(container)
        waiting = asyncio.create_task(other.wait("c1"))
        faults.at("restore.before", RESTORE + "exit")
        pid = await task.start("c1")
        assert (await task.state("c1")).status == "RUNNING"
        assert await pid_of(container) == pid
        assert pid in await task.pids("c1")
        assert (await task.stats("c1")).type_url.endswith(".Metrics")
        await add_exec(container, "e1", "true")
        await task.start("c1", "e1")
        assert (await task.wait("c1", "e1", timeout_s=10)).status == 0
        assert await refused(task.start("c1")) == (2, "cannot start a running process")
        stdin = os.open(container.bundle.fifo("stdin"), os.O_WRONLY)
        os.write(stdin, b"word\n")
        os.close(stdin)
        assert (await waiting).status == 7
        await other.close()
        await container.outputs_ended()
        assert output(container).text == "out\nword\n"
        removed = await container.remove()
        assert removed.task is not None
        assert (removed.task.pid, removed.task.status) == (pid, 7)
        assert harness.sink.told("c1") == [
            *("create c1", "start c1", "exec-added e1", "exec-started e1"),
            *("exit e1", "exit c1", "delete c1"),
        ]

    in_harness(faulty, scenario)


def test_restored_container_has_its_terminal(faulty: Setup, faults: Faults, image: str) -> None:
    """The console socket is handed to restore as to create (task API 3.3)."""

    async def scenario(harness: Harness) -> None:
        wanted = spec.Wanted(["sh", "-c", "tty; read x; stty size"], terminal=True)
        container = await harness.create("c1", wanted, stdin=True, checkpoint=image)
        await container.task.resize_pty("c1", width=1, height=1)  # there is none yet
        faults.at("restore.before", RESTORE + "exit")
        await container.task.start("c1")
        await output(container).until(b"/dev/pts/0")
        await container.task.resize_pty("c1", width=70, height=20)
        stdin = os.open(container.bundle.fifo("stdin"), os.O_WRONLY)
        os.write(stdin, b"\n")
        os.close(stdin)
        await container.task.wait("c1", timeout_s=10)
        await output(container).ended()
        assert output(container).text.endswith("20 70\r\n")
        await container.remove()

    in_harness(faulty, scenario)


@pytest.mark.ours("1.6's loses an exit during a restore")
def test_restored_process_that_ends_at_once_is_started_before_it_exits(
    faulty: Setup, faults: Faults, image: str
) -> None:
    """Start, exit: in this order, however fast it was (task API 3.5)."""

    async def scenario(harness: Harness) -> None:
        container = await harness.create("c1", spec.Wanted(["true"]), checkpoint=image)
        # The shim reaps it while it still waits for the runtime.
        wait = "while [ -d /proc/$(cat $PIDFILE) ]; do :; done; exit 0"
        faults.at("restore.before", RESTORE + wait)
        pid = await container.task.start("c1")
        ended = await container.task.wait("c1", timeout_s=10)
        await container.remove()
        assert (pid > 0, ended.status) == (True, 0)
        assert harness.sink.told("c1") == ["create c1", "start c1", "exit c1", "delete c1"]

    in_harness(faulty, scenario)


@pytest.mark.ours("Go's leave a running container that nobody knows")
def test_restore_whose_output_nobody_opens_is_undone_and_can_be_repeated(
    faulty: Setup, faults: Faults, image: str, tmp_path: Path
) -> None:
    """The state is unchanged, and so is the machine."""

    async def scenario(harness: Harness) -> None:
        container = await harness.start_shim("c1", spec.Wanted(["sleep", "1000"]))
        container.bundle.make_fifos()
        fifo = container.bundle.fifo("stdout")
        gone = f"{fifo}.gone"
        os.rename(fifo, gone)
        await container.create(
            rootfs=[harness.root_mount(container.bundle)],
            options=harness.options,
            stdio=Stdio(stdout=fifo),
            checkpoint=image,
        )
        faults.at("restore.before", RESTORE + f"cp $PIDFILE {tmp_path}/pid; exit 0")
        code, text = await refused(container.task.start("c1"))
        assert (code, text.startswith("failed to start io pipe copy: ")) == (2, True)
        assert not alive(int((tmp_path / "pid").read_text()))
        assert (await container.task.state("c1")).status == "CREATED"
        assert await pid_of(container) == 0
        os.rename(gone, fifo)
        container.read(captured)
        faults.at("restore.before", RESTORE + "exit")
        assert await container.task.start("c1") > 0
        await end(container)
        assert harness.sink.told("c1") == ["create c1", "start c1", "exit c1", "delete c1"]

    in_harness(faulty, scenario)


def test_restored_containers_streams_belong_to_the_configured_user(
    faulty: Setup, faults: Faults, image: str
) -> None:
    """IoUid and IoGid apply to restored containers, too (pitfall 71)."""

    async def scenario(harness: Harness) -> None:
        script = "stat -Lc %u:%g /proc/self/fd/1"
        container = await harness.start_shim("c1", spec.Wanted(["sh", "-c", script]))
        container.bundle.make_fifos()
        container.read(captured)
        options = runc_pb2.Options(binary_name=faults.binary, io_uid=11, io_gid=12)
        await container.create(
            rootfs=[harness.root_mount(container.bundle)],
            options=any_pb2.Any(
                type_url="containerd.runc.v1.Options", value=options.SerializeToString()
            ),
            stdio=Stdio("", container.bundle.fifo("stdout"), container.bundle.fifo("stderr")),
            checkpoint=image,
        )
        faults.at("restore.before", RESTORE + "exit")
        await container.task.start("c1")
        await container.task.wait("c1", timeout_s=10)
        await output(container).until(b":12\n")  # runc gives them to the process's own user
        await container.remove()

    in_harness(faulty, scenario)


def test_unrestored_container_lets_go_of_its_streams(setup: Setup, image: str) -> None:
    """Delete without a Start: the client's readers see the end."""

    async def scenario(harness: Harness) -> None:
        container = await harness.start_shim("c1", SLEEP)
        container.bundle.make_fifos()
        shim = (await container.task.connected("c1")).shim_pid
        before = pipes_of(shim)
        fifo = container.bundle.fifo
        await container.create(
            stdio=Stdio(fifo("stdin"), fifo("stdout"), fifo("stderr")),
            options=harness.options,
            checkpoint=image,
        )
        assert pipes_of(shim) != before
        await container.task.close_io("c1")
        await container.task.delete("c1")
        assert pipes_of(shim) == before
        await container.remove()

    in_harness(setup, scenario)
