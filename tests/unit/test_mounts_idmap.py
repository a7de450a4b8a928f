"""Idmapped mounts: the owners of files, and that nothing else is left behind."""

import asyncio
import errno
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from shimv2.kernel import linux, spawn
from shimv2.kernel.reaper import Reaper
from shimv2.mounts import rootfs as rootfs_mounts
from shimv2.mounts.umount import mount_points_below, mounts_on
from shimv2.values import paths
from shimv2.values.errors import Refused
from shimv2.values.model import Mount
from tests.support.aio import run
from tests.support.children import status_of, wait_for
from tests.support.mounts import (
    a_rootfs,
    flags_of,
    layers,
    mount_all,
    overlay,
    reaping,
    unmount_all,
    unmount_recursive,
)

pytestmark = pytest.mark.root

MAPS = ("uidmap=0:100000:65536", "gidmap=0:200000:65536")
PREFIX = "failed to mount rootfs component: "


@pytest.fixture
def rootfs(tmp_path: Path) -> Iterator[str]:
    with a_rootfs(tmp_path) as target:
        yield target


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder with a file of root's and one of user 5, group 7."""
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "root").touch()
    (folder / "five").touch()
    os.chown(folder / "five", 5, 7)
    return folder


def owners(folder: str) -> dict[str, tuple[int, int]]:
    return {entry.name: (entry.stat().st_uid, entry.stat().st_gid) for entry in os.scandir(folder)}


def own(folder: str) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_uid, status.st_gid


MAPPED = {"root": (100000, 200000), "five": (100005, 200007)}


@pytest.mark.rule("mounts.mount.9")
@pytest.mark.parametrize("kind", ["bind", "rbind"])
def test_bind_shows_the_files_as_the_other_ids(source: Path, rootfs: str, kind: str) -> None:
    """Nothing changes on disk; there is one mount, which is unmounted."""

    async def main() -> None:
        mount = Mount("bind", str(source), "", (kind, "ro", *MAPS))
        await mount_all([mount], rootfs)
        assert owners(rootfs) == MAPPED
        assert {"ro", "idmapped"} <= flags_of(rootfs)
        assert owners(str(source)) == {"root": (0, 0), "five": (5, 7)}
        assert mounts_on(rootfs) == 1
        await unmount_all([mount], rootfs)
        assert os.listdir(rootfs) == []

    run(main())


def test_rbind_maps_what_is_mounted_below(source: Path, rootfs: str) -> None:
    """A recursive bind includes the mounts below; they get the same mapping."""
    (source / "below").mkdir()

    async def main() -> None:
        below = Mount("tmpfs", "tmpfs", "", ("size=64k",))
        await mount_all([below], str(source / "below"))
        (source / "below/file").touch()
        await mount_all([Mount("bind", str(source), "", ("rbind", *MAPS))], rootfs)
        assert owners(f"{rootfs}/below") == {"file": (100000, 200000)}
        await unmount_recursive(rootfs)
        await unmount_recursive(str(source))

    run(main())


def test_filesystem_is_mounted_with_the_mapping(tmp_path: Path, rootfs: str) -> None:
    """Other filesystems too: the mount is replaced by its mapped clone, also inside of others."""
    os.mkdir(f"{rootfs}/in")

    async def main() -> None:
        mount = Mount("tmpfs", "tmpfs", "in", ("size=64k", "mode=700", *MAPS))
        await mount_all([mount], rootfs)
        assert own(f"{rootfs}/in") == (100000, 200000)
        assert mounts_on(f"{rootfs}/in") == 1
        await unmount_all([mount], rootfs)
        assert mount_points_below(rootfs) == []

    run(main())


def test_several_ranges_are_mapped(source: Path, rootfs: str) -> None:
    """As for rootless users: the own id, then the subordinate ids."""
    maps = ("uidmap=0:1000:1,1:300000:65535", "gidmap=0:1000:1,1:300000:65535")

    async def main() -> None:
        await mount_all([Mount("bind", str(source), "", ("bind", *maps))], rootfs)
        assert owners(rootfs) == {"root": (1000, 1000), "five": (300004, 300006)}
        await unmount_recursive(rootfs)

    run(main())


