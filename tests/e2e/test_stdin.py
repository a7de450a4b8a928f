"""Input of real containers: when it ends; and the owner of the streams."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from shimv2.shimctl import spec
from shimv2.shimctl.container import Container
from shimv2.shimctl.harness import Harness, Setup
from shimv2.shimctl.reply import runc_options
from shimv2.shimctl.streams import Capture
from shimv2.shimctl.testbed.until import eventually
from shimv2.values.model import Stdio
from tests.support.boot import fds
from tests.support.harnessed import in_harness
from tests.support.host import RUNTIME_UNDER_TEST

pytestmark = pytest.mark.root


@contextmanager
def writer(fifo: str) -> Iterator[int]:
    """Open a client's end of a stdin FIFO, which the shim must have open."""
    number = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
    try:
        yield number
    finally:
        os.close(number)


def is_broken(number: int) -> bool:
    """Whether a client that writes gets EPIPE, because there is no reader any more."""
    try:
        os.write(number, b"x" * 4096)
    except BrokenPipeError:
        return True
    except BlockingIOError:
        return False
    return False


async def started(container: Container, exec_id: str, script: str, *, close: bool) -> Capture:
    """Run an exec with stdin and stdout; with `close`, CloseIO comes before Start."""
    task, bundle = container.task, container.bundle
    bundle.make_fifos(exec_id=exec_id)
    stdin, stdout = (bundle.fifo(name, exec_id=exec_id) for name in ("stdin", "stdout"))
    output = Capture(stdout)
    process = spec.process(spec.Wanted(["sh", "-c", script]))
    await task.exec(container.id, exec_id, process, stdio=Stdio(stdin, stdout, "/dev/null"))
    if close:
        await task.close_io(container.id, exec_id)
    await task.start(container.id, exec_id)
    return output


@pytest.mark.rule("io.pipes.4", "io.closeio.4", "io.closeio.5", "io.closeio.7")
def test_close_io_ends_the_input_with_the_last_writer(setup: Setup) -> None:
    """On a created init, with a client's writer open, twice, and after the exit."""

    async def scenario(harness: Harness) -> None:
        wanted = spec.Wanted(["sh", "-c", "cat; echo ended"])
        container = await harness.create("c1", wanted, stdin=True)
        task, fifo = container.task, container.bundle.fifo("stdin")
        shim = (await task.connected("c1")).shim_pid
        assert isinstance(container.stdout, Capture)
        with writer(fifo) as client:
            await task.close_io("c1")
            await task.start("c1")
            os.write(client, b"one\n")
            await container.stdout.until(b"one\n")
            with writer(fifo) as another:
                os.write(another, b"two\n")
            await container.stdout.until(b"two\n")
            await task.close_io("c1")
            os.write(client, b"three\n")
            await container.stdout.until(b"three\n")
            assert (await task.state("c1")).status == "RUNNING"
        assert (await task.wait("c1", timeout_s=10)).status == 0
        await task.close_io("c1")
        await container.outputs_ended()
        assert container.stdout.lines == ["one", "two", "three", "ended"]
        # Already before Delete no file of the client is open in the shim.
        assert not {path for path in fds(shim).values() if container.bundle.own in path}
        await container.remove()

    in_harness(setup, scenario)


@pytest.mark.rule("io.closeio.6", "io.closeio.7")
@pytest.mark.ours("a CloseIO before Start of an exec has no effect")
def test_close_io_before_an_exec_runs_takes_effect_later(setup: Setup) -> None:
    """Otherwise clients that call it once would wait for ever."""

    async def scenario(harness: Harness) -> None:
        container = await harness.run("c1", "sleep", "1000")
        output = await started(container, "e1", "cat; echo ended", close=True)
        assert (await container.task.wait("c1", "e1", timeout_s=10)).status == 0
        await output.ended()
        assert output.text == "ended\n"
        await container.task.close_io("c1", "e1")
        await container.task.delete("c1", "e1")
        await container.kill_and_wait()
        await container.remove()

    in_harness(setup, scenario)


