"""CRI-O with this shim: its calls are replayed, because CRI-O itself is not available."""

import os
import re
import signal
import tomllib
from pathlib import Path

import pytest

from shimv2.shimctl.streams import write_fifo
from shimv2.shimctl.testbed.leaks import alive
from shimv2.shimctl.testbed.until import eventually
from tests.daemons.crio import Crio
from tests.daemons.page import box
from tests.daemons.pairs import Pair, pairs
from tests.daemons.runtimes import INSTALLED
from tests.support.aio import run
from tests.support.cgroups import folder_of, unified
from tests.support.harnessed import refused
from tests.support.host import Host

pytestmark = [
    pytest.mark.root,
    pytest.mark.parametrize("pair", pairs("CRI-O", quick=INSTALLED), indirect=True),
]

MIB = 1024 * 1024
ECHO = "while read -r line; do echo got $line; done; echo end"
_LIMIT_S = 90.0


@pytest.fixture
def crio(host: Host, pair: Pair, runtime: str, rootfs: str) -> Crio:
    """A CRI-O that is configured as in docs/daemons.md."""
    text, path = box("crio"), ""
    if pair.runtime != "runc":
        path = os.path.join(host.folder, "options.toml")
        with open(path, "w", encoding="utf-8") as file:
            file.write(box("crun.toml", instead={"/usr/bin/crun": runtime}))
        text += box("crio-options", instead={"/etc/containerd/crun.toml": path})
    handler = tomllib.loads(text)["crio"]["runtime"]["runtimes"]["pyrunc"]
    assert handler["runtime_type"] == "vm"
    assert re.fullmatch(r"/.*/containerd-shim-[a-zA-Z0-9+-]+-v2", handler["runtime_path"])
    assert os.path.basename(handler["runtime_path"]) == os.path.basename(host.shim)
    return Crio(host, rootfs=rootfs, config_path=handler.get("runtime_config_path", ""))


def test_container_from_its_start_to_its_removal(crio: Crio) -> None:
    """Its root stays mounted, its output is complete, and the shim exits at once."""

    async def scenario() -> None:
        async with crio.container("c1", "sh", "-c", "echo out; echo err >&2; exit 7") as container:
            task, init = container.task, container.init
            shim = (await task.connected(container.id)).shim_pid
            assert (await task.state(container.id)).status == "CREATED"
            await task.start(container.id)
            ended = await task.wait(container.id)
            await init.ended()
            state = await task.state(container.id)

            assert (ended.status, state.status) == (7, "STOPPED")
            assert state.exit is not None
            assert state.exit.status == 7
            assert init.stderr is not None
            assert (init.stdout.text, init.stderr.text) == ("out\n", "err\n")
            assert not await container.alive()
            assert (await container.remove()).status == 7
            # No daemon receives events, so the shim does not wait for an acknowledgement.
            await eventually(lambda: not alive(shim), "the shim to end", limit_s=4.0)
            address = Path(container.bundle, "address").read_text()
            assert not Path(address.removeprefix("unix://")).exists()

    run(scenario(), _LIMIT_S, loop="stock")


def test_stop_pause_update_and_stats(crio: Crio) -> None:
    """A kubelet's calls become signals, limits and numbers of the cgroup, and its freezer."""

    async def scenario() -> None:
        script = "trap 'exit 9' TERM; echo ready; while :; do sleep 0.1; done"
        async with crio.container("c1", "sh", "-c", script) as container:
            task, id_ = container.task, container.id
            await task.start(id_)
            await container.init.stdout.until(b"ready\n")
            pid = (await task.state(id_)).pid
            await task.update(id_, {"memory": {"limit": 64 * MIB}})
            stats = await task.stats(id_)
            await task.pause(id_)
            paused = await task.state(id_)
            await task.resume(id_)

            name = "memory.max" if unified() else "memory.limit_in_bytes"
            assert int((folder_of(pid, "memory") / name).read_text()) == 64 * MIB
            version = 2 if unified() else 1
            assert stats.type_url == f"io.containerd.cgroups.v{version}.Metrics"
            assert paused.status == "PAUSED"
            assert await container.alive()
            assert (await container.stop()).status == 9
            await container.remove()

    run(scenario(), _LIMIT_S, loop="stock")


