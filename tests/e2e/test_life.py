"""The lifecycle of a container with the harness, call by call."""

import asyncio
import contextlib
import hashlib
import os
import signal
import stat
import zlib
from dataclasses import replace
from pathlib import Path

import pytest

from protos import events_pb2
from shimv2.shimctl import spec
from shimv2.shimctl.container import Container
from shimv2.shimctl.harness import Harness, Setup
from shimv2.shimctl.reply import Generation
from shimv2.shimctl.streams import Capture, write_fifo
from shimv2.shimctl.testbed.leaks import alive
from shimv2.shimctl.testbed.runtimes import crun
from shimv2.shimctl.testbed.until import eventually
from shimv2.values.model import Stdio
from tests.support.harnessed import in_harness, refused
from tests.support.host import OTHER_SHIM, Host
from ttrpc import ConnectionClosed

pytestmark = pytest.mark.root

# The Go shims 1.6 and 1.7 do not know the newest daemon's input.
GENERATIONS = [g for g in Generation if not OTHER_SHIM or g in {Generation.V1_6, Generation.V1_7}]


def out(container: Container) -> Capture:
    assert isinstance(container.stdout, Capture)
    return container.stdout


def err(container: Container) -> Capture:
    assert isinstance(container.stderr, Capture)
    return container.stderr


async def end_empty_shim(container: Container) -> None:
    """Shut down a shim that never had a task; the `delete` of containerd 1.6's shim fails without
    one."""
    with contextlib.suppress(ConnectionClosed):
        await container.task.shutdown(container.id)
    await container.disconnect()
    await eventually(lambda: not os.path.exists(container.reply.path), "the socket to go")
    container.bundle.remove()


@pytest.mark.rule("cli.reply.8")
@pytest.mark.parametrize("generation", GENERATIONS, ids=lambda g: g.value)
def test_container_of_every_daemon_generation_runs_and_is_removed(
    setup: Setup, generation: Generation
) -> None:
    """Input and reply of `start` fit each generation of containerd."""

    async def scenario(harness: Harness) -> None:
        script = "echo out; echo err >&2; exit 3"
        container = await harness.run("c1", "sh", "-c", script)
        ended = await container.task.wait("c1")
        await container.outputs_ended()
        removed = await container.remove()

        assert container.reply.form in generation.forms
        assert (out(container).text, err(container).text) == ("out\n", "err\n")
        assert ended.status == 3
        assert removed.task == replace(ended, pid=removed.exit.pid)
        assert harness.sink.events_of("c1") == ["create c1", "start c1", "exit c1", "delete c1"]

    in_harness(replace(setup, generation=generation), scenario)


@pytest.mark.rule("cli.socket.2", "cli.socket.3")
def test_socket_address_and_modes_are_containerds(setup: Setup) -> None:
    """The socket's name is the documented hash, its mode 0600, its folder 0700."""

    async def scenario(harness: Harness) -> None:
        container = await harness.start_shim("c1", spec.Wanted(["true"]))
        grpc = harness.binary.grpc_address
        key = hashlib.sha256(f"{grpc}/{setup.namespace}/c1".encode()).hexdigest()

        assert container.reply.address == f"unix:///run/containerd/s/{key}"
        assert stat.S_IMODE(os.stat(container.reply.path).st_mode) == 0o600
        address = Path(container.bundle.path, "address")
        assert address.read_text() == container.reply.address
        await end_empty_shim(container)

    in_harness(setup, scenario)


@pytest.mark.rule("task.exits.8")
def test_every_report_of_an_exit_has_the_same_status_and_time(setup: Setup) -> None:
    """Wait, State, TaskExit, TaskDelete and Delete agree to the nanosecond."""

    async def scenario(harness: Harness) -> None:
        container = await harness.run("c1", "sh", "-c", "exit 9")
        task = container.task
        waited = await task.wait("c1")
        stated = (await task.state("c1")).exit
        event = await harness.sink.wait_for("/tasks/exit")
        removed = await container.remove()
        deleted = await harness.sink.wait_for("/tasks/delete")

        assert isinstance(event.message, events_pb2.TaskExit)
        assert isinstance(deleted.message, events_pb2.TaskDelete)
        assert stated is not None
        assert removed.task is not None
        times = {
            waited.at_ns,
            stated.at_ns,
            removed.task.at_ns,
            event.message.exited_at.ToNanoseconds(),
            deleted.message.exited_at.ToNanoseconds(),
        }
        assert len(times) == 1
        assert {waited.status, stated.status, removed.task.status} == {9}
        assert {event.message.exit_status, deleted.message.exit_status} == {9}

    in_harness(setup, scenario)


