"""Rootfs directories, overlay layers and readers of the mount table, for tests as root."""

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path

from shimv2.kernel import linux
from shimv2.kernel.reaper import Reaper
from shimv2.mounts import rootfs as rootfs_mounts
from shimv2.mounts.umount import mount_points_below, unmount_fully
from shimv2.shimctl.testbed.leaks import children_of
from shimv2.shimctl.testbed.until import eventually
from shimv2.values.model import Mount
from tests.support.aio import run


async def mount_all(batch: Sequence[Mount], target: str) -> None:
    """`rootfs.mount_all` with a reaper of its own, which the holder of an id mapping needs."""
    reaper = Reaper(asyncio.get_running_loop())
    if any("uidmap=" in word for mount in batch for word in mount.options):
        reaper.start()
    try:
        await rootfs_mounts.mount_all(batch, target, reaper)
    finally:
        reaper.stop()


async def unmount_all(batch: Sequence[Mount], target: str) -> None:
    await rootfs_mounts.unmount_all(batch, target, Reaper(asyncio.get_running_loop()))


async def unmount_recursive(target: str) -> None:
    await rootfs_mounts.unmount_recursive(target, Reaper(asyncio.get_running_loop()))


def reaping(scenario: Callable[[Reaper], Awaitable[None]]) -> None:
    """Run a scenario as in the shim: this process is a subreaper, and a reaper runs.

    It ends when no child is left: the server of a FUSE filesystem ends with the mount.
    """

    async def main() -> None:
        reaper = Reaper(asyncio.get_running_loop())
        reaper.start()
        try:
            await scenario(reaper)
            await eventually(lambda: not children_of(os.getpid()), "the end of all children")
        finally:
            reaper.stop()

    linux.set_child_subreaper(True)
    try:
        run(main(), 30)
    finally:
        linux.set_child_subreaper(False)


@contextlib.contextmanager
def a_rootfs(folder: Path) -> Iterator[str]:
    """Yield a bundle's rootfs; a mount below `folder` at the end is an error."""
    target = folder / "bundle" / "rootfs"
    target.mkdir(parents=True)
    try:
        yield str(target)
    finally:
        left = mount_points_below(str(folder))
        for point in left:
            unmount_fully(point)
    assert left == []


def layers(folder: Path, count: int) -> list[str]:
    """Make directories for an overlay's lowerdir, each with one file that has its name."""
    made = []
    for number in range(count):
        layer = folder / f"layer-{number:04}" / "fs"
        layer.mkdir(parents=True)
        (layer / f"file-{number}").touch()
        made.append(str(layer))
    return made


def overlay(folder: Path, lower: list[str]) -> Mount:
    """Return an overlay of `lower` with its upper and work directories in `folder`."""
    for name in ("upper", "work"):
        (folder / name).mkdir(parents=True)
    words = (f"lowerdir={':'.join(lower)}", f"upperdir={folder}/upper", f"workdir={folder}/work")
    return Mount("overlay", "overlay", "", words)


def flags_of(path: str) -> set[str]:
    """Return the options of the topmost mount on `path`, without those of the filesystem."""
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        lines = [line.split() for line in file]
    return set([line[5] for line in lines if line[4] == path][-1].split(","))
