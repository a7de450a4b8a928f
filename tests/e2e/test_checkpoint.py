"""Checkpoint: states, texts and failures, without CRIU."""

import asyncio
import os
from dataclasses import replace
from pathlib import Path

import pytest
from google.protobuf import any_pb2
from google.protobuf.empty_pb2 import Empty

from protos import runc_pb2, task_v2_pb2
from shimv2.shimctl import spec
from shimv2.shimctl.container import Container
from shimv2.shimctl.harness import Harness, Setup
from shimv2.shimctl.testbed.until import eventually
from tests.support.faults import Faults
from tests.support.harnessed import add_exec, in_harness, refused, second_client

pytestmark = pytest.mark.root

SLEEP = spec.Wanted(["sleep", "1000"])
OPTIONS = "containerd.runc.v1.CheckpointOptions"
CREATED = (2, "cannot checkpoint a task in created state")
FREEZE = """
for ID; do :; done
runc --root "$2" pause "$ID"
"""
THAW = FREEZE.replace("pause", "resume")


async def end(container: Container) -> None:
    await container.kill_and_wait()
    await container.remove()


def image(container: Container) -> str:
    return os.path.join(container.bundle.path, "image")


async def checkpoint_with(container: Container, url: str, value: bytes) -> None:
    """Send a Checkpoint with any options."""
    options = any_pb2.Any(type_url=url, value=value)
    request = task_v2_pb2.CheckpointTaskRequest(
        id=container.id, path=image(container), options=options
    )
    await container.task.call("Checkpoint", request, Empty)


@pytest.mark.rule("task.checkpoint.1")
def test_options_of_a_checkpoint_are_of_exactly_one_type(setup: Setup) -> None:
    """The URL is compared as a whole, unlike that of Create's options."""

    async def scenario(harness: Harness) -> None:
        container = await harness.run("c1", *SLEEP.args)
        assert await refused(checkpoint_with(container, "foo.Bar", b"")) == (
            2,
            "type with url foo.Bar: not found",
        )
        url = f"type.googleapis.com/{OPTIONS}"
        code, text = await refused(checkpoint_with(container, url, b""))
        assert (code, url in text) == (2, True)
        assert "can't unmarshal type" in text or text.endswith("not found")  # the latter: 1.6
        code, _ = await refused(checkpoint_with(container, OPTIONS, b"\xff"))
        assert code in {2, 9}  # the latter: 1.6
        assert (await container.task.state("c1")).status == "RUNNING"
        await end(container)

    in_harness(setup, scenario)


@pytest.mark.rule("task.checkpoint.1")
@pytest.mark.ours("the shim of 1.6 crashes")
def test_options_of_a_checkpoint_of_another_type_are_refused(setup: Setup) -> None:
    """With the text of 1.7 and later."""

    async def scenario(harness: Harness) -> None:
        container = await harness.run("c1", *SLEEP.args)
        other = "containerd.runc.v1.Options"
        assert await refused(checkpoint_with(container, other, b"")) == (
            2,
            f'can\'t unmarshal type "{other}" to output "{OPTIONS}"',
        )
        await end(container)

    in_harness(setup, scenario)


@pytest.mark.rule("task.init.12")
def test_containers_without_processes_have_no_checkpoint(setup: Setup) -> None:
    """The column Checkpoint of the state table."""

    async def scenario(harness: Harness) -> None:
        container = await harness.create("c1", SLEEP)
        assert await refused(container.task.checkpoint("c1", image(container))) == CREATED
        await container.task.start("c1")
        await container.kill_and_wait()
        assert await refused(container.task.checkpoint("c1", image(container))) == (
            2,
            "cannot checkpoint a stopped container",
        )
        assert await refused(container.task.checkpoint("nosuch", "/no/such")) == (
            5,
            "container not created: not found",
        )
        await container.remove()

    in_harness(setup, scenario)


@pytest.mark.rule("task.checkpoint.3")
def test_failed_checkpoint_names_the_log_and_leaves_only_that(
    faulty: Setup, faults: Faults
) -> None:
    """One line of the runtime, CRIU's log in the bundle, nothing in the work folder."""

    async def scenario(harness: Harness) -> None:
        container = await harness.run("c1", *SLEEP.args)
        log = Path(container.bundle.path, "criu-dump.log")
        work = Path(container.bundle.path, "work")
        faults.at(
            "checkpoint.before",
            f"mkdir -p {work}/criu-work; echo why >{work}/criu-work/dump.log\n"
            "echo 'criu failed: type DUMP errno 0'; echo 'log file: /x'; exit 1",
        )
        assert await refused(container.task.checkpoint("c1", image(container))) == (
            2,
            (
                f"{faults.binary} did not terminate successfully: exit status 1: "
                f"criu failed: type DUMP errno 0 path= {log}"
            ),
        )
        assert log.read_text() == "why\n"
        assert os.listdir(work) == []
        assert (await container.task.state("c1")).status == "RUNNING"
        await end(container)
        assert harness.sink.events_of("c1") == ["create c1", "start c1", "exit c1", "delete c1"]

    in_harness(faulty, scenario)


