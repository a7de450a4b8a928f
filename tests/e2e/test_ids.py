"""Ids of containers and execs that are long, odd, or look like paths."""

import os
from pathlib import Path

import pytest

from shimv2.shimctl import spec
from shimv2.shimctl.harness import Harness, Setup
from tests.support.harnessed import add_exec, in_harness, refused

pytestmark = pytest.mark.root

SLEEP = spec.Wanted(["sleep", "1000"])


@pytest.mark.rule("task.create.17", "task.create.19")
@pytest.mark.parametrize(
    "id_",
    ["", "a/b", "..", "../../etc", pytest.param("ü", marks=pytest.mark.runc("crun accepts it"))],
)
def test_id_that_the_runtime_does_not_take_leaves_nothing(setup: Setup, id_: str) -> None:
    """Refused with the runtime's text; the shim has no container."""

    async def scenario(harness: Harness) -> None:
        container = await harness.start_shim("c1", SLEEP)
        root = [harness.root_mount(container.bundle)]
        code, text = await refused(container.task.create(id_, container.bundle.path, rootfs=root))
        assert (code, text.startswith("OCI runtime create failed: ")) == (2, True)
        assert await refused(container.task.state(id_)) == (5, "container not created: not found")
        assert not os.path.ismount(os.path.join(container.bundle.path, "rootfs"))
        assert not os.path.exists(f"/run/containerd/runc/{setup.namespace}/{id_}/state.json")
        assert await container.create(rootfs=root) > 0
        assert harness.sink.events_of(id_) == []
        await container.remove()

    in_harness(setup, scenario)


@pytest.mark.rule("task.create.18")
def test_id_of_200_characters_is_one_like_any_other(setup: Setup) -> None:
    """Ids are parts of file names, titles and command lines: they are not cut."""
    id_ = "x" * 200

    async def scenario(harness: Harness) -> None:
        container = await harness.run(id_, "sh", "-c", "exit 3")
        assert (await container.task.wait(id_, timeout_s=10)).status == 3
        assert (await container.task.state(id_)).id == id_
        removed = await container.remove()
        assert removed.exit.status == 3
        assert harness.sink.events_of(id_)[-1] == f"delete {id_}"

    in_harness(setup, scenario)


@pytest.mark.ours("the Go shim overwrites the init's pid file with that of an exec named init")
@pytest.mark.rule("task.exec.7", "task.exec.8", "task.start.2")
def test_any_id_of_an_exec_is_accepted_and_leaves_no_folder(setup: Setup) -> None:
    """Empty, that of the container, a path, a long one, non-ASCII ones."""

    async def scenario(harness: Harness) -> None:
        container = await harness.run("c1", *SLEEP.args)
        task, bundle = container.task, container.bundle.path
        init = (await task.state("c1")).pid
        known = _files(setup.state)
        for id_ in (
            "c1",
            "init",
            "x" * 200,
            "ü" * 100,
            "log",
            "config.json",
            "a b\n",
            "../e",
            "..",
        ):
            await add_exec(container, id_, "sh", "-c", "exit 5")
            assert await task.start("c1", id_) not in (0, init)
            assert (await task.wait("c1", id_, timeout_s=10)).status == 5
            (pid_file,) = _files(setup.state) - known  # and no record of its exit
            assert os.path.realpath(os.path.dirname(pid_file)) == os.path.realpath(bundle)
            await task.delete("c1", id_)
            assert _files(setup.state) == known
        for id_ in ("a/b", "/tmp/e"):
            await add_exec(container, id_, "true")
            code, text = await refused(task.start("c1", id_))
            assert (code, text.startswith("OCI runtime exec failed: ")) == (2, True)
            await task.delete("c1", id_)
            assert _files(setup.state) == known
        assert not os.path.exists("/tmp/e.pid")
        await add_exec(container, "", "true")  # no call can name it
        assert Path(bundle, "init.pid").read_text() == str(init)
        await container.kill_and_wait()
        await container.remove()

    in_harness(setup, scenario)


def _files(folder: str) -> set[str]:
    """List all files below a folder, except those of mounts."""
    found = set()
    for path, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not os.path.ismount(os.path.join(path, name))]
        found |= {os.path.join(path, name) for name in names}
    return {name for name in found if "/overlay" not in name}