@pytest.mark.rule("events.order.1")
def test_events_carry_namespace_bare_type_and_metadata(setup: Setup) -> None:
    """Go clients compare the envelope, the type URL and the metadata of the call."""

    async def scenario(harness: Harness) -> None:
        container = await harness.run("c1", "true")
        await container.task.wait("c1")
        await container.remove()
        await harness.sink.wait_for("/tasks/delete")

        assert [event.type_url for event in harness.sink.events] == [
            f"containerd.events.Task{name}" for name in ("Create", "Start", "Exit", "Delete")
        ]
        assert {event.namespace for event in harness.sink.events} == {setup.namespace}
        assert {event.metadata for event in harness.sink.events} == {(setup.namespace,)}

    in_harness(setup, scenario)


@pytest.mark.vm
def test_crun_serves_as_well_as_runc(setup: Setup, host: Host) -> None:
    """The runtime is named by the options of `start` and Create."""

    async def scenario(harness: Harness) -> None:
        container = await harness.run("c1", "sh", "-c", "echo crun; exit 4")
        ended = await container.task.wait("c1")
        await container.outputs_ended()
        await container.remove()

        assert (out(container).text, ended.status) == ("crun\n", 4)

    in_harness(replace(setup, runtime=crun(host.folder)), scenario)


@pytest.mark.rule("events.order.2", "io.select.3")
def test_exec_has_its_own_streams_status_and_events(setup: Setup) -> None:
    """An exec is added, started and ends; its exit comes before the init's."""

    async def scenario(harness: Harness) -> None:
        container = await harness.run("c1", "sleep", "1000")
        task, bundle = container.task, container.bundle
        bundle.make_fifos(exec_id="e1")
        captured = Capture(bundle.fifo("stdout", exec_id="e1"))
        stdio = Stdio(stdout=captured_path(container), stderr="/dev/null")
        process = spec.process(spec.Wanted(["sh", "-c", "echo in; exit 5"]))
        await task.exec("c1", "e1", process, stdio=stdio)
        await task.start("c1", "e1")
        ended = await task.wait("c1", "e1")
        await captured.ended()
        assert (await task.state("c1", "e1")).status == "STOPPED"
        await task.delete("c1", "e1")
        await container.kill_and_wait()
        await container.remove()
        await harness.sink.wait_for("/tasks/delete")

        assert (captured.text, ended.status) == ("in\n", 5)
        assert harness.sink.events_of("c1") == [
            "create c1",
            "start c1",
            "exec-added e1",
            "exec-started e1",
            "exit e1",
            "exit c1",
            "delete c1",
        ]

    def captured_path(container: Container) -> str:
        return container.bundle.fifo("stdout", exec_id="e1")

    in_harness(setup, scenario)


@pytest.mark.rule("task.closeio.1", "io.open.5", "io.closeio.1", "io.closeio.2", "io.closeio.3")
def test_stdin_ends_only_with_close_io(setup: Setup) -> None:
    """The input does not end when a client disconnects, but at CloseIO."""

    async def scenario(harness: Harness) -> None:
        container = await harness.run("c1", "sh", "-c", "cat; echo ended", stdin=True)
        fifo = container.bundle.fifo("stdin")
        await write_fifo(fifo, b"first\n")
        await out(container).until(b"first\n")
        await write_fifo(fifo, b"second\n")  # the first writer has closed meanwhile
        await out(container).until(b"second\n")
        await container.task.close_io("c1")
        ended = await container.task.wait("c1")
        await container.outputs_ended()
        await container.remove()

        assert ended.status == 0
        assert out(container).lines == ["first", "second", "ended"]

    in_harness(setup, scenario)


@pytest.mark.rule("io.pipes.8", "io.pipes.10")
def test_twenty_mebibytes_through_cat_come_back_unchanged(setup: Setup) -> None:
    """In both directions at once, and more than all buffers can hold."""
    sent = os.urandom(1024 * 1024) * 20

    async def scenario(harness: Harness) -> None:
        container = await harness.run("c1", "cat", stdin=True)
        await write_fifo(container.bundle.fifo("stdin"), sent)
        await container.task.close_io("c1")
        await container.task.wait("c1")
        await container.outputs_ended()
        await container.remove()

        assert len(out(container).data) == len(sent)
        assert zlib.crc32(out(container).data) == zlib.crc32(sent)

    in_harness(setup, scenario)


@pytest.mark.rule("cli.end.2", "io.open.6", "io.open.7")
def test_second_client_reads_on_where_the_first_one_stopped(setup: Setup) -> None:
    """Readers may disconnect and return: nothing is lost, and nothing repeated."""
    script = "i=0; while [ $i -lt 200 ]; do i=$((i+1)); echo line $i; sleep 0.005; done"

    async def scenario(harness: Harness) -> None:
        first = await harness.run("c1", "sh", "-c", script)
        pid = (await first.task.connected("c1")).task_pid
        await out(first).until(b"line 20\n")
        await first.disconnect()

        second = await harness.found("c1")
        assert (await second.task.connected("c1")).task_pid == pid
        second.read(lambda _stream, fifo: Capture(fifo))
        await second.task.wait("c1")
        await second.outputs_ended()
        await second.remove()

        lines = (out(first).text + out(second).text).splitlines()
        assert lines == [f"line {i + 1}" for i in range(200)]

    in_harness(setup, scenario)


