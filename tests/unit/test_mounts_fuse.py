"""FUSE mounts: with the programs of Debian, and with faulty scripts."""

import asyncio
import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shimv2.kernel import linux
from shimv2.kernel.reaper import Reaper
from shimv2.mounts import fuse
from shimv2.mounts import rootfs as rootfs_mounts
from shimv2.mounts.umount import mount_points_below, mounts_on, unmount_fully
from shimv2.shimctl.testbed.leaks import children_of
from shimv2.shimctl.testbed.until import eventually
from shimv2.values.errors import Refused
from shimv2.values.model import Mount
from tests.support.aio import run
from tests.support.mounts import a_rootfs, flags_of, layers, overlay, reaping
from tests.support.users import USER, as_user

pytestmark = pytest.mark.root

PREFIX = "failed to mount rootfs component: "
MOUNT_FUSE3 = "#!/bin/sh\nPATH=/usr/sbin:/usr/bin:/sbin:/bin\n"


@pytest.fixture
def rootfs(tmp_path: Path) -> Iterator[str]:
    with a_rootfs(tmp_path) as target:
        yield target


@pytest.fixture
def source(tmp_path: Path) -> str:
    (folder,) = layers(tmp_path, 1)
    return folder


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Put a `mount.fuse3` of the test on PATH; the programs that it runs are found too."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def install(script: str) -> None:
        (folder / "mount.fuse3").write_text(MOUNT_FUSE3 + script)
        (folder / "mount.fuse3").chmod(0o755)

    return install


@pytest.mark.rule("mounts.mount.11")
@pytest.mark.parametrize("kind", ["fuse", "fuse3"])
def test_filesystem_is_served_until_it_is_unmounted(source: str, rootfs: str, kind: str) -> None:
    """The type names the helper and the program; each option is passed on."""

    async def scenario(reaper: Reaper) -> None:
        mount = Mount(f"{kind}.bindfs", source, "", ("ro", "allow_other"))
        await rootfs_mounts.mount_all([mount], rootfs, reaper)
        assert os.listdir(rootfs) == ["file-0"]
        assert "ro" in flags_of(rootfs)
        await rootfs_mounts.unmount_all([mount], rootfs, reaper)
        assert os.listdir(rootfs) == []

    reaping(scenario)


def test_batch_of_both_kinds_is_mounted_in_order(tmp_path: Path, rootfs: str) -> None:
    """A FUSE mount inside of an overlay, and a tmpfs inside of that; all are unmounted."""
    lower = layers(tmp_path, 2)
    (Path(lower[0]) / "in").mkdir()
    (Path(lower[1]) / "deep").mkdir()

    async def scenario(reaper: Reaper) -> None:
        batch = [
            overlay(tmp_path, lower),
            Mount("fuse3.bindfs", lower[1], "/in"),
            Mount("tmpfs", "tmpfs", "in/deep", ("size=64k",)),
        ]
        await rootfs_mounts.mount_all(batch, rootfs, reaper)
        assert mount_points_below(rootfs) == [f"{rootfs}/in/deep", f"{rootfs}/in", rootfs]
        await rootfs_mounts.unmount_recursive(rootfs, reaper)
        assert mount_points_below(rootfs) == []

    reaping(scenario)


def test_filesystem_is_unmounted_if_a_later_mount_fails(source: str, rootfs: str) -> None:
    """All or nothing; the server of the filesystem ends."""

    async def scenario(reaper: Reaper) -> None:
        batch = [Mount("fuse3.bindfs", source, ""), Mount("nofs", "x", "")]
        with pytest.raises(Refused, match="no such device"):
            await rootfs_mounts.mount_all(batch, rootfs, reaper)
        assert mount_points_below(rootfs) == []

    reaping(scenario)


