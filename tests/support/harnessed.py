"""Helpers of tests with the harness: they run scenarios, and check refusals and outcomes."""

import json
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final

import pytest

from shimv2.shimctl import spec
from shimv2.shimctl.bundle import Bundle
from shimv2.shimctl.container import Container
from shimv2.shimctl.harness import Harness, Setup, captured
from shimv2.shimctl.streams import Capture
from shimv2.shimctl.task import TaskClient
from shimv2.values.model import Exit, Mount, Stdio
from tests.support.aio import run
from tests.support.cgroups import unified
from tests.support.host import OTHER_SHIM, RUNTIME_UNDER_TEST
from ttrpc import StatusError

_LIMIT_S: Final = 60.0


def in_harness(
    setup: Setup, scenario: Callable[[Harness], Awaitable[None]], *, limit_s: float = _LIMIT_S
) -> None:
    """Run a scenario with a harness of its own; on the stock loop, as `shimctl` does."""

    async def main() -> None:
        async with Harness(setup) as harness:
            await scenario(harness)

    run(main(), limit_s, loop="stock")


async def created_on(
    harness: Harness,
    rootfs: Callable[[Bundle], Sequence[Mount]],
    *args: str,
    edit: Callable[[Bundle, dict[str, Any]], None] | None = None,
) -> Container:
    """Create a container `c1` on these mounts; `edit` may change its configuration."""
    container = await harness.start_shim("c1", spec.Wanted(args))
    bundle = container.bundle
    if edit:
        path = Path(bundle.path, "config.json")
        config = json.loads(path.read_text())
        edit(bundle, config)
        path.write_text(json.dumps(config))
    bundle.make_fifos()
    container.read(captured)
    stdio = Stdio(stdout=bundle.fifo("stdout"), stderr=bundle.fifo("stderr"))
    await container.create(rootfs=rootfs(bundle), stdio=stdio, options=harness.options)
    return container


async def outcome(container: Container) -> tuple[int, str, str]:
    """Wait for the exit of a container and remove it; return its status and outputs."""
    ended = await container.task.wait(container.id)
    await container.outputs_ended()
    removed = await container.remove()
    assert OTHER_SHIM or removed.action.stderr == ""  # containerd 1.6's prints something
    assert isinstance(container.stdout, Capture)
    assert isinstance(container.stderr, Capture)
    return ended.status, container.stdout.text, container.stderr.text


async def refused(call: Awaitable[object]) -> tuple[int, str]:
    """Return the status code and the text with which a call is refused."""
    with pytest.raises(StatusError) as raised:
        await call
    return int(raised.value.code), raised.value.message


async def assert_alive_and_empty(container: Container) -> None:
    """Check that after a failed Create the shim answers and has no container."""
    assert (await container.task.connected(container.id)).task_pid == 0
    assert await refused(container.task.state(container.id)) == (
        5,
        "container not created: not found",
    )


def give_delete_its_files(container: Container) -> None:
    """Write the files of Create: without them the `delete` of containerd 1.6's shim fails."""
    for name, text in (("runtime", ""), ("options.json", "{}")):
        Path(container.bundle.path, name).write_text(text)


async def end_paused(container: Container) -> Exit:
    """Kill a paused container and wait for its end.

    On cgroup v1 crun, unlike runc, does not thaw what it kills.
    """
    if RUNTIME_UNDER_TEST == "crun" and not unified():
        await container.task.resume(container.id)
    return await container.kill_and_wait()


async def second_client(container: Container) -> TaskClient:
    """Connect to the container's shim once more; the caller closes it."""
    return await TaskClient.connect(container.reply.path)


async def add_exec(container: Container, exec_id: str, *args: str) -> None:
    """Record a further process without streams."""
    await container.task.exec(container.id, exec_id, spec.process(spec.Wanted(args)))
