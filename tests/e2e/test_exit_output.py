"""A client closes its end of the output at the exit event: by then it has read everything."""

import asyncio
import os
from collections.abc import Awaitable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from shimv2.shimctl import spec
from shimv2.shimctl.container import Container
from shimv2.shimctl.harness import Harness, Setup
from shimv2.shimctl.streams import Capture, Output
from shimv2.values.model import Stdio
from tests.support.harnessed import in_harness

pytestmark = pytest.mark.root

SIZE = 60_000  # of an output that fits into the FIFO
MUCH = 4 << 20
LONG_S = 30.0  # longer than on any machine
AT_ONCE_S = 15.0  # half of it, for the same reason

TERMINAL = pytest.mark.parametrize("terminal", [False, True], ids=["pipes", "terminal"])
WHO = pytest.mark.parametrize("exec_id", ["", "e1"], ids=["init", "exec"])


def patient(setup: Setup, folder: Path) -> Setup:
    """Set a limit for draining that is long enough for the slowest machine."""
    settings = folder / "settings.toml"
    settings.write_text(f"exit_output_s = {LONG_S}\n")
    return replace(setup, env={**setup.env, "PYRUNC_CONFIG": str(settings)})


class Idle(Output):
    """A connected client that reads only when the test calls it."""

    def __init__(self, fifo: str) -> None:
        super().__init__(fifo)
        self._loop.remove_reader(self._fd)

    def some(self) -> bytes:
        """Read some bytes; b"" if there are none, now or at the end."""
        try:
            return os.read(self._fd, 4096)
        except BlockingIOError:
            return b""


async def started(harness: Harness, script: str, exec_id: str, *, terminal: bool) -> Container:
    """Run a process whose output an idle client reads: an init, or an exec."""
    wanted = spec.Wanted(["sh", "-c", script], terminal=terminal)
    if not exec_id:
        container = await harness.create("c1", wanted, output=lambda _, fifo: Idle(fifo))
    else:
        container = await harness.run("c1", "sleep", "1000")
        bundle = container.bundle
        bundle.make_fifos(exec_id=exec_id)
        out, err = (bundle.fifo(name, exec_id=exec_id) for name in ("stdout", "stderr"))
        stdio = Stdio(stdout=out, stderr="" if terminal else err, terminal=terminal)
        container.read(lambda _, fifo: Idle(fifo), exec_id=exec_id)
        await container.task.exec("c1", exec_id, spec.process(wanted), stdio=stdio)
    await container.task.start("c1", exec_id)
    await stopped(container, exec_id)
    return container


async def stopped(container: Container, exec_id: str) -> None:
    """Wait until State reports the exit."""
    async with asyncio.timeout(AT_ONCE_S):
        while (await container.task.state("c1", exec_id)).status != "STOPPED":
            pass


async def removed(container: Container, exec_id: str) -> None:
    for output in (container.stdout, container.stderr):
        if output is not None:
            output.close()
    if exec_id:
        await container.task.delete("c1", exec_id)
        await container.kill_and_wait()
    await container.remove()


def exit_reports(
    harness: Harness, container: Container, exec_id: str
) -> list[asyncio.Task[object]]:
    """Wait for the exit by Wait and by the event."""
    event = harness.sink.wait_for("/tasks/exit", process_id=exec_id or "c1", timeout_s=LONG_S)
    ways: Sequence[Awaitable[object]] = (container.task.wait("c1", exec_id), event)
    return [asyncio.ensure_future(way) for way in ways]


