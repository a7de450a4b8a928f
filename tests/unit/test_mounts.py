"""Rootfs mounts: their targets, and their unmounts."""

import asyncio
import contextlib
import os
import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from shimv2.kernel.spawn import spawn
from shimv2.mounts.umount import mount_points_below
from shimv2.shimctl.testbed.until import until
from shimv2.values.errors import Refused
from shimv2.values.model import Mount
from tests.support.aio import LOOPS, LoopName, run
from tests.support.children import wait_for
from tests.support.mounts import (
    a_rootfs,
    flags_of,
    layers,
    mount_all,
    overlay,
    unmount_all,
    unmount_recursive,
)

pytestmark = pytest.mark.root


@pytest.fixture
def rootfs(tmp_path: Path) -> Iterator[str]:
    with a_rootfs(tmp_path) as target:
        yield target


@pytest.mark.parametrize("loop", LOOPS)
def test_overlay_is_mounted_and_unmounted(tmp_path: Path, rootfs: str, loop: LoopName) -> None:
    """The usual rootfs: one overlay; no thread and no changed directory is left behind."""

    async def main() -> None:
        mount, here = overlay(tmp_path, layers(tmp_path, 3)), os.getcwd()
        await mount_all([mount], rootfs)
        assert sorted(os.listdir(rootfs)) == ["file-0", "file-1", "file-2"]
        (Path(rootfs) / "new").touch()
        await unmount_all([mount], rootfs)
        assert os.listdir(rootfs) == []
        assert os.listdir(tmp_path / "upper") == ["new"]
        assert threading.active_count() == 1
        assert os.getcwd() == here
        await unmount_all([mount], rootfs)

    run(main(), loop=loop)


def test_nothing_to_mount_is_fine(tmp_path: Path) -> None:
    """The undo accepts that there is nothing to undo; no call needs the directory."""

    async def main() -> None:
        gone = str(tmp_path / "gone")
        await mount_all([], gone)
        await unmount_all([], gone)
        await unmount_all([Mount("bind", "/", ""), Mount("bind", "/", "in")], gone)
        await unmount_recursive(gone)
        await unmount_recursive("")

    run(main())


@pytest.mark.rule("mounts.mount.3")
@pytest.mark.parametrize("kind", ["bind", "rbind"])
def test_read_only_bind_refuses_writes(tmp_path: Path, rootfs: str, kind: str) -> None:
    """A bind gets `ro` only with a second mount; the source stays writable."""
    source = tmp_path / "source"
    source.mkdir()

    async def main() -> None:
        await mount_all([Mount("bind", str(source), "", ("ro", kind, "nosuid"))], rootfs)
        assert {"ro", "nosuid"} <= flags_of(rootfs)
        with pytest.raises(OSError, match="Read-only"):
            (Path(rootfs) / "x").touch()
        (source / "y").touch()
        await unmount_recursive(rootfs)

    run(main())


@pytest.mark.rule("mounts.mount.1")
def test_later_mounts_go_inside_of_earlier_ones(tmp_path: Path, rootfs: str) -> None:
    """Mount.target is resolved in the earlier mounts; the undo is in reverse order."""
    lower = layers(tmp_path, 2)
    (Path(lower[0]) / "inner").mkdir()
    (Path(lower[0]) / "link").symlink_to("/inner")
    batch = [
        overlay(tmp_path, lower),
        Mount("tmpfs", "tmpfs", "/inner", ("size=64k",)),
        Mount("bind", lower[1], "link", ("bind", "ro")),
    ]

    async def main() -> None:
        await mount_all(batch, rootfs)
        assert os.listdir(f"{rootfs}/inner") == ["file-1"]
        assert mount_points_below(rootfs) == [f"{rootfs}/inner", rootfs]
        assert "ro" in flags_of(f"{rootfs}/inner")
        await unmount_all(batch, rootfs)
        assert mount_points_below(rootfs) == []

    run(main())


