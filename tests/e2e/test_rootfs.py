"""Containers whose root is more than one overlay: idmapped, FUSE, hundreds of layers."""

import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from shimv2.kernel import linux
from shimv2.shimctl import spec
from shimv2.shimctl.bundle import Bundle, mounts_below
from shimv2.shimctl.container import Container
from shimv2.shimctl.harness import Harness, Setup
from shimv2.shimctl.streams import Capture
from shimv2.values.model import Mount
from tests.support.harnessed import assert_alive_and_empty, created_on, in_harness, outcome, refused

pytestmark = pytest.mark.root
ours = pytest.mark.ours("the Go shim of Debian 12 has no idmapped mounts")

FIRST, COUNT = 100000, 65536  # the range of a container's ids on the host
MAPS = (f"uidmap=0:{FIRST}:{COUNT}", f"gidmap=0:{FIRST}:{COUNT}")
SHOW = "stat -c '%u:%g' / /bin/busybox; touch /new 2>/dev/null && stat -c '%u:%g' /new; exit 4"
Mounts = Callable[[Bundle], Sequence[Mount]]


async def run_on(
    harness: Harness, mounts: Mounts, *args: str, own_users: bool = False
) -> Container:
    """Run a container on these mounts, with a user namespace of its own if asked."""
    edit = give_own_users if own_users else None
    container = await created_on(harness, mounts, *args, edit=edit)
    await container.task.start("c1")
    return container


def give_own_users(bundle: Bundle, config: dict[str, Any]) -> None:
    config["linux"]["namespaces"].append({"type": "user"})
    mapping = [{"containerID": 0, "hostID": FIRST, "size": COUNT}]
    config["linux"] |= {"uidMappings": mapping, "gidMappings": mapping}
    os.chmod(bundle.path, 0o711)  # as containerd does, so that the container's root can enter


@pytest.mark.rule("mounts.mount.12", "mounts.mount.9")
@ours
def test_idmapped_overlay_is_the_containers_own(setup: Setup) -> None:
    """Layers that belong to root belong to the container's root, which is another user on the
    host."""

    def mounts(bundle: Bundle) -> list[Mount]:
        mount = bundle.overlay(setup.rootfs)
        os.chown(os.path.join(bundle.own, "upper"), FIRST, FIRST)
        return [Mount(mount.type, mount.source, "", (*mount.options, *MAPS))]

    async def scenario(harness: Harness) -> None:
        container = await run_on(harness, mounts, "sh", "-c", SHOW, own_users=True)
        assert mounts_below(container.bundle.path) == [
            os.path.join(container.bundle.path, "rootfs")
        ]
        assert await outcome(container) == (4, "0:0\n0:0\n0:0\n", "")

    in_harness(setup, scenario)


@ours
def test_idmapped_bind_is_the_containers_own(setup: Setup) -> None:
    """A read-only idmapped bind mount, as some snapshotters use it."""

    def mounts(_bundle: Bundle) -> list[Mount]:
        return [Mount("bind", setup.rootfs, "", ("rbind", "ro", *MAPS))]

    async def scenario(harness: Harness) -> None:
        container = await run_on(harness, mounts, "sh", "-c", SHOW, own_users=True)
        assert await outcome(container) == (4, "0:0\n0:0\n", "")

    in_harness(setup, scenario)


def fuse_root(setup: Setup) -> Mounts:
    def mounts(bundle: Bundle) -> list[Mount]:
        copy = os.path.join(bundle.own, "copy")
        shutil.copytree(setup.rootfs, copy, symlinks=True)
        return [Mount("fuse3.bindfs", copy, "", ("dev", "suid"))]

    return mounts


def servers(setup: Setup) -> list[str]:
    """The server processes of the filesystems of this test."""
    shown = subprocess.run(["ps", "-eo", "args"], check=True, capture_output=True, text=True)
    return [line for line in shown.stdout.splitlines() if setup.state in line and "bindfs" in line]


@pytest.mark.rule("mounts.mount.12")
def test_fuse_filesystem_is_a_root(setup: Setup) -> None:
    """Writes reach the underlying folder; its server exits at Delete, while the shim runs."""

    async def scenario(harness: Harness) -> None:
        container = await run_on(harness, fuse_root(setup), "sh", "-c", SHOW)
        assert len(servers(setup)) == 1
        ended = await container.task.wait("c1")
        assert os.path.exists(os.path.join(container.bundle.own, "copy", "new"))
        await container.task.delete("c1")
        assert ended.status == 4
        assert mounts_below(container.bundle.path) == []
        await assert_alive_and_empty(container)
        assert servers(setup) == []
        assert await outcome_of_rest(container) == "0:0\n0:0\n0:0\n"

    in_harness(setup, scenario)