def test_exec_with_input_and_in_a_terminal(crio: Crio) -> None:
    """Two outputs and an input that ends by CloseIO; one terminal, resized once it has started."""

    async def scenario() -> None:
        async with crio.container("c1", "sleep", "1000") as container:
            task, id_ = container.task, container.id
            await task.start(id_)

            plain = await container.exec("e1", "sh", "-c", "cat; echo err >&2; exit 3", stdin=True)
            await write_fifo(plain.stdio.stdin, b"given\n")
            await task.close_io(id_, "e1")
            assert (await task.wait(id_, "e1")).status == 3
            await plain.ended()
            assert plain.stderr is not None
            assert (plain.stdout.text, plain.stderr.text) == ("given\n", "err\n")
            await task.delete(id_, "e1")

            size = "until stty size 2>/dev/null | grep '31 91'; do sleep 0.05; done; exit 4"
            shell = await container.exec("e2", "sh", "-c", size, terminal=True)
            await task.resize_pty(id_, "e2", width=91, height=31)
            assert (await task.wait(id_, "e2")).status == 4
            await shell.ended()
            assert shell.stdout.text == "31 91\r\n"
            await task.delete(id_, "e2")

            assert (await container.stop(signal.SIGKILL)).status == 137
            await container.remove()

    run(scenario(), _LIMIT_S, loop="stock")


def test_exec_whose_time_is_over_is_killed_and_left(crio: Crio) -> None:
    """CRI-O does not delete such an exec: the removal of the container deletes it."""

    async def scenario() -> None:
        async with crio.container("c1", "sleep", "1000") as container:
            task, id_ = container.task, container.id
            shim = (await task.connected(id_)).shim_pid
            await task.start(id_)
            process = await container.exec("e1", "sleep", "1001")
            await task.kill(id_, signal.SIGKILL, "e1")

            assert (await task.wait(id_, "e1")).status == 137
            await process.ended()
            assert await container.alive()
            await container.stop(signal.SIGKILL)
            await container.remove()
            await eventually(lambda: not alive(shim), "the shim to end")

    run(scenario(), _LIMIT_S, loop="stock")


def test_attach_to_a_container_with_an_open_input(crio: Crio) -> None:
    """Each client's input arrives; CloseIO after the last client ends it."""

    async def scenario() -> None:
        async with crio.container("c1", "sh", "-c", ECHO, stdin=True) as container:
            task, id_ = container.task, container.id
            await task.start(id_)
            for word in ("one", "two"):
                await write_fifo(container.init.stdio.stdin, f"{word}\n".encode())
                await container.init.stdout.until(f"got {word}\n".encode())
            await task.close_io(id_)

            assert (await task.wait(id_)).status == 0
            await container.init.ended()
            assert container.init.stdout.text == "got one\ngot two\nend\n"
            await container.remove()

    run(scenario(), _LIMIT_S, loop="stock")


def test_next_crio_finds_the_container_by_its_address_file(crio: Crio) -> None:
    """It reads `address`, gets the FIFOs from State, and gets output and exit status."""

    async def scenario() -> None:
        async with crio.container("c1", "sh", "-c", ECHO, stdin=True) as container:
            await container.task.start(container.id)
            await write_fifo(container.init.stdio.stdin, b"before\n")
            await container.init.stdout.until(b"got before\n")

            again = await container.reconnected()
            try:
                assert again.init.stdio == container.init.stdio
                await write_fifo(again.init.stdio.stdin, b"after\n")
                await again.init.stdout.until(b"got after\n")
                assert (await again.stop(signal.SIGKILL)).status == 137
                await again.init.ended()
                await again.remove()
            finally:
                await again.close()

    run(scenario(), _LIMIT_S, loop="stock")


def test_create_that_fails_is_undone_by_delete_and_shutdown(crio: Crio) -> None:
    """Delete answers not found, Shutdown ends the shim, and the root stays mounted."""

    async def scenario() -> None:
        async with crio.shim("c1", "/no/such/command") as container:
            task, id_ = container.task, container.id
            shim = (await task.connected(id_)).shim_pid
            code, text = await refused(crio.create(container))
            assert code == 2
            assert "no such file or directory" in text.lower()

            assert (await refused(task.delete(id_)))[0] == 5
            await container.shut_down()
            await eventually(lambda: not alive(shim), "the shim to end")

    run(scenario(), _LIMIT_S, loop="stock")