@pytest.mark.rule("mounts.mount.2")
def test_symlink_in_a_rootfs_does_not_lead_a_mount_out_of_it(tmp_path: Path, rootfs: str) -> None:
    """The target is resolved inside of the root: /victim is that of the rootfs."""
    victim = tmp_path / "bundle" / "victim"
    victim.mkdir()
    (Path(rootfs) / "out").symlink_to(victim)
    (Path(rootfs) / "up").symlink_to("../victim")

    async def main() -> None:
        for target in ("out", "up", "../victim"):
            with pytest.raises(Refused, match="no such file or directory"):
                await mount_all([Mount("tmpfs", "tmpfs", target)], rootfs)
        inside = Path(rootfs) / "victim"
        inside.mkdir()
        await mount_all([Mount("tmpfs", "tmpfs", "up")], rootfs)
        assert mount_points_below(str(tmp_path)) == [str(inside)]
        await unmount_all([Mount("tmpfs", "tmpfs", "up")], rootfs)

    run(main())


@pytest.mark.rule("mounts.mount.4")
def test_remount_changes_what_is_there(rootfs: str) -> None:
    """With data it is a separate mount(2); without data and bind there is none."""

    async def main() -> None:
        await mount_all([Mount("tmpfs", "tmpfs", "", ("size=64k",))], rootfs)
        await mount_all([Mount("tmpfs", "tmpfs", "", ("remount", "size=128k"))], rootfs)
        assert os.statvfs(rootfs).f_blocks * os.statvfs(rootfs).f_frsize == 128 * 1024
        await mount_all([Mount("tmpfs", "tmpfs", "", ("remount", "ro"))], rootfs)
        assert "rw" in flags_of(rootfs)
        await mount_all([Mount("", "", "", ("remount", "bind", "ro"))], rootfs)
        assert "ro" in flags_of(rootfs)
        assert mount_points_below(rootfs) == [rootfs]
        await unmount_recursive(rootfs)

    run(main())


@pytest.mark.rule("mounts.mount.5")
def test_overlay_with_more_layers_than_a_page_holds_is_mounted(tmp_path: Path, rootfs: str) -> None:
    """Absolute names do not fit into mount(2), names relative to their parent do.

    The other mounts of the batch use the shim's own working directory.
    """
    lower = layers(tmp_path / "a-folder-with-a-long-name-to-fill-the-page-sooner", 60)
    mount = overlay(tmp_path, lower)
    (Path(lower[0]) / "inner").mkdir()
    here = os.getcwd()
    relative = os.path.relpath(lower[1], here)

    async def main() -> None:
        assert sum(map(len, mount.options)) > 4096
        await mount_all([mount, Mount("bind", relative, "inner", ("bind",))], rootfs)
        assert len(os.listdir(rootfs)) == 61
        assert os.listdir(f"{rootfs}/inner") == ["file-1"]
        assert os.getcwd() == here
        await unmount_recursive(rootfs)

    run(main())


@pytest.mark.parametrize("count", [40, 500])
def test_overlay_whose_layers_have_long_names_of_their_own_is_mounted(
    tmp_path: Path, rootfs: str, count: int
) -> None:
    """Relative names do not fit either: the layers are named by the numbers of open files.

    500 is the kernel's own limit.
    """
    lower = [
        layers(tmp_path / "a:folder" / f"{number:0100}" / "another-folder-of-its-own", 1)[0]
        for number in range(count)
    ]
    for number, layer in enumerate(lower):
        (Path(layer) / f"own-{number}").touch()
    mount = overlay(tmp_path, [layer.replace(":", "\\:") for layer in lower])
    open_before = os.listdir("/proc/self/fd")

    async def main() -> None:
        assert sum(map(len, mount.options)) > 4096
        await mount_all([mount], rootfs)
        assert len(os.listdir(rootfs)) == count + 1
        await unmount_all([mount], rootfs)

    run(main(), debug=False)
    assert os.listdir("/proc/self/fd") == open_before


@pytest.fixture
def image(tmp_path: Path) -> str:
    """An ext4 filesystem in a file."""
    path = tmp_path / "image"
    path.touch()
    os.truncate(path, 2 << 20)
    argv = ["mkfs.ext4", "-q", "-F", str(path)]
    assert wait_for(spawn(argv, executable="/sbin/mkfs.ext4", fds={2: 2})) == 0
    return str(path)


def loop_devices(path: str) -> list[str]:
    """Return the loop devices of a file, while others are attached and detached."""
    found = []
    for name in os.listdir("/sys/block"):
        with contextlib.suppress(OSError):  # none, or detached meanwhile
            if Path("/sys/block", name, "loop", "backing_file").read_text().strip() == path:
                found.append(name)
    return found


