"""Signals that the shim sends to an init itself, and signals for which it runs the runtime."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from shimv2.shimctl import spec
from shimv2.shimctl.harness import Harness, Setup
from tests.support.faults import Faults
from tests.support.harnessed import in_harness, refused
from tests.support.host import Host

pytestmark = [
    pytest.mark.root,
    pytest.mark.ours("the Go shim runs the runtime each time"),
    pytest.mark.rule("task.kill.11"),
]

SLEEP = spec.Wanted(["sleep", "1000"])


class Runtime:
    """A copy of the runtime that can be made impossible to execute."""

    def __init__(self, host: Host) -> None:
        self.binary = os.path.join(host.folder, "runtime")
        self._env = os.environ | host.env
        found = shutil.which("runc", path=self._env["PATH"])
        assert found is not None
        shutil.copy(found, self.binary)

    @contextmanager
    def denied(self) -> Iterator[None]:
        """Within the block the runtime cannot be executed."""
        os.chmod(self.binary, 0o644)
        yield
        os.chmod(self.binary, 0o755)

    def run(self, harness: Harness, verb: str) -> None:
        """Run a verb without the shim."""
        argv = [self.binary, "--root", str(_root(harness)), verb, "c1"]
        subprocess.run(argv, check=True, env=self._env)


@pytest.fixture
def runtime(host: Host) -> Runtime:
    return Runtime(host)


@pytest.fixture
def copied(setup: Setup, runtime: Runtime) -> Setup:
    return replace(setup, runtime=runtime.binary)


def _root(harness: Harness) -> Path:
    """Return the runtime's state directory for this harness's containers."""
    return Path(harness.setup.runtime_root or "/run/containerd/runc", harness.setup.namespace)


async def _asked(harness: Harness, number: int, *, everything: bool = False) -> bool:
    """Signal c1 while the runtime cannot be executed; return whether the call failed because of
    that."""
    kill = harness.containers["c1"].task.kill
    code, text = await refused(kill("c1", number, everything=everything))
    return (code, "permission denied" in text) == (2, True)


@pytest.mark.runc("crun may need a script in front of it")
def test_init_of_a_pid_namespace_is_signalled_without_the_runtime(
    copied: Setup, runtime: Runtime
) -> None:
    """Created or running, with a signal that it ignores, that it handles, or that kills it."""

    async def scenario(harness: Harness) -> None:
        loop = "trap 'exit 9' TERM; while :; do sleep 0.1; done"
        container = await harness.run("c1", "sh", "-c", loop)
        with runtime.denied():
            await container.task.kill("c1", 0)
            await container.task.kill("c1", signal.SIGHUP)
            await container.task.kill("c1", signal.SIGTERM)
            assert (await container.task.wait("c1", timeout_s=10)).status == 9
        await container.remove()
        second = await harness.create("c2", SLEEP)
        with runtime.denied():
            await second.task.kill("c2", signal.SIGKILL)
            assert (await second.task.wait("c2", timeout_s=10)).status == 137
        await second.remove()

    in_harness(copied, scenario)


@pytest.mark.runc("crun may need a script in front of it")
def test_signals_that_only_the_runtime_can_send_are_left_to_it(
    copied: Setup, runtime: Runtime
) -> None:
    """For all processes, an invalid number, and a frozen init."""

    async def scenario(harness: Harness) -> None:
        container = await harness.run("c1", *SLEEP.args)
        with runtime.denied():
            assert await _asked(harness, 0, everything=True)
            assert await _asked(harness, 65)
        await container.task.pause("c1")
        with runtime.denied():
            assert await _asked(harness, 0)
        await container.task.resume("c1")
        runtime.run(harness, "pause")
        with runtime.denied():
            assert await _asked(harness, 0)
        runtime.run(harness, "resume")
        with runtime.denied():
            await container.task.kill("c1", 0)
        await container.kill_and_wait()
        await container.remove()

    in_harness(copied, scenario)


def test_init_that_shares_its_pid_namespace_is_left_to_the_runtime(
    copied: Setup, runtime: Runtime
) -> None:
    """Newer runtimes end what such an init leaves behind."""

    async def scenario(harness: Harness) -> None:
        wanted = spec.Wanted(SLEEP.args, host_namespaces=["pid"])
        container = await harness.run("c1", wanted=wanted)
        with runtime.denied():
            assert await _asked(harness, signal.SIGKILL)
        await container.kill_and_wait()
        await container.remove()

    in_harness(copied, scenario)


def test_runtime_that_notes_another_pid_is_asked(copied: Setup, runtime: Runtime) -> None:
    """The process in its state file may be another one than the init."""

    async def scenario(harness: Harness) -> None:
        container = await harness.run("c1", *SLEEP.args)
        folder = _root(harness) / "c1"
        (notes,) = (path for name in ("state.json", "status") if (path := folder / name).exists())
        kept = notes.read_bytes()
        pid = (await container.task.state("c1")).pid
        notes.write_bytes(kept.replace(str(pid).encode(), b"1"))
        with runtime.denied():
            assert await _asked(harness, signal.SIGKILL)
        assert (await container.task.state("c1")).status == "RUNNING"
        notes.write_bytes(kept)
        await container.kill_and_wait()
        await container.remove()

    in_harness(copied, scenario)


def test_script_in_front_of_a_runtime_is_asked(faulty: Setup, faults: Faults) -> None:
    """A script may do additional work at each verb."""

    async def scenario(harness: Harness) -> None:
        container = await harness.run("c1", *SLEEP.args)
        faults.at("kill.before", f"touch {faults.folder}/asked")
        await container.kill_and_wait()
        assert Path(faults.folder, "asked").exists()
        await container.remove()

    in_harness(faulty, scenario)
