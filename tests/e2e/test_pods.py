"""Several containers in one shim: a pod, as containerd's CRI plugin makes and removes it."""

import asyncio
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from shimv2.shimctl import spec
from shimv2.shimctl.container import Container
from shimv2.shimctl.harness import Harness, Setup
from shimv2.shimctl.streams import Capture
from shimv2.shimctl.task import TaskClient
from shimv2.shimctl.testbed.leaks import alive, children_of
from shimv2.shimctl.testbed.runtimes import crun
from shimv2.shimctl.testbed.until import eventually
from shimv2.values.model import Stdio
from tests.support.boot import fds_at_rest, threads
from tests.support.faults import Faults
from tests.support.harnessed import add_exec, in_harness, refused, second_client
from tests.support.host import Host

pytestmark = pytest.mark.root

GROUP = "io.containerd.runc.v2.group"
SANDBOX = "io.kubernetes.cri.sandbox-id"
POD: Mapping[str, str] = {SANDBOX: "c1"}
FOREVER = ("sleep", "1000")


def member(*args: str, annotations: Mapping[str, str] = POD, terminal: bool = False) -> spec.Wanted:
    return spec.Wanted(args or FOREVER, annotations=annotations, terminal=terminal)


async def shim_pid(container: Container) -> int:
    return (await container.task.connected(container.id)).shim_pid


async def end(container: Container) -> None:
    await container.kill_and_wait()
    await container.remove()


async def created_without_start(
    harness: Harness, task: TaskClient, id_: str, wanted: spec.Wanted, stdio: Stdio | None = None
) -> int:
    """Create a member as containerd 2 does, on the pod's connection; return its init's pid.  In its
    bundle `start` never ran, and there is no `log`."""
    bundle = harness.make_bundle(id_, wanted)
    os.unlink(bundle.log)
    return await task.create(
        id_,
        bundle.path,
        stdio=stdio,
        rootfs=[harness.root_mount(bundle)],
        options=harness.options,
    )


@pytest.mark.parametrize(
    "annotations",
    [{SANDBOX: "pod"}, {GROUP: "g", SANDBOX: "pod"}, {GROUP: "", SANDBOX: "pod"}],
    ids=["sandbox", "group", "empty"],
)
def test_members_share_a_shim_until_the_last_one_is_deleted(
    setup: Setup, annotations: Mapping[str, str]
) -> None:
    """Shutdown works only for the last one; `delete` of one member does not affect the others."""

    async def scenario(harness: Harness) -> None:
        first = await harness.run("c1", wanted=member(annotations=annotations))
        second = await harness.run("c2", wanted=member(annotations=annotations))
        other = await harness.run("c3", wanted=member(annotations={SANDBOX: "another"}))
        shim = await shim_pid(first)
        assert (second.reply, await shim_pid(second)) == (first.reply, shim)
        assert other.reply.address != first.reply.address
        assert await shim_pid(other) != shim
        for container in (first, second):
            address = Path(container.bundle.path, "address")
            assert address.read_text() == first.reply.address

        await first.task.shutdown("c1")
        assert await refused(first.task.delete("c1")) == (
            2,
            "cannot delete a running process",
        )
        await end(first)  # Delete, Shutdown, `delete`, and its bundle is gone
        assert os.path.exists(second.reply.path)
        assert (await second.task.state("c2")).status == "RUNNING"
        await second.binary.delete(second.bundle)  # harmless to the server, not to c2
        assert await shim_pid(second) == shim
        assert (await second.task.wait("c2", timeout_s=10)).status == 137
        await second.remove()
        assert not os.path.exists(second.reply.path)
        await eventually(lambda: not alive(shim), "the shim to end")
        assert (await other.task.state("c3")).status == "RUNNING"
        await end(other)

    in_harness(setup, scenario)


async def output_on_a_terminal(container: Container, exec_id: str, *args: str) -> str:
    """Run an exec on a terminal to its end."""
    fifo, task = container.bundle.fifo("stdout", exec_id=exec_id), container.task
    container.bundle.make_fifos(exec_id=exec_id)
    screen = Capture(fifo)
    process = spec.process(spec.Wanted(list(args), terminal=True))
    await task.exec(container.id, exec_id, process, stdio=Stdio(stdout=fifo, terminal=True))
    await task.start(container.id, exec_id)
    await screen.ended()
    await task.delete(container.id, exec_id)
    return screen.text