@pytest.mark.rule("mounts.mount.9")
@pytest.mark.parametrize("count", [1, 3, 400])
def test_overlay_shows_its_layers_as_the_other_ids(tmp_path: Path, rootfs: str, count: int) -> None:
    """The lower layers are mapped in a folder of their own, which is removed afterwards."""
    lower = layers(tmp_path / ("long-name-" * 20), count)
    os.chown(f"{lower[0]}/file-0", 5, 7)
    mount = overlay(tmp_path, lower)
    os.chown(tmp_path / "upper", 100000, 200000)
    mount = replace(mount, options=(*mount.options, *MAPS))

    async def main() -> None:
        await mount_all([mount], rootfs)
        assert len(os.listdir(rootfs)) == count
        assert owners(rootfs)["file-0"] == (100005, 200007)
        (Path(rootfs) / "new").touch()
        assert mount_points_below(str(tmp_path)) == [rootfs]
        assert not os.path.exists(paths.idmapped_layers(rootfs))
        await unmount_all([mount], rootfs)
        assert os.listdir(tmp_path / "upper") == ["new"]

    run(main(), 60, debug=False)


def test_overlay_whose_layer_is_missing_leaves_no_mapped_layer(tmp_path: Path, rootfs: str) -> None:
    """Those before it were mounted already."""
    mount = overlay(tmp_path, [*layers(tmp_path, 2), "/gone"])
    mount = replace(mount, options=(*mount.options, *MAPS))

    async def main() -> None:
        with pytest.raises(Refused) as caught:
            await mount_all([mount], rootfs)
        text = f"{PREFIX}cannot idmap /gone: open_tree: no such file or directory"
        assert str(caught.value) == text
        assert mount_points_below(str(tmp_path)) == []
        assert not os.path.exists(paths.idmapped_layers(rootfs))

    run(main())


def test_filesystem_that_cannot_be_idmapped_is_reported(rootfs: str) -> None:
    """For example proc; the mount is undone."""

    async def main() -> None:
        for mount in (
            Mount("proc", "proc", "", MAPS),
            Mount("bind", "/proc", "", ("bind", *MAPS)),
        ):
            with pytest.raises(Refused) as caught:
                await mount_all([mount], rootfs)
            place = rootfs if mount.type == "proc" else "/proc"
            text = f"{PREFIX}cannot idmap {place}: mount_setattr: invalid argument"
            assert str(caught.value) == text
            assert mount_points_below(rootfs) == []

    run(main())


@pytest.mark.parametrize("call", ["open_tree", "set_idmap", "move_mount"])
def test_kernel_without_the_calls_is_reported(
    source: Path, rootfs: str, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Before Linux 5.12, or below a seccomp filter that does not know them."""

    def refuse(*_args: object, **_options: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(linux, call, refuse)

    async def main() -> None:
        with pytest.raises(Refused, match=r"cannot idmap .*: function not implemented"):
            await mount_all([Mount("bind", str(source), "", ("bind", *MAPS))], rootfs)
        assert mount_points_below(rootfs) == []

    run(main())


@pytest.mark.rule("mounts.mount.10")
def test_mapping_that_the_kernel_refuses_is_reported(source: Path, rootfs: str) -> None:
    """Ranges that overlap: the error names the mapping."""
    maps = ("uidmap=0:1000:10,5:2000:10", "gidmap=0:1000:10")

    async def main() -> None:
        with pytest.raises(Refused) as caught:
            await mount_all([Mount("bind", str(source), "", ("bind", *maps))], rootfs)
        assert str(caught.value) == (
            f"{PREFIX}cannot make a user namespace for {maps[0]},{maps[1]}: invalid argument"
        )

    run(main())


def test_limit_of_user_namespaces_is_reported(
    source: Path, rootfs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ENOSPC of unshare(2) in a child: the child reports it and exits."""

    def refuse(_flags: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(linux, "unshare", refuse)

    async def main() -> None:
        with pytest.raises(Refused, match="no space left on device"):
            await mount_all([Mount("bind", str(source), "", ("bind", *MAPS))], rootfs)

    run(main())


def test_holder_of_a_namespace_waits_to_be_killed() -> None:
    """It is in a namespace of its own, and ignores all signals but SIGKILL."""
    pid, report = spawn.hold_user_namespace()

    assert os.read(report, 10) == b"\0"
    os.close(report)
    ours = os.stat("/proc/self/ns/user").st_ino
    assert os.stat(f"/proc/{pid}/ns/user").st_ino != ours
    os.kill(pid, signal.SIGTERM)
    assert status_of(pid)["State"][0] in "RS"
    os.kill(pid, signal.SIGKILL)
    assert wait_for(pid) == 128 + signal.SIGKILL


@pytest.mark.parametrize("turns", range(4))
def test_cancelled_mount_leaves_no_holder(source: Path, rootfs: str, turns: int) -> None:
    """The call may wait for the child's report, its exit, or the thread."""

    async def scenario(reaper: Reaper) -> None:
        mount = Mount("bind", str(source), "", ("bind", *MAPS))
        call = rootfs_mounts.mount_all([mount], rootfs, reaper)
        task = asyncio.get_running_loop().create_task(call)
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert mount_points_below(rootfs) == []

    reaping(scenario)
