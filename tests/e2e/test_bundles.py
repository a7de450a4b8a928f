"""The files of a bundle, and bundles with missing files."""

import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from protos import events_pb2
from shimv2.shimctl import spec
from shimv2.shimctl.harness import Harness, Setup
from shimv2.shimctl.testbed.leaks import alive
from shimv2.shimctl.testbed.until import eventually
from shimv2.values.model import Stdio
from tests.support.faults import Faults
from tests.support.harnessed import add_exec, assert_alive_and_empty, in_harness, refused
from tests.support.host import Host

pytestmark = pytest.mark.root

SLEEP = spec.Wanted(["sleep", "1000"])


@pytest.mark.rule("task.create.20")
def test_root_is_made_where_there_is_none(setup: Setup) -> None:
    """With the mode of containerd, and only if there is a mount for it."""

    async def scenario(harness: Harness) -> None:
        container = await harness.start_shim("c1", SLEEP)
        rootfs = Path(container.bundle.path, "rootfs")
        rootfs.rmdir()
        await container.create(rootfs=[harness.root_mount(container.bundle)])
        assert rootfs.is_mount()
        await container.task.delete("c1")
        assert stat.S_IMODE(rootfs.stat().st_mode) == 0o711
        await container.remove()

    in_harness(setup, scenario)


@pytest.mark.ours("the Go shim leaves the stale socket")
@pytest.mark.rule("options.runc.1", "options.runc.2", "cli.spawn.10")
def test_runtime_and_its_root_are_those_of_create(setup: Setup, host: Host) -> None:
    """For the container, its execs, its Delete, and `delete` after a crash."""
    asked = Path(host.folder, "asked")
    runtime = Path(host.folder, "myrunc")
    runtime.write_text(
        f'#!/bin/sh\necho "$@" >>{asked}\n'
        f"echo $GOMAXPROCS $OTEL_SERVICE_NAME >{asked}.env\n"
        'exec runc "$@"\n'
    )
    runtime.chmod(0o755)
    root = Path(host.folder, "root")

    def verbs() -> list[str]:
        """Return the verbs of that runtime with that root since the last call."""
        lines = asked.read_text().splitlines()
        asked.write_text("")
        head = f"--root {root}/{setup.namespace} "
        assert all(line.startswith(head) for line in lines)
        known = {"create", "start", "exec", "kill", "delete"}
        return [word for line in lines for word in line.split() if word in known]

    async def scenario(harness: Harness) -> None:
        container = await harness.run("c1", *SLEEP.args)
        assert Path(root, setup.namespace, "c1").is_dir()
        await add_exec(container, "e1", "true")
        await container.task.start("c1", "e1")
        await container.task.wait("c1", "e1")
        assert verbs() == ["create", "start", "exec"]
        assert Path(f"{asked}.env").read_text() == "4 containerd-shim-c1\n"
        await container.kill_and_wait()
        await container.task.delete("c1")
        assert verbs() == ["kill", "delete"]
        await container.remove()
        asked.write_text("")
        container = await harness.run("c1", *SLEEP.args)
        pid = (await container.task.state("c1")).pid
        await container.destroy()
        assert verbs() == ["create", "start", "delete"]
        assert not alive(pid)
        assert not Path(root, setup.namespace, "c1").exists()

    in_harness(replace(setup, runtime=str(runtime), runtime_root=str(root)), scenario)


@pytest.mark.rule("task.words.8")
@pytest.mark.ours("Go shims leave the container to the daemon's `delete`")
@pytest.mark.parametrize("act", ["rm $PIDFILE", ": >$PIDFILE", "echo x >$PIDFILE"])
def test_runtime_that_leaves_no_pid_fails_create(faulty: Setup, faults: Faults, act: str) -> None:
    """The shim cannot know which exit to wait for, so it removes the container."""

    async def scenario(harness: Harness) -> None:
        container = await harness.start_shim("c1", SLEEP)
        root = [harness.root_mount(container.bundle)]
        faults.at("create.after", f"echo $PID >{faults.folder}/pid; {act}")
        code, text = await refused(container.create(rootfs=root, options=harness.options))
        prefix = "failed to retrieve OCI runtime container pid: "
        assert (text.startswith(prefix), code in {2, 5}) == (True, True)
        pid = int(Path(faults.folder, "pid").read_text())
        await eventually(lambda: not alive(pid), "what was made to end")
        await assert_alive_and_empty(container)
        await container.create(rootfs=root, options=harness.options)
        await container.remove()

    in_harness(faulty, scenario)


@pytest.mark.rule("task.exits.11")
def test_leftovers_of_a_container_without_a_configuration_are_killed(setup: Setup) -> None:
    """Without config.json the shim cannot know whether the kernel kills them."""

    async def scenario(harness: Harness) -> None:
        wanted = spec.Wanted(SLEEP.args, host_namespaces=("pid",))
        container = await harness.run("c1", wanted=wanted)
        await add_exec(container, "e1", "sleep", "1000")
        pid = await container.task.start("c1", "e1")
        os.unlink(os.path.join(container.bundle.path, "config.json"))
        await container.kill_and_wait()
        await eventually(lambda: not alive(pid), "the exec to be killed")
        await container.remove()

    in_harness(setup, scenario)


@pytest.mark.rule("events.topics.9")
@pytest.mark.parametrize("terminal", [False, True])
def test_create_event_has_its_streams_even_if_there_are_none(setup: Setup, terminal: bool) -> None:
    """The field is always set, even without any value."""

    async def scenario(harness: Harness) -> None:
        container = await harness.start_shim("c1", spec.Wanted(SLEEP.args, terminal=terminal))
        stdio = Stdio()
        if terminal:
            container.bundle.make_fifos()
            reader = os.open(container.bundle.fifo("stdout"), os.O_RDONLY | os.O_NONBLOCK)
            stdio = Stdio(stdout=container.bundle.fifo("stdout"), terminal=True)
        await container.create(rootfs=[harness.root_mount(container.bundle)], stdio=stdio)
        event = (await harness.sink.wait_for("/tasks/create")).message
        assert isinstance(event, events_pb2.TaskCreate)
        assert event.HasField("io")
        assert event.io == events_pb2.TaskIO(stdout=stdio.stdout, terminal=terminal)
        await container.remove()
        if terminal:
            os.close(reader)

    in_harness(setup, scenario)