@pytest.mark.timeout(60)
@pytest.mark.parametrize("runtime", ["runc", "crun"])
def test_pod_continues_after_its_first_container_is_deleted(
    setup: Setup, host: Host, tmp_path: Path, runtime: str
) -> None:
    """The shim's own folder and log are removed with the first bundle; all verbs still work."""
    logger = tmp_path / "logger"
    logger.write_text(f"#!/bin/sh\nexec 5>&-\nexec /bin/cat <&3 >{tmp_path}/out\n")
    logger.chmod(0o755)
    chosen = replace(setup, runtime=crun(host.folder)) if runtime == "crun" else setup

    async def scenario(harness: Harness) -> None:
        first = await harness.run("c1", wanted=member())
        second = await harness.run("c2", wanted=member())
        shim = await shim_pid(second)
        await end(first)
        assert os.readlink(f"/proc/{shim}/cwd").endswith("/c1 (deleted)")

        third = await harness.run("c3", wanted=member("sh", "-c", "echo third; exit 4"))
        assert await shim_pid(third) == shim
        assert (await third.task.wait("c3")).status == 4
        await third.outputs_ended()
        assert isinstance(third.stdout, Capture)
        assert third.stdout.text == "third\n"
        await third.remove()
        task = second.task
        await add_exec(second, "e1", "true")
        await task.start("c2", "e1")
        assert (await task.wait("c2", "e1")).status == 0
        await task.delete("c2", "e1")
        process = spec.process(spec.Wanted(["echo", "logged"]))
        await task.exec("c2", "e2", process, stdio=Stdio(stdout=f"binary://{logger}"))
        await task.start("c2", "e2")
        await task.wait("c2", "e2")
        await task.delete("c2", "e2")
        assert (tmp_path / "out").read_text() == "logged\n"
        assert await output_on_a_terminal(second, "e3", "tty") == "/dev/pts/0\r\n"
        if runtime == "runc":  # crun needs a freezer cgroup of its own
            await task.pause("c2")
            await task.resume("c2")
        await task.stats("c2")
        await task.kill("c2", 9, everything=True)
        assert (await task.wait("c2")).status == 137
        await second.remove()

    in_harness(chosen, scenario)


def test_member_is_created_in_a_bundle_that_start_never_saw(setup: Setup) -> None:
    """No `start`, no `log`, no `address` there; and its `delete` leaves the pod alone."""

    async def scenario(harness: Harness) -> None:
        pod = await harness.run("c1", wanted=member())
        task = pod.task
        pid = await created_without_start(harness, task, "c2", member("sh", "-c", "exit 3"))
        bundle = harness.bundle("c2")
        assert (await task.connected("c2")).task_pid == pid
        assert not {"log", "address"} & set(os.listdir(bundle.path))
        assert await task.start("c2") == pid
        assert (await task.wait("c2")).status == 3
        await task.shutdown("c2")
        assert (await task.delete("c2")).status == 3
        await task.shutdown("c2")
        await pod.binary.delete(bundle)
        bundle.remove()

        crashed = await created_without_start(harness, task, "c3", member())
        await task.start("c3")
        bundle = harness.bundle("c3")
        cleaned = await pod.binary.delete(bundle)
        assert cleaned.exit.pid == crashed
        assert (await task.wait("c3", timeout_s=10)).status == 137
        await task.delete("c3")
        bundle.remove()
        assert (await task.state("c1")).status == "RUNNING"
        assert os.path.exists(pod.reply.path)
        await end(pod)

    in_harness(setup, scenario)


def test_members_of_one_pid_namespace_are_killed_one_by_one(setup: Setup) -> None:
    """With `shareProcessNamespace`, Kill with `all` and the exit of an init affect one member
    only."""
    script = "sleep 1001 & sleep 1002 & read x </dev/zero"

    async def scenario(harness: Harness) -> None:
        pod = await harness.run("c1", wanted=member())
        namespace = f"/proc/{(await pod.task.state('c1')).pid}/ns/pid"

        async def joined(id_: str) -> Container:
            wanted = member("sh", "-c", script)
            container = await harness.start_shim(id_, wanted)
            path = Path(container.bundle.path, "config.json")
            config = json.loads(path.read_text())
            for each in config["linux"]["namespaces"]:
                if each["type"] == "pid":
                    each["path"] = namespace
            path.write_text(json.dumps(config))
            root = [harness.root_mount(container.bundle)]
            await container.create(rootfs=root, options=harness.options)
            await container.task.start(id_)
            pid = (await container.task.state(id_)).pid
            await eventually(lambda: len(children_of(pid)) == 2, "both children")
            return container

        killed, ended, stays = [await joined(id_) for id_ in ("c2", "c3", "c4")]
        of = {c.id: await c.task.pids(c.id) for c in (pod, killed, ended, stays)}
        assert {os.readlink(f"/proc/{pid}/ns/pid") for pids in of.values() for pid in pids} == {
            os.readlink(namespace)
        }
        await killed.task.kill("c2", 9, everything=True)
        assert (await killed.task.wait("c2", timeout_s=10)).status == 137
        await ended.task.kill("c3", 9)
        assert (await ended.task.wait("c3", timeout_s=10)).status == 137
        gone = of["c2"] + of["c3"]
        await eventually(lambda: not any(alive(pid) for pid in gone), "both to be gone")
        assert await stays.task.pids("c4") == of["c4"]
        assert await pod.task.pids("c1") == of["c1"]
        for container in (killed, ended):
            await container.remove()
        await end(stays)
        await end(pod)

    in_harness(setup, scenario)