@pytest.mark.rule("task.checkpoint.4")
def test_work_folder_of_the_client_is_kept(faulty: Setup, faults: Faults) -> None:
    """The client can read CRIU's logs there after a success."""

    async def scenario(harness: Harness) -> None:
        container = await harness.run("c1", *SLEEP.args)
        work = Path(container.bundle.path, "mine")
        faults.at("checkpoint.before", f"mkdir -p {work}; echo fine >{work}/dump.log; exit 0")
        options = runc_pb2.CheckpointOptions(work_path=str(work))
        await container.task.checkpoint("c1", image(container), options)
        assert (work / "dump.log").read_text() == "fine\n"
        assert not Path(container.bundle.path, "criu-dump.log").exists()
        await end(container)

    in_harness(faulty, scenario)


@pytest.mark.rule("task.checkpoint.5")
@pytest.mark.ours("Go shims leave it frozen")
def test_checkpoint_that_is_killed_does_not_leave_the_container_frozen(
    faulty: Setup, faults: Faults
) -> None:
    """CRIU freezes the cgroup: a kill of CRIU has to be followed by a thaw."""

    async def scenario(harness: Harness) -> None:
        container = await harness.run("c1", *SLEEP.args)
        faults.at("checkpoint.before", FREEZE + "kill -9 $$")
        code, text = await refused(container.task.checkpoint("c1", image(container)))
        assert (code, "exit status 137" in text) == (2, True)
        await add_exec(container, "e1", "true")
        await container.task.start("c1", "e1")  # refused by runc if it were frozen
        assert (await container.task.wait("c1", "e1", timeout_s=10)).status == 0
        await end(container)

    in_harness(faulty, scenario)


@pytest.mark.rule("task.checkpoint.5")
@pytest.mark.ours("Go shims let it run, and report it as paused")
def test_checkpoint_that_is_killed_does_not_let_a_paused_container_run(
    faulty: Setup, faults: Faults
) -> None:
    """CRIU thaws the cgroup for a moment: a container reported as paused stays so."""

    async def scenario(harness: Harness) -> None:
        container = await harness.run("c1", *SLEEP.args)
        await container.task.pause("c1")
        faults.at("checkpoint.before", THAW + "kill -9 $$")
        await refused(container.task.checkpoint("c1", image(container)))
        assert (await container.task.state("c1")).status == "PAUSED"
        await container.task.resume("c1")  # refused by runc if it ran
        await end(container)
        assert harness.sink.events_of("c1")[2:4] == ["paused c1", "resumed c1"]

    in_harness(faulty, scenario)


@pytest.mark.rule("task.checkpoint.6")
@pytest.mark.ours("Go shims kill the runtime with the call")
def test_checkpoint_outlives_its_caller_and_is_joined_by_the_same_call(
    faulty: Setup, faults: Faults
) -> None:
    """A restart of the daemon does not interrupt a checkpoint."""

    async def scenario(harness: Harness) -> None:
        container = await harness.run("c1", *SLEEP.args)
        faults.hold("checkpoint.before")
        client = await second_client(container)
        first = asyncio.create_task(client.checkpoint("c1", image(container)))
        await eventually(lambda: faults.held("checkpoint.before"), "the runtime to be called")
        await client.close()
        await asyncio.wait([first])
        assert first.exception() is not None
        for _ in range(
            2
        ):  # at the second answer the shim knows that the first client has disconnected
            await container.task.state("c1")
        faults.at("checkpoint.after", "exit 0")
        again = asyncio.create_task(container.task.checkpoint("c1", image(container)))
        await asyncio.sleep(0)
        assert (await container.task.state("c1")).status == "RUNNING"  # and the call has arrived
        faults.release()
        await again
        assert faults.held("checkpoint.after")
        await end(container)

    in_harness(faulty, scenario)


@pytest.mark.ours("Go shims have no limit but the caller's")
def test_time_limit_of_a_checkpoint_is_a_setting_of_its_own(
    faulty: Setup, faults: Faults, tmp_path: Path
) -> None:
    settings = tmp_path / "settings.toml"
    settings.write_text("checkpoint_s = 0.3\n")
    limited = replace(faulty, env={**faulty.env, "PYRUNC_CONFIG": str(settings)})

    async def scenario(harness: Harness) -> None:
        container = await harness.run("c1", *SLEEP.args)
        faults.at("checkpoint.before", "sleep 1000; exit 1")
        code, text = await refused(container.task.checkpoint("c1", image(container)))
        assert (code, "did not terminate successfully: exit status 137" in text) == (2, True)
        assert (await container.task.state("c1")).status == "RUNNING"
        await end(container)

    in_harness(limited, scenario)
