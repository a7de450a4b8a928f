"""Unmounts, blocking and without an event loop, so that the `delete` action can use it.

Never lazily (MNT_DETACH): containerd removes or reuses the directories right afterwards, and a
detached overlay would still hold its work directory.
"""

import errno
import logging
import os
import re
import time
from typing import Final

from shimv2.kernel import linux
from shimv2.values import paths

_MOUNT_TABLE: Final = "/proc/self/mountinfo"
_MOUNT_POINT_FIELD: Final = 4
_ESCAPED: Final = re.compile(rb"\\([0-7]{3})")  # space, tab, newline and backslash (proc(5))

BUSY_TRIES: Final = 50
BUSY_PAUSE_S: Final = 0.05

CRIU_ROOT: Final = "criu-root"
"""The directory where a runtime mounts the container's root for CRIU: runc's is in its state
directory, crun's in the bundle."""

FUSERMOUNTS: Final = ("fusermount3", "fusermount")
"""The setuid programs that unmount an unprivileged user's FUSE mount: `NAME -u PATH`."""

log = logging.getLogger(__name__)


class NeedsFusermount(OSError):
    """umount(2) refused a FUSE mount with EPERM; one of `FUSERMOUNTS` may unmount it."""

    def __init__(self, path: str) -> None:
        super().__init__(errno.EPERM, os.strerror(errno.EPERM), path)
        self.path = path


def unmount_recursive_now(target: str) -> None:
    """Unmount `target` and all mounts below it, the deepest first; no mount there is fine.

    May take `BUSY_TRIES` * `BUSY_PAUSE_S` for each mount that is in use.

    Raises:
        OSError: the outermost mount cannot be unmounted; other failures are only logged.
        NeedsFusermount: a mount needs `fusermount`; unmount it, then call this again.
    """
    if not target:
        return
    try:
        os.lstat(target)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError:
        pass  # a dead FUSE or network mount fails lstat(2), but it can be unmounted
    points = mount_points_below(os.path.realpath(target))
    for index, point in enumerate(points, start=1):
        try:
            unmount_fully(point)
        except NeedsFusermount:
            raise
        except OSError as exc:
            if index == len(points):
                raise
            log.warning("cannot unmount %s: %s", point, exc.strerror)


def left_by_criu(bundle: str, state: str) -> list[str]:
    """List the directories where a killed CRIU left mounts; `state` is the runtime's directory.

    They must be unmounted before the directories around them are removed, which the runtime's
    forced delete, containerd and the shim do.  One of the mounts is the container's root, others
    are the machine's cgroup hierarchies: a recursive removal would remove their contents too.
    """
    found = [os.path.join(folder, CRIU_ROOT) for folder in (state, bundle)]  # runc's, crun's
    for folder in (paths.work_dir(bundle), paths.criu_work_dir(bundle)):
        try:
            names = os.listdir(folder)
        except OSError:
            continue
        found += [os.path.join(folder, name) for name in names if name.startswith(".criu.")]
    return [path for path in found if mount_points_below(os.path.realpath(path))]


def mount_points_below(root: str) -> list[str]:
    """List the mount points equal to `root` (canonical) or below it, the deepest first."""
    with open(_MOUNT_TABLE, "rb") as table:
        found = {point for line in table if _is_below(point := _mount_point(line), root)}
    return sorted(found, key=len, reverse=True)


def mounts_on(path: str) -> int:
    """Count the mounts that are stacked on `path` (canonical)."""
    with open(_MOUNT_TABLE, "rb") as table:
        return sum(_mount_point(line) == path for line in table)


def _mount_point(line: bytes) -> str:
    raw = line.split(b" ", _MOUNT_POINT_FIELD + 1)[_MOUNT_POINT_FIELD]
    if b"\\" in raw:  # rare; the table has a line for each container of the machine
        raw = _ESCAPED.sub(lambda match: bytes([int(match[1], 8)]), raw)
    return os.fsdecode(raw)


def _is_below(path: str, root: str) -> bool:
    return path == root or path.startswith(root.rstrip("/") + "/")


def unmount_fully(path: str) -> None:
    """Unmount all mounts that are stacked on `path`; no mount there is fine.

    Raises:
        NeedsFusermount, OSError: as `unmount_one`.
    """
    while unmount_one(path):
        pass


def unmount_one(path: str) -> bool:
    """Unmount the topmost mount on `path`; return False when there is none.

    Raises:
        NeedsFusermount: it is a FUSE mount, and umount(2) gives EPERM.
        OSError: it stays busy for `BUSY_TRIES` * `BUSY_PAUSE_S`, or the kernel refuses.
    """
    tries = 1
    while True:
        try:
            # A mount point's last component is no symlink; a symlink there was made after the
            # mount.
            linux.unmount(path, linux.UMOUNT_NOFOLLOW)
        except OSError as exc:
            if exc.errno in (errno.EINVAL, errno.ENOENT):
                return False
            if exc.errno == errno.EPERM and _is_fuse(path):
                raise NeedsFusermount(path) from exc
            if exc.errno != errno.EBUSY or tries == BUSY_TRIES:
                raise
        else:
            return True
        tries += 1
        time.sleep(BUSY_PAUSE_S)


def _is_fuse(path: str) -> bool:
    """Whether the topmost mount on `path` is FUSE.  Not by statfs(2): a dead one fails it."""
    with open(_MOUNT_TABLE, "rb") as table:
        kinds = [line.partition(b" - ")[2] for line in table if _mount_point(line) == path]
    return bool(kinds) and kinds[-1].startswith((b"fuse ", b"fuse.", b"fuseblk"))