async def outcome_of_rest(container: Container) -> str:
    await container.outputs_ended()
    await container.remove()
    assert isinstance(container.stdout, Capture)
    return container.stdout.text


@pytest.mark.ours("`delete` of Debian 12's Go shim prints more")
def test_fuse_root_of_a_dead_shim_is_cleaned_by_delete(setup: Setup) -> None:
    """The server outlives the shim, as the container does; `delete` ends both."""

    async def scenario(harness: Harness) -> None:
        container = await run_on(harness, fuse_root(setup), "sleep", "1000")
        removed = await container.destroy()
        assert removed.exit.status == 137
        assert removed.action.stderr == ""

    in_harness(setup, scenario)


APART = pytest.param(True, id="apart", marks=pytest.mark.ours("mount options is too long"))


@pytest.mark.rule("mounts.mount.5", "mounts.mount.12")
@pytest.mark.parametrize("spread", [pytest.param(False, id="together"), APART])
@pytest.mark.parametrize("count", [100, 400])
def test_root_of_hundreds_of_layers_runs(setup: Setup, count: int, spread: bool) -> None:
    """In one folder with a long name, as with a snapshotter, and each in a folder of its own."""

    def mounts(bundle: Bundle) -> list[Mount]:
        folder = os.path.join(bundle.own, "io.containerd.snapshotter.v1.overlayfs-" + "x" * 120)
        base = os.path.join(folder, "base", "fs")
        shutil.copytree(setup.rootfs, base, symlinks=True)
        lower = []
        for number in range(count):
            name = f"{number:0100}" if spread else str(number)
            lower.append(os.path.join(folder, name, "fs"))
            os.makedirs(lower[-1])
            Path(lower[-1], f"layer-{number}").touch()
        mount = bundle.overlay(":".join([*lower, base]))
        assert sum(map(len, mount.options)) > 4096
        return [mount]

    async def scenario(harness: Harness) -> None:
        container = await run_on(harness, mounts, "sh", "-c", "ls / | grep -c layer-")
        assert await outcome(container) == (0, f"{count}\n", "")

    in_harness(setup, scenario)


@pytest.mark.rule("mounts.mount.1")
@pytest.mark.ours("the Go shim of Debian 12 has other texts")
@pytest.mark.parametrize(
    ("mount", "error"),
    [
        (Mount("fuse3.nosuchfs", "s", ""), "mount helper [mount.fuse3 [s /"),
        (Mount("bind", "/", "", ("rbind", "uidmap=0:1:1")), "needs both uidmap and gidmap"),
        (Mount("bind", "/", "", ("rbind", "uidmap=x", "gidmap=0:1:1")), 'mount option uidmap="x"'),
        (Mount("bind", "/proc", "", ("bind", *MAPS)), "cannot idmap /proc: mount_setattr"),
    ],
)  # fmt: skip
def test_root_that_cannot_be_mounted_leaves_nothing(setup: Setup, mount: Mount, error: str) -> None:
    """The client gets the reason; earlier mounts are undone, and the next Create works."""

    async def scenario(harness: Harness) -> None:
        container = await harness.start_shim("c1", spec.Wanted(["true"]))
        good = harness.root_mount(container.bundle)
        code, text = await refused(container.create(rootfs=[good, mount]))

        assert code == 2
        assert text.startswith("failed to mount rootfs component: ")
        assert error in text
        assert mounts_below(container.bundle.path) == []
        await assert_alive_and_empty(container)
        await container.create(rootfs=[good])
        await container.remove()

    in_harness(setup, scenario)


@ours
def test_delete_unmounts_the_layers_a_killed_shim_was_mapping(setup: Setup) -> None:
    """For a moment they are beside the rootfs, in a folder that the daemon removes next."""

    async def scenario(harness: Harness) -> None:
        container = await harness.run("c1", "true")
        folder = Path(container.bundle.path, "rootfs.idmapped")
        for name in ("0", "1"):
            (folder / name).mkdir(parents=True)
            linux.mount(setup.rootfs, str(folder / name), "", linux.MS_BIND, "")
        await container.task.wait("c1")
        ended = await container.binary.delete(container.bundle)

        assert ended.stderr == ""
        assert mounts_below(str(folder)) == []
        await container.remove()

    in_harness(setup, scenario)