@pytest.mark.rule("mounts.mount.6")
@pytest.mark.parametrize("options", [("loop",), ("loop", "ro"), ("direct-io", "loop", "rw")])
def test_image_is_mounted_through_a_loop_device_that_goes_with_it(
    image: str, rootfs: str, options: tuple[str, ...]
) -> None:
    """Attached for the mount, detached by the kernel at the unmount; read-only with `ro`."""

    async def main() -> None:
        await mount_all([Mount("ext4", image, "", options)], rootfs)
        assert "lost+found" in os.listdir(rootfs)
        (device,) = loop_devices(image)
        state = Path("/sys/block", device)
        assert (state / "ro").read_text().strip() == str(int("ro" in options))
        assert (state / "loop/autoclear").read_text().strip() == "1"
        assert (state / "loop/dio").read_text().strip() == str(int("direct-io" in options))
        assert ("ro" in flags_of(rootfs)) == ("ro" in options)
        await unmount_recursive(rootfs)

    run(main())
    # Another process that searches for a free device may have it open for a moment.
    until(lambda: not loop_devices(image), "the image to be detached")


def test_loop_mounts_at_the_same_time_get_a_device_each(tmp_path: Path, image: str) -> None:
    """If two find the same free device, one gets it and the other tries again.

    The other one had it open for a moment, so it may be detached a moment later.
    """
    copies = [shutil.copy(image, tmp_path / f"image-{number}") for number in range(5)]

    async def one(copy: str, target: str) -> None:
        for _ in range(4):
            await mount_all([Mount("ext4", copy, "", ("loop",))], target)
            assert loop_devices(copy)
            assert "lost+found" in os.listdir(target)
            await unmount_recursive(target)

    async def main() -> None:
        with contextlib.ExitStack() as stack:
            async with asyncio.TaskGroup() as group:
                for copy in copies:
                    target = stack.enter_context(a_rootfs(Path(f"{copy}.d")))
                    group.create_task(one(str(copy), target))

    run(main(), debug=False)
    for copy in copies:
        until(lambda: not loop_devices(str(copy)), f"{copy} to be detached")  # noqa: B023 - called at once


@pytest.mark.rule("mounts.mount.6")
def test_loop_device_of_a_failed_mount_is_given_back(tmp_path: Path, rootfs: str) -> None:
    """A file without a filesystem: the error is that of the mount, and the device is free again."""
    path = tmp_path / "garbage"
    path.write_bytes(bytes(1 << 20))

    async def main() -> None:
        with pytest.raises(
            Refused, match=r'mount source: "/dev/loop\d+", .* err: invalid argument'
        ):
            await mount_all([Mount("ext4", str(path), "", ("loop",))], rootfs)
        assert loop_devices(str(path)) == []

    run(main())


IN_A_NAMESPACE = """
import asyncio, os, sys
from shimv2.aio import loop
from shimv2.values.model import Mount
from shimv2.mounts.rootfs import mount_all, unmount_recursive
from shimv2.kernel.reaper import Reaper
target = sys.argv[1]

async def main():
    reaper = Reaper(asyncio.get_running_loop())
    await mount_all([Mount("bind", target, "", ("bind", "ro"))], target, reaper)
    os.write(1, b"%d" % os.statvfs(target).f_flag)
    await unmount_recursive(target, reaper)

loop.run(main())
"""


@pytest.mark.rule("mounts.mount.3")
def test_read_only_bind_keeps_flags_that_a_user_namespace_may_not_clear(rootfs: str) -> None:
    """Rootless: the kernel refuses a remount that drops nosuid and nodev of the host's mount."""
    source, sink = os.pipe2(os.O_CLOEXEC)
    flags = ("nosuid", "nodev", "noexec", "noatime")

    async def main() -> None:
        await mount_all([Mount("tmpfs", "tmpfs", "", flags)], rootfs)
        os.chmod(rootfs, 0o777)
        argv = ["unshare", "-Urm", "--", sys.executable, "-c", IN_A_NAMESPACE, rootfs]
        pid = spawn(argv, executable="/usr/bin/unshare", fds={1: sink, 2: 2})
        os.close(sink)
        assert wait_for(pid) == 0
        seen = int(os.read(source, 100))
        os.close(source)
        for flag in (os.ST_RDONLY, os.ST_NOSUID, os.ST_NODEV, os.ST_NOEXEC, os.ST_NOATIME):
            assert seen & flag
        await unmount_recursive(rootfs)

    run(main())