@pytest.mark.rule("io.terminal.16")
@pytest.mark.ours("its files and threads grow")
def test_twenty_terminals_in_a_pod_leave_nothing_in_its_shim(setup: Setup) -> None:
    """A console that is not closed uses up the machine's terminals."""
    _terminals(setup, 20)


@pytest.mark.rule("io.terminal.16")
@pytest.mark.soak
@pytest.mark.ours("its files and threads grow")
def test_thousand_terminals_in_a_pod_leave_nothing_in_its_shim(setup: Setup) -> None:
    """The same for as many restarts as in a week."""
    _terminals(setup, 1000)


def _terminals(setup: Setup, count: int) -> None:
    async def scenario(harness: Harness) -> None:
        pod = await harness.run("c1", wanted=member())
        task, pid = pod.task, await shim_pid(pod)
        before = fds_at_rest(pid), threads(pid)
        for number in range(count):
            id_ = f"m{number}"
            bundle = harness.bundle(id_)
            folder = f"{harness.setup.state}/fifo"
            os.mkdir(folder)
            names = [f"{folder}/in", f"{folder}/out"]
            for name in names:
                os.mkfifo(name)
            screen = Capture(names[1])
            stdio = Stdio(names[0], names[1], terminal=True)
            await created_without_start(harness, task, id_, member("tty", terminal=True), stdio)
            await task.start(id_)
            assert (await task.wait(id_)).status == 0
            await screen.ended()
            await task.delete(id_)
            assert screen.text == "/dev/pts/0\r\n"
            bundle.remove()
            shutil.rmtree(folder)

        # The thread of the mounts has ended; the kernel may not have removed it yet.
        await eventually(lambda: threads(pid) == before[1], "the threads to be as before")
        assert fds_at_rest(pid) == before[0]
        await end(pod)

    in_harness(setup, scenario, limit_s=30 + count)


@pytest.mark.ours("Shutdown waits for the Create")
def test_shutdown_while_a_member_is_being_made_is_nothing(faulty: Setup, faults: Faults) -> None:
    """A Create in progress keeps the shim running, although there is no container yet."""

    async def scenario(harness: Harness) -> None:
        faults.hold("create.before")
        container = await harness.start_shim("c1", member())
        root = [harness.root_mount(container.bundle)]
        create = container.create(rootfs=root, options=harness.options)
        creating = asyncio.create_task(create)
        await eventually(lambda: faults.held("create.before"), "the runtime to be held")
        other = await second_client(container)
        await other.shutdown("c1")
        assert os.path.exists(container.reply.path)
        faults.release()
        assert await creating > 0
        await other.close()
        await container.remove()

    in_harness(faulty, scenario)


@pytest.mark.ours("fails half way, with another text")
def test_create_after_the_last_shutdown_is_refused(setup: Setup) -> None:
    """A shim that waits for the acknowledgement of its last events makes no new container."""

    async def scenario(harness: Harness) -> None:
        container = await harness.run("c1", wanted=member("true"))
        await container.task.wait("c1")
        other = await second_client(container)
        shim = await shim_pid(container)
        await container.outputs_ended()
        harness.sink.stall()  # the delete event is not acknowledged
        await container.task.delete("c1")
        await container.task.shutdown("c1")
        call = created_without_start(harness, other, "c2", member("true"))
        assert await refused(call) == (9, "the shim is stopping: failed precondition")
        assert alive(shim)
        harness.sink.answer()
        await eventually(lambda: not alive(shim), "the shim to end")
        await other.close()
        harness.bundle("c2").remove()
        await container.remove()

    in_harness(setup, scenario)