@pytest.mark.rule("task.wait.6")
@pytest.mark.ours("unread output in the FIFO is lost")
@TERMINAL
@WHO
def test_exit_is_published_when_a_slow_client_has_read_the_output(
    setup: Setup, tmp_path: Path, exec_id: str, terminal: bool
) -> None:
    """The client reads a little at a time and stops at the exit event; State answers at once."""
    make = f"head -c {SIZE} /dev/zero"
    script = f"stty -opost; {make} | tr '\\0' x" if terminal else f"{make} | tr '\\0' x"

    async def scenario(harness: Harness) -> None:
        container = await started(harness, script, exec_id, terminal=terminal)
        client = container.stdout
        assert isinstance(client, Idle)
        ends = exit_reports(harness, container, exec_id)
        data = b""
        while not any(each.done() for each in ends):
            data += client.some()
            # A round trip, in which an event that was sent too early would arrive.
            assert (await container.task.state("c1", exec_id)).status == "STOPPED"
        client.close()
        await asyncio.gather(*ends)

        assert data == b"x" * SIZE
        await removed(container, exec_id)

    in_harness(patient(setup, tmp_path), scenario)


@pytest.mark.rule("task.wait.6")
@pytest.mark.ours("it waits for no client")
@TERMINAL
@WHO
def test_exit_waits_a_quarter_of_a_second_for_a_client_that_never_reads(
    setup: Setup, exec_id: str, terminal: bool
) -> None:
    """A client that does not read must not delay the events of the others."""

    async def scenario(harness: Harness) -> None:
        container = await started(harness, "echo unread", exec_id, terminal=terminal)
        ended = await container.task.wait("c1", exec_id, timeout_s=LONG_S)
        process_id = exec_id or "c1"
        event = await harness.sink.wait_for("/tasks/exit", process_id=process_id, timeout_s=LONG_S)

        assert 0.24 < (event.at_ns - ended.at_ns) / 1e9 < 5.0
        await removed(container, exec_id)

    in_harness(setup, scenario)


@pytest.mark.rule("io.end.1", "task.wait.6")
@TERMINAL
@pytest.mark.parametrize("script", ["true", "echo something"])
def test_exit_waits_neither_for_a_disconnected_client_nor_for_an_empty_output(
    setup: Setup, tmp_path: Path, script: str, terminal: bool
) -> None:
    """A daemon that restarts reads nothing, and usually there is no unread output."""

    async def scenario(harness: Harness) -> None:
        wanted = spec.Wanted(["sh", "-c", script], terminal=terminal)
        container = await harness.create("c1", wanted, output=lambda _, fifo: Idle(fifo))
        if script != "true":
            for output in (container.stdout, container.stderr):
                assert output is not None
                output.close()
        await container.task.start("c1")
        ends = exit_reports(harness, container, "")
        async with asyncio.timeout(AT_ONCE_S):
            await asyncio.gather(*ends)
        await removed(container, "")

    in_harness(patient(setup, tmp_path), scenario)


@pytest.mark.rule("task.wait.6")
@pytest.mark.ours("unread output in the FIFO is lost")
def test_twelve_containers_at_a_time_lose_no_output_when_clients_close_at_the_exit_event(
    setup: Setup, tmp_path: Path
) -> None:
    """This is the load of a node when its pods start.  The pipes of so much output have 1 MiB at
    the end."""

    async def one(harness: Harness, id_: str) -> tuple[Container, int, int]:
        script = f"head -c {MUCH} /dev/zero & head -c {MUCH} /dev/zero >&2; wait"
        container = await harness.create(id_, spec.Wanted(["sh", "-c", script]))
        out, err = container.stdout, container.stderr
        assert isinstance(out, Capture)
        assert isinstance(err, Capture)
        await container.task.start(id_)
        await container.task.wait(id_)
        out.close()
        err.close()
        return container, len(out.data), len(err.data)

    async def scenario(harness: Harness) -> None:
        ended = await asyncio.gather(*(one(harness, f"c{number}") for number in range(12)))
        for container, _, _ in ended:  # one by one, because `delete` has to end within 5 s
            await container.remove()
        assert [(out, err) for _, out, err in ended] == [(MUCH, MUCH)] * 12

    in_harness(patient(setup, tmp_path), scenario, limit_s=300)