@pytest.mark.rule("mounts.mount.11")
def test_missing_helper_is_reported(
    source: str, rootfs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The usual case on a machine without FUSE."""
    monkeypatch.setenv("PATH", "/nowhere")

    async def scenario(reaper: Reaper) -> None:
        with pytest.raises(Refused) as caught:
            await rootfs_mounts.mount_all([Mount("fuse.x", source, "")], rootfs, reaper)
        assert str(caught.value) == (
            f"{PREFIX}mount helper [mount.fuse [{source} {rootfs} -t x]] failed: "
            '"": exec: "mount.fuse": executable file not found in $PATH'
        )

    reaping(scenario)


def test_missing_program_is_reported_with_the_helpers_text(source: str, rootfs: str) -> None:
    """The output of the helper is the only information."""

    async def scenario(reaper: Reaper) -> None:
        mount = Mount("fuse3.nosuchfs", source, "", ("a", "b=c"))
        with pytest.raises(Refused) as caught:
            await rootfs_mounts.mount_all([mount], rootfs, reaper)
        args = f"{source} {rootfs} -o a -o b=c -t nosuchfs"
        assert str(caught.value) == (
            f"{PREFIX}mount helper [mount.fuse3 [{args}]] failed: "
            '"/bin/sh: 1: nosuchfs: not found\\n": exit status 127'
        )

    reaping(scenario)


@pytest.mark.rule("mounts.mount.11")
def test_helper_that_mounts_and_then_fails_leaves_no_mount(
    rootfs: str, helper: Callable[[str], None]
) -> None:
    """A new mount at the mount point is unmounted; earlier ones stay."""
    helper('mount -t tmpfs tmpfs "$2"; echo "went wrong: $*" >&2; exit 3')

    async def scenario(reaper: Reaper) -> None:
        before = Mount("tmpfs", "tmpfs", "")
        await rootfs_mounts.mount_all([before], rootfs, reaper)
        with pytest.raises(Refused) as caught:
            await rootfs_mounts.mount_all([Mount("fuse3.x", "s", "", ("a", "b=c"))], rootfs, reaper)
        assert str(caught.value) == (
            f"{PREFIX}mount helper [mount.fuse3 [s {rootfs} -o a -o b=c -t x]] failed: "
            f'"went wrong: s {rootfs} -o a -o b=c -t x\\n": exit status 3'
        )
        assert mounts_on(rootfs) == 1
        await rootfs_mounts.unmount_all([before], rootfs, reaper)

    reaping(scenario)


def test_helper_that_mounts_nothing_is_no_success(
    rootfs: str, helper: Callable[[str], None]
) -> None:
    """A container must not start in an empty folder."""
    helper("exit 0")

    async def scenario(reaper: Reaper) -> None:
        with pytest.raises(Refused, match=f"mount.fuse3 has mounted nothing at {rootfs}"):
            await rootfs_mounts.mount_all([Mount("fuse3.x", "s", "")], rootfs, reaper)

    reaping(scenario)


@pytest.mark.rule("mounts.mount.11")
def test_helper_that_hangs_is_killed_with_its_children(
    rootfs: str, helper: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has a time limit; its mounts are unmounted."""
    monkeypatch.setattr(fuse, "HELPER_LIMIT_S", 0.5)
    helper('mount -t tmpfs tmpfs "$2"; echo waiting; sleep 1000; true')

    async def scenario(reaper: Reaper) -> None:
        with pytest.raises(Refused, match=r'failed: "waiting\\n": signal: killed$'):
            await rootfs_mounts.mount_all([Mount("fuse3.x", "s", "")], rootfs, reaper)
        assert mount_points_below(rootfs) == []

    reaping(scenario)


def test_cancelled_mount_kills_the_helper(
    tmp_path: Path, rootfs: str, helper: Callable[[str], None]
) -> None:
    """At the caller's deadline, or when it disconnects."""
    helper(f'mount -t tmpfs tmpfs "$2"; touch {tmp_path}/begun; sleep 1000; true')

    async def scenario(reaper: Reaper) -> None:
        call = rootfs_mounts.mount_all([Mount("fuse3.x", "s", "")], rootfs, reaper)
        task = asyncio.get_running_loop().create_task(call)
        await eventually((tmp_path / "begun").exists, "the helper to begin")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert mount_points_below(rootfs) == []

    reaping(scenario)


@pytest.mark.rule("mounts.unmount.5")
def test_filesystem_whose_program_was_killed_is_unmounted(source: str, rootfs: str) -> None:
    """All calls except umount(2) fail with ENOTCONN."""

    async def scenario(reaper: Reaper) -> None:
        await rootfs_mounts.mount_all([Mount("fuse3.bindfs", source, "")], rootfs, reaper)
        (server,) = children_of(os.getpid())
        os.kill(server, signal.SIGKILL)
        await eventually(lambda: not children_of(os.getpid()), "the end of its program")
        with pytest.raises(OSError, match="not connected"):
            os.listdir(rootfs)
        await rootfs_mounts.unmount_recursive(rootfs, reaper)
        assert mount_points_below(rootfs) == []

    reaping(scenario)


@pytest.fixture
def users_mount() -> Iterator[str]:
    """Make a FUSE mount of an unprivileged user without a server, in that user's mount
    namespace."""
    folder = tempfile.mkdtemp(dir="/tmp")
    os.chmod(folder, 0o755)
    device = os.open("/dev/fuse", os.O_RDWR)
    owner = f"fd={device},rootmode=40000,user_id={USER},group_id={USER}"
    linux.mount("nothing", folder, "fuse", linux.MS_NOSUID | linux.MS_NODEV, owner)
    os.close(device)
    yield folder
    unmount_fully(folder)
    os.rmdir(folder)


def unmount_as_user(path: str) -> int:
    async def main() -> None:
        reaper = Reaper(asyncio.get_running_loop())
        reaper.start()
        await rootfs_mounts.unmount_recursive(path, reaper)
        reaper.stop()

    return as_user(lambda: run(main()))


def test_users_own_filesystem_is_unmounted_by_the_program_that_may(users_mount: str) -> None:
    """Without privileges umount(2) is refused: fusermount3 does it."""
    assert unmount_as_user(users_mount) == 0
    assert mounts_on(users_mount) == 0


def test_users_filesystem_stays_where_there_is_no_such_program(
    users_mount: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """An error, and no endless loop."""
    monkeypatch.setenv("PATH", "/nowhere")
    assert unmount_as_user(users_mount) == 1
    assert mounts_on(users_mount) == 1
    assert 'failed: "": exec: "fusermount": executable file not found' in capfd.readouterr().err