@pytest.mark.rule("cli.group.6")
@pytest.mark.vm
def test_containers_of_one_group_share_a_shim(setup: Setup) -> None:
    """The group annotation decides; the shim runs until its last container is deleted."""
    group = {"io.containerd.runc.v2.group": "pod1"}

    async def scenario(harness: Harness) -> None:
        wanted = spec.Wanted(["sleep", "1000"], annotations=group)
        first = await harness.run("c1", wanted=wanted)
        second = await harness.run("c2", wanted=wanted)
        shim = (await first.task.connected("c1")).shim_pid
        assert first.reply.address == second.reply.address
        assert (await second.task.connected("c2")).shim_pid == shim

        await first.kill_and_wait()
        await first.remove()
        assert (await second.task.state("c2")).status == "RUNNING"
        await second.kill_and_wait()
        await second.remove()
        assert not os.path.exists(second.reply.path)

    in_harness(setup, scenario)


@pytest.mark.rule("events.transport.5")
@pytest.mark.ours("other shims drop events after a few tries, and reorder them")
def test_events_wait_for_a_daemon_that_is_down(setup: Setup) -> None:
    """If the sink is down from Start to Delete, all events arrive later, in order."""

    async def scenario(harness: Harness) -> None:
        container = await harness.create("c1", spec.Wanted(["sh", "-c", "exit 1"]))
        await harness.sink.wait_for("/tasks/create")
        await harness.sink.close()
        await container.task.start("c1")
        await container.task.wait("c1")
        await container.task.delete("c1")
        await harness.sink.open()
        await harness.sink.wait_for("/tasks/delete", timeout_s=15)
        await container.remove()

        assert harness.sink.events_of("c1") == ["create c1", "start c1", "exit c1", "delete c1"]

    in_harness(setup, scenario)


@pytest.mark.rule("events.transport.4")
def test_sink_that_never_answers_holds_up_no_call(setup: Setup) -> None:
    """No call waits for the sending of events."""

    async def scenario(harness: Harness) -> None:
        harness.sink.stall()
        loop = asyncio.get_running_loop()
        began = loop.time()
        container = await harness.run("c1", "sleep", "1000")
        await container.kill_and_wait()
        await container.task.delete("c1")
        took_s = loop.time() - began
        harness.sink.answer()
        await container.remove()

        assert took_s < 4.0  # one unanswered Forward alone takes 5 s

    in_harness(setup, scenario)


@pytest.mark.rule("task.exits.10")
@pytest.mark.ours("the Go shim reports 137, and leaves the stale socket")
def test_delete_after_a_crash_reports_the_recorded_status(setup: Setup) -> None:
    """The exit was recorded on disk when it was reaped: `delete` reports it."""

    async def scenario(harness: Harness) -> None:
        container = await harness.run("c1", "sh", "-c", "exit 6")
        await container.task.wait("c1")
        removed = await container.destroy()

        assert removed.exit.status == 6
        assert removed.action.stderr == ""

    in_harness(setup, scenario)


@pytest.mark.rule("cli.delete.12", "cli.end.4")
@pytest.mark.vm
@pytest.mark.ours("the Go shim leaves the stale socket")
def test_delete_after_a_crash_ends_the_running_container(setup: Setup) -> None:
    """With the shim gone, `delete` kills the container, unmounts and reports 137."""

    async def scenario(harness: Harness) -> None:
        container = await harness.run("c1", "sleep", "1000")
        pid = (await container.task.state("c1")).pid
        removed = await container.destroy()

        assert removed.exit.status == 137
        assert removed.exit.pid == pid
        assert not alive(pid)

    in_harness(setup, scenario)


@pytest.mark.rule("cli.signals.1")
def test_sigterm_ends_the_shim_and_leaves_the_container_running(setup: Setup) -> None:
    """The shim exits in order; its container runs until `delete`."""

    async def scenario(harness: Harness) -> None:
        container = await harness.run("c1", "sleep", "1000")
        pid = (await container.task.state("c1")).pid
        os.kill((await container.task.connected("c1")).shim_pid, signal.SIGTERM)
        async with asyncio.timeout(10):
            await container.task.client.wait_closed()
        # A shim closes its connections before it exits.
        await eventually(lambda: not os.path.exists(container.reply.path), "the socket to go")
        assert alive(pid)
        await container.remove()
        assert not alive(pid)

    in_harness(setup, scenario)


def test_state_of_an_unknown_container_is_not_found(setup: Setup) -> None:
    """A shim without containers answers with the reference's text."""

    async def scenario(harness: Harness) -> None:
        container = await harness.start_shim("c1", spec.Wanted(["true"]))
        error = await refused(container.task.state("c1"))
        await end_empty_shim(container)

        assert error == (5, "container not created: not found")

    in_harness(setup, scenario)