@pytest.mark.rule("io.closeio.8")
@pytest.mark.ours("a client's writer waits until Delete")
def test_input_that_its_process_has_closed_breaks_the_clients_pipe(setup: Setup) -> None:
    """If the process has closed stdin or exited, a client gets EPIPE instead of waiting for
    ever."""

    async def scenario(harness: Harness) -> None:
        container = await harness.run("c1", "sleep", "1000")
        task, bundle = container.task, container.bundle
        closes = await started(container, "e1", "exec <&-; echo closed; sleep 1000", close=False)
        await closes.until(b"closed\n")
        ends = await started(container, "e2", "read x; echo ended", close=False)
        with writer(bundle.fifo("stdin", exec_id="e2")) as late:
            os.write(late, b"line\n" + b"x" * 4000)  # more than it reads
            assert (await task.wait("c1", "e2", timeout_s=10)).status == 0
            await eventually(lambda: is_broken(late), "the pipe of the ended one to break")
        await ends.ended()
        fifo = bundle.fifo("stdin", exec_id="e1")
        reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)  # so that the open below succeeds
        with writer(fifo) as client:
            os.close(reader)
            await eventually(lambda: is_broken(client), "the closed one's pipe to break")
        await task.kill("c1", 9, "e1")
        await task.wait("c1", "e1")
        for exec_id in ("e1", "e2"):
            await task.delete("c1", exec_id)
        await container.kill_and_wait()
        await container.remove()

    in_harness(setup, scenario)


@pytest.mark.rule("io.pipes.1", "io.pipes.3")
@pytest.mark.parametrize("uid", [0, 1000])
def test_streams_belong_to_the_owner_that_the_options_name(setup: Setup, uid: int) -> None:
    """For init and exec, so that a process of another user can open /dev/stdout."""
    show = "stat -L -c %u:%g:%a /proc/self/fd/0 /proc/self/fd/1 /proc/self/fd/2"
    script = f"{show}; echo opened >/dev/stdout; echo again >/dev/stderr"

    async def scenario(harness: Harness) -> None:
        wanted = spec.Wanted(["sh", "-c", f"{script}; read x"], uid=uid, gid=1003)
        container = await harness.start_shim("c1", wanted)
        bundle, task = container.bundle, container.task
        bundle.make_fifos()
        container.read(lambda _stream, fifo: Capture(fifo))
        options = runc_options(binary_name=setup.runtime, io_uid=1001, io_gid=1002)
        stdio = Stdio(bundle.fifo("stdin"), bundle.fifo("stdout"), bundle.fifo("stderr"))
        await container.create(rootfs=[harness.root_mount(bundle)], stdio=stdio, options=options)
        await task.start("c1")
        streams = [container.stdout, container.stderr]
        bundle.make_fifos(exec_id="e1")
        paths = [bundle.fifo(name, exec_id="e1") for name in ("stdin", "stdout", "stderr")]
        of_exec = [Capture(paths[1]), Capture(paths[2])]
        process = spec.process(spec.Wanted(["sh", "-c", script], uid=uid, gid=1003))
        await task.exec("c1", "e1", process, stdio=Stdio(paths[0], paths[1], paths[2]))
        await task.start("c1", "e1")
        assert (await task.wait("c1", "e1")).status == 0
        await task.delete("c1", "e1")
        await task.close_io("c1")
        await task.wait("c1")
        # The runtime changes the owner to the process's user: runc keeps the group, crun does not.
        owners = [f"{uid}:{1002 if RUNTIME_UNDER_TEST == 'runc' else 1003}:600"] * 3
        for out, err in (streams, of_exec):
            assert isinstance(out, Capture)
            assert isinstance(err, Capture)
            await out.ended()
            await err.ended()
            assert out.lines == [*owners, "opened"]
            assert err.lines == ["again"]
        await container.remove()

    in_harness(setup, scenario)
