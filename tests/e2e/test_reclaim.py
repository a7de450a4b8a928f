"""A shim that reclaims memory each time before its loop sleeps."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from shimv2.shimctl import spec
from shimv2.shimctl.container import Container
from shimv2.shimctl.harness import Harness, Setup
from shimv2.shimctl.streams import Capture
from shimv2.shimctl.testbed import zygotes
from shimv2.shimctl.testbed.until import until
from shimv2.values.model import Stdio
from shimv2.values.sharing import sharing
from tests.support import launched
from tests.support.children import status_of
from tests.support.harnessed import in_harness
from tests.support.host import NAME, Host, linux_version

pytestmark = [pytest.mark.root, pytest.mark.ours("shares memory among shims")]

SLEEP = ["sleep", "1000"]


@pytest.fixture
def restless(setup: Setup, host: Host) -> Iterator[Setup]:
    if not launched.LAUNCHER.exists():
        pytest.skip("no C compiler")
    folder = Path(host.folder, "restless")
    folder.mkdir()
    program = launched.install(folder / NAME, reclaims=True)
    yield replace(setup, shim=str(program))
    zygotes.end_zygotes(program)


async def verbs(container: Container) -> None:
    """Call all methods for a running container, except those for execs."""
    task, id_ = container.task, container.id
    pid = (await task.state(id_)).pid
    assert await task.pids(id_) == [pid]
    await task.pause(id_)
    assert (await task.state(id_)).status == "PAUSED"
    await task.resume(id_)
    await task.update(id_, {"cpu": {"shares": 512}})
    assert (await task.stats(id_)).value


async def exec_(container: Container, exec_id: str, data: bytes, status: int) -> None:
    task, bundle, id_ = container.task, container.bundle, container.id
    bundle.make_fifos(exec_id=exec_id)
    paths = [bundle.fifo(name, exec_id=exec_id) for name in ("stdin", "stdout", "stderr")]
    out, err = Capture(paths[1]), Capture(paths[2])
    process = spec.process(spec.Wanted(["sh", "-c", f"cat /data; cat /data >&2; exit {status}"]))
    await task.exec(id_, exec_id, process, stdio=Stdio(paths[0], paths[1], paths[2]))
    await task.start(id_, exec_id)
    assert (await task.wait(id_, exec_id)).status == status
    await task.delete(id_, exec_id)
    await out.ended()
    await err.ended()
    assert out.data == data
    assert err.data == data
    bundle.remove_fifos(exec_id=exec_id)


def lives(setup: Setup, containers: int, execs: int) -> None:
    data = os.urandom(64 << 10)

    async def scenario(harness: Harness) -> None:
        for number in range(containers):
            container = await harness.run(f"c{number}", *SLEEP)
            shim = (await container.task.connected(container.id)).shim_pid
            is_fork = "pyrunc-image" in Path(f"/proc/{shim}/maps").read_text()
            assert is_fork == (number > 0)
            Path(container.bundle.own, "upper", "data").write_bytes(data)
            for count in range(execs):
                await exec_(container, f"e{count}", data, count % 256)
                if count % 10 == 0:
                    await verbs(container)
            assert (await container.kill_and_wait()).status == 137
            await container.remove()
            zygotes.zygote(Path(setup.shim))  # from now on there is a zygote

    in_harness(setup, scenario, limit_s=60 + containers * (5 + execs))


def test_lifecycles_with_a_reclaim_before_every_sleep_are_like_others(restless: Setup) -> None:
    """Statuses, output and answers; the first shim is not a fork, the others are."""
    lives(restless, containers=4, execs=12)


@pytest.mark.parametrize("variable", ["auto", "off"])
def test_memory_is_shared_unless_that_is_switched_off(
    setup: Setup, host: Host, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """With `off` in the environment of a start, another zygote serves it, whose forks share no
    memory."""
    folder = Path(host.folder, variable)
    folder.mkdir()
    program = launched.install(folder / NAME)
    monkeypatch.setenv("PYRUNC_SHARE_MEMORY", variable)

    async def scenario(harness: Harness) -> None:
        for expected in ("without a zygote", "shared" if variable == "auto" else "is off"):
            container = await harness.run(f"c{len(expected)}", *SLEEP)
            shim = (await container.task.connected(container.id)).shim_pid
            assert sharing(Path(f"/proc/{shim}/maps").read_text()).endswith(expected)
            await container.kill_and_wait()
            await container.remove()
            zygotes.zygote(program)

    try:
        in_harness(replace(setup, shim=str(program)), scenario)
    finally:
        zygotes.end_zygotes(program)


@pytest.mark.skipif(linux_version() < (5, 14), reason="the kernel makes no copies ahead of need")
def test_spares_copy_in_advance_what_the_first_shim_had_copied(restless: Setup) -> None:
    """ADR 4: later children prefault the pages that the first shim used until it was idle."""
    program = Path(restless.shim)

    async def scenario(harness: Harness) -> None:
        containers = [await harness.run("c0", *SLEEP)]  # cold: it leaves the zygote
        before = _own_kib(zygotes.spare(program))
        containers += [await harness.run(f"c{number}", *SLEEP) for number in (1, 2)]
        until(lambda: _own_kib(zygotes.spare(program)) > before + 512, "a spare with copies")
        for container in containers:
            await container.kill_and_wait()
            await container.remove()

    in_harness(restless, scenario)


def _own_kib(pid: int) -> int:
    return int(status_of(pid)["RssAnon"].split()[0])


@pytest.mark.soak
def test_long_lifecycle_with_a_reclaim_before_every_sleep_is_like_others(restless: Setup) -> None:
    """The same for so long that a fault in one of ten thousand reclaims shows."""
    lives(restless, containers=2, execs=1000)
