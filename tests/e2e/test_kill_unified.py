"""Kill of all processes on cgroup v2, where the kernel can do it in one step."""

import signal
from pathlib import Path

import pytest

from shimv2.shimctl import spec
from shimv2.shimctl.harness import Harness, Setup
from shimv2.shimctl.reply import runc_options
from shimv2.shimctl.testbed.leaks import alive
from shimv2.shimctl.testbed.runtimes import crun
from shimv2.shimctl.testbed.until import eventually
from tests.support.cgroups import folder_of
from tests.support.harnessed import add_exec, in_harness
from tests.support.host import Host
from tests.support.writes import Writes

pytestmark = [pytest.mark.root, pytest.mark.unified]

# Has a child and a grandchild, which ignores all signals that can be ignored.
FAMILY = "trap '' TERM; (sh -c 'trap \"\" TERM HUP INT; sleep 1000; true'; true) & wait"


def processes(folder: Path) -> list[int]:
    return [int(line) for line in (folder / "cgroup.procs").read_text().split()]


@pytest.mark.rule("task.kill.9")
@pytest.mark.parametrize("name", ["runc", "crun"])
def test_kill_of_all_ends_every_process_of_the_cgroup(setup: Setup, host: Host, name: str) -> None:
    """Init, exec and their children at once; crun uses the kernel's cgroup.kill.

    Debian 12's runc freezes them first and signals each.  The exits are published, those of execs
    first, and the cgroup is removed.
    """
    runtime = "" if name == "runc" else crun(host.folder)

    async def scenario(harness: Harness) -> None:
        container = await harness.start_shim("c1", spec.Wanted(["sh", "-c", FAMILY]))
        root = [harness.root_mount(container.bundle)]
        await container.create(rootfs=root, options=runc_options(binary_name=runtime))
        pid = await container.task.start("c1")
        await add_exec(container, "e1", "sh", "-c", FAMILY)
        await container.task.start("c1", "e1")
        folder = folder_of(pid, "")
        await eventually(lambda: len(processes(folder)) == 8, "both families", limit_s=30)
        members = processes(folder)
        with Writes(folder / "cgroup.kill", folder / "cgroup.freeze") as writes:
            await container.task.kill("c1", signal.SIGKILL, everything=True)
            for exec_id in ("e1", ""):
                ended = await container.task.wait("c1", exec_id, timeout_s=30)
                assert ended.status == 128 + signal.SIGKILL
            assert writes.seen() == {"cgroup.kill" if runtime else "cgroup.freeze"}
        await eventually(lambda: not any(map(alive, members)), "all of them to end")
        await container.remove()
        assert not folder.exists()
        exits = [line for line in harness.sink.events_of("c1") if line.startswith("exit")]
        assert exits == ["exit e1", "exit c1"]

    in_harness(setup, scenario)
