"""Unmounting all of a rootfs: stacked, nested and busy mounts, and unusual names."""

import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from shimv2.kernel import linux
from shimv2.mounts import umount
from shimv2.mounts.umount import left_by_criu, mount_points_below, unmount_recursive_now
from tests.support.aio import run
from tests.support.mounts import a_rootfs, unmount_recursive

pytestmark = pytest.mark.root


@pytest.fixture
def rootfs(tmp_path: Path) -> Iterator[str]:
    with a_rootfs(tmp_path) as target:
        yield target


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(umount, "BUSY_PAUSE_S", 0.002)


def mount_tmpfs(path: str) -> None:
    os.makedirs(path, exist_ok=True)
    linux.mount("tmpfs", path, "tmpfs", 0, "size=64k")


@pytest.mark.rule("mounts.unmount.1")
def test_nested_and_stacked_mounts_are_all_unmounted(rootfs: str) -> None:
    """The deepest first, and stacked mounts all; mounts beside the rootfs stay."""
    neighbour = f"{rootfs}-2"
    for path in (rootfs, rootfs, f"{rootfs}/a", f"{rootfs}/a/b", f"{rootfs}/a/b", neighbour):
        mount_tmpfs(path)

    unmount_recursive_now(rootfs)

    assert mount_points_below(os.path.dirname(rootfs)) == [neighbour]
    unmount_recursive_now(neighbour)


def test_mounts_below_a_target_that_is_no_mount_are_unmounted(rootfs: str) -> None:
    """`delete` calls it even if the rootfs itself is no mount."""
    mount_tmpfs(f"{rootfs}/proc")
    mount_tmpfs(f"{rootfs}/dev/shm")

    unmount_recursive_now(rootfs)

    assert mount_points_below(rootfs) == []
    unmount_recursive_now(rootfs)


@pytest.mark.parametrize(
    "name", ["a b", "tab\there", "new\nline", "back\\slash", "\\040", "#", "ü"]
)
def test_names_that_mountinfo_escapes_are_read_back(rootfs: str, name: str) -> None:
    """Octal escapes: \\040 for a blank, \\134 for a backslash."""
    path = os.path.join(rootfs, name)
    mount_tmpfs(path)

    assert mount_points_below(rootfs) == [path]
    unmount_recursive_now(rootfs)
    assert mount_points_below(rootfs) == []


def test_target_is_made_canonical_first(tmp_path: Path, rootfs: str) -> None:
    """mountinfo has no symlinks."""
    mount_tmpfs(f"{rootfs}/a")
    (tmp_path / "link").symlink_to(os.path.dirname(rootfs))

    unmount_recursive_now(f"{tmp_path}/link/../link/./rootfs")

    assert mount_points_below(rootfs) == []


@pytest.mark.rule("mounts.unmount.2")
def test_target_that_is_missing_or_empty_is_nothing_to_do(tmp_path: Path) -> None:
    """`delete` is idempotent."""
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to("gone")

    for target in (
        "",
        str(tmp_path / "gone"),
        str(tmp_path / "file" / "x"),
        f"{tmp_path}/dangling",
    ):
        unmount_recursive_now(target)


@pytest.mark.rule("mounts.unmount.3")
def test_busy_mount_is_tried_again(rootfs: str) -> None:
    """A file that is closed a moment later must not fail a Delete; mounts are never detached
    lazily."""
    mount_tmpfs(rootfs)
    fd = os.open(rootfs, os.O_RDONLY)
    timer = threading.Timer(0.02, os.close, (fd,))
    timer.start()

    unmount_recursive_now(rootfs)

    timer.join()
    assert mount_points_below(rootfs) == []


@pytest.mark.rule("mounts.unmount.3", "mounts.unmount.4")
def test_mount_that_stays_busy_is_an_error(rootfs: str) -> None:
    """The outermost failure is reported, with its path, after all the others were tried."""
    mount_tmpfs(rootfs)
    mount_tmpfs(f"{rootfs}/free")
    fd = os.open(rootfs, os.O_RDONLY)
    try:
        with pytest.raises(OSError, match="busy") as caught:
            run(unmount_recursive(rootfs), debug=False)
        assert caught.value.errno == errno.EBUSY
        assert caught.value.filename == rootfs
        assert mount_points_below(rootfs) == [rootfs]
    finally:
        os.close(fd)
    unmount_recursive_now(rootfs)


@pytest.mark.rule("mounts.unmount.4")
def test_failure_below_the_outermost_is_only_logged(
    rootfs: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Upstream's rule: the last error counts; here the outermost could be unmounted."""
    outer, inner = f"{rootfs}/o", f"{rootfs}/much-longer-name"
    mount_tmpfs(outer)
    mount_tmpfs(inner)
    fd = os.open(inner, os.O_RDONLY)
    try:
        unmount_recursive_now(rootfs)
        assert mount_points_below(rootfs) == [inner]
    finally:
        os.close(fd)
    assert inner in caplog.text
    unmount_recursive_now(rootfs)


@pytest.mark.rule("mounts.unmount.5")
def test_dead_fuse_mount_is_unmounted(rootfs: str) -> None:
    """Other calls on it fail with ENOTCONN, but it can be unmounted."""
    fd = os.open("/dev/fuse", os.O_RDWR)
    linux.mount("x", rootfs, "fuse", 0, f"fd={fd},rootmode=40000,user_id=0,group_id=0")
    os.close(fd)
    with pytest.raises(OSError, match="not connected"):
        os.lstat(rootfs)

    unmount_recursive_now(rootfs)

    assert mount_points_below(rootfs) == []


def test_what_criu_leaves_is_found_in_the_folders_of_the_container(rootfs: str) -> None:
    """The root for runc and for crun, and cgroup hierarchies, but no mounts of the client."""
    state, bundle = f"{rootfs}/state", f"{rootfs}/bundle"
    left = [f"{state}/criu-root", f"{bundle}/criu-root"]
    left += [f"{bundle}/work/.criu.cgyard.x", f"{bundle}/work/criu-work/.criu.mounts.y"]
    for folder in (*left, f"{bundle}/work/mine"):
        mount_tmpfs(folder)
    os.mkdir(f"{bundle}/work/.criu.not-mounted")

    assert left_by_criu(bundle, state) == left
    assert left_by_criu(f"{rootfs}/no", f"{rootfs}/no") == []
    for folder in left:
        unmount_recursive_now(folder)
    assert left_by_criu(bundle, state) == []
    unmount_recursive_now(f"{bundle}/work/mine")
