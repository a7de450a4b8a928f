"""Create from a checkpoint, and the restore at Start: states, texts and failures, without CRIU.

For a restore that succeeds a script replaces the runtime.
"""

import asyncio
import os
from pathlib import Path

import pytest
from google.protobuf import any_pb2

from protos import runc_pb2
from shimv2.shimctl import spec
from shimv2.shimctl.container import Container
from shimv2.shimctl.harness import Harness, Setup, captured
from shimv2.shimctl.streams import Capture
from shimv2.shimctl.testbed.leaks import alive
from shimv2.values.model import Stdio
from tests.support.faults import Faults
from tests.support.harnessed import add_exec, in_harness, refused, second_client
from tests.support.host import words

pytestmark = pytest.mark.root

SLEEP = spec.Wanted(["sleep", "1000"])
# Has the result of a restore: the container is made, and runs.
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


async def end(container: Container) -> None:
    await container.kill_and_wait()
    await container.remove()


@pytest.fixture
def image(tmp_path: Path) -> str:
    (tmp_path / "image").mkdir()
    return str(tmp_path / "image")


def output(container: Container) -> Capture:
    assert isinstance(container.stdout, Capture)
    return container.stdout


def pipes_of(pid: int) -> list[str]:
    links = (os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd"))
    return sorted(link for link in links if link.startswith("pipe:"))


async def pid_of(container: Container) -> int:
    return (await container.task.connected(container.id)).task_pid


@pytest.mark.rule("task.restore.1", "task.restore.4")
def test_container_to_be_restored_is_created_and_nothing_else(setup: Setup, image: str) -> None:
    """The row createdCheckpoint of the state table, and a restore that fails."""

    async def scenario(harness: Harness) -> None:
        container = await harness.create("c1", SLEEP, checkpoint=image)
        task = container.task
        state = await task.state("c1")
        assert (state.status, state.exit, await pid_of(container)) == ("CREATED", None, 0)
        exec_ = task.exec("c1", "e1", spec.process(SLEEP))
        assert await refused(exec_) == (2, "cannot exec in a created state")
        assert await refused(task.pause("c1")) == (2, "cannot pause task in created state")
        assert await refused(task.resume("c1")) == (2, "cannot resume task in created state")
        assert await refused(task.checkpoint("c1", image)) == (
            2,
            "cannot checkpoint a task in created state",
        )
        assert await refused(task.stats("c1")) == (5, "cgroup does not exist: not found")
        code, text = await refused(task.pids("c1"))
        assert (code, "does not exist" in text) == (2, True)
        unknown = words(runc="does not exist", crun="No such file or directory")
        code, text = await refused(task.update("c1", {}))
        assert (code, unknown in text) == (2, True)
        code, text = await refused(task.start("c1"))
        assert (code, text.startswith("OCI runtime restore failed: ")) == (2, True)
        assert (await task.state("c1")).status == "CREATED"
        assert await refused(task.kill("c1", 9)) == (5, "no such container: not found")
        deleted = await task.delete("c1")
        assert (deleted.pid, deleted.status) == (0, 0)
        assert await refused(task.state("c1")) == (5, "container not created: not found")
        await container.remove()
        assert harness.sink.events_of("c1") == ["create c1", "delete c1"]

    in_harness(setup, scenario)


@pytest.mark.rule("task.restore.3")
def test_restored_container_has_streams_execs_stats_and_ends(
    faulty: Setup, faults: Faults, image: str
) -> None:
    """From Start on it behaves as any other container; its events are in order."""

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
        assert harness.sink.events_of("c1") == [
            *("create c1", "start c1", "exec-added e1", "exec-started e1"),
            *("exit e1", "exit c1", "delete c1"),
        ]

    in_harness(faulty, scenario)


@pytest.mark.rule("task.restore.3")
def test_restored_container_has_its_terminal(faulty: Setup, faults: Faults, image: str) -> None:
    """The console socket is passed to restore as to create."""

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


@pytest.mark.ours("the shim of 1.6 loses an exit during a restore")
def test_restored_process_that_ends_at_once_is_started_before_it_exits(
    faulty: Setup, faults: Faults, image: str
) -> None:
    """Start comes before exit, however fast the process exits."""

    async def scenario(harness: Harness) -> None:
        container = await harness.create("c1", spec.Wanted(["true"]), checkpoint=image)
        # The shim reaps it while it still waits for the runtime.
        wait = "while [ -d /proc/$(cat $PIDFILE) ]; do :; done; exit 0"
        faults.at("restore.before", RESTORE + wait)
        pid = await container.task.start("c1")
        ended = await container.task.wait("c1", timeout_s=10)
        await container.remove()
        assert (pid > 0, ended.status) == (True, 0)
        assert harness.sink.events_of("c1") == ["create c1", "start c1", "exit c1", "delete c1"]

    in_harness(faulty, scenario)


@pytest.mark.rule("task.restore.4")
@pytest.mark.ours("Go shims leave a running container that no shim knows")
def test_restore_whose_output_no_client_opens_is_undone_and_can_be_repeated(
    faulty: Setup, faults: Faults, image: str, tmp_path: Path
) -> None:
    """The state is unchanged, and nothing is left behind."""

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
        assert harness.sink.events_of("c1") == ["create c1", "start c1", "exit c1", "delete c1"]

    in_harness(faulty, scenario)


@pytest.mark.runc("crun gives the streams to the process's own user and group")
def test_restored_containers_streams_belong_to_the_configured_user(
    faulty: Setup, faults: Faults, image: str
) -> None:
    """IoUid and IoGid apply to restored containers, too."""

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


def test_unrestored_container_closes_its_streams(setup: Setup, image: str) -> None:
    """Delete without a Start: the client reads the end of its streams."""

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
