"""Taking mounts away again: blocking, without a loop, so that `delete` can use it as it is.

Never lazily (MNT_DETACH): the daemon removes or reuses the directories below right afterwards, and
a detached overlay would still hold its work directory.
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
_ESCAPED: Final = re.compile(rb"\\([0-7]{3})")  # blank, tab, newline and backslash

BUSY_TRIES: Final = 50
BUSY_PAUSE_S: Final = 0.05

CRIU_ROOT: Final = "criu-root"
"""Where a runtime shows the container's root to CRIU, in its state folder or in the bundle."""

FUSERMOUNTS: Final = ("fusermount3", "fusermount")
"""The programs that unmount what an ordinary user mounted with FUSE: `NAME -u PATH`."""

log = logging.getLogger(__name__)


class NotOurs(OSError):
    """A FUSE mount that we may not unmount, but one of `FUSERMOUNTS` may.

    Asked only then: for root it does what the system call does, and takes a process for it.
    """

    def __init__(self, path: str) -> None:
        super().__init__(errno.EPERM, os.strerror(errno.EPERM), path)
        self.path = path


def unmount_recursive_now(target: str) -> None:
    """Unmount `target` and all below it, the deepest first; nothing there is fine.

    May take `BUSY_TRIES` * `BUSY_PAUSE_S` for each mount that is in use.

    Raises:
        OSError: of the outermost mount; other failures are logged only.
        NotOurs: of any; it can be repeated once that one is gone.
    """
    if not target:
        return
    try:
        os.lstat(target)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError:
        pass  # a dead FUSE or network mount cannot be looked at, but it can be unmounted
    points = mount_points_below(os.path.realpath(target))
    for index, point in enumerate(points, start=1):
        try:
            unmount_fully(point)
        except NotOurs:
            raise
        except OSError as exc:
            if index == len(points):
                raise
            log.warning("cannot unmount %s: %s", point, exc.strerror)


def left_by_criu(bundle: str, state: str) -> list[str]:
    """Where a CRIU that was killed has left mounts; `state` is the runtime's folder.

    They must be gone before anybody removes the folders around them, as the runtime's forced
    delete, the daemon and we do: one shows the container's root, others every cgroup of the
    machine, whose contents would be removed as well.
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
    """Every mount point equal to `root` (canonical) or below it, the deepest first."""
    with open(_MOUNT_TABLE, "rb") as table:
        found = {point for line in table if _is_below(point := _mount_point(line), root)}
    return sorted(found, key=len, reverse=True)


def mounts_on(path: str) -> int:
    """How many mounts are stacked on `path` (canonical)."""
    with open(_MOUNT_TABLE, "rb") as table:
        return sum(_mount_point(line) == path for line in table)


def _mount_point(line: bytes) -> str:
    raw = line.split(b" ", _MOUNT_POINT_FIELD + 1)[_MOUNT_POINT_FIELD]
    if b"\\" in raw:  # seldom, and there is a line for each container of the machine
        raw = _ESCAPED.sub(lambda match: bytes([int(match[1], 8)]), raw)
    return os.fsdecode(raw)


def _is_below(path: str, root: str) -> bool:
    return path == root or path.startswith(root.rstrip("/") + "/")


def unmount_fully(path: str) -> None:
    """Unmount everything that is stacked on `path`; nothing there is fine.

    Raises:
        OSError: it stayed busy, or the kernel refuses.
    """
    while unmount_one(path):
        pass


def unmount_one(path: str) -> bool:
    """Take the topmost mount off `path`; False when there is none.

    Raises:
        NotOurs, OSError: as `unmount_fully`.
    """
    tries = 1
    while True:
        try:
            # The final part of a mount point is no symlink; if it is one now, it is not ours.
            linux.unmount(path, linux.UMOUNT_NOFOLLOW)
        except OSError as exc:
            if exc.errno in (errno.EINVAL, errno.ENOENT):
                return False
            if exc.errno == errno.EPERM and _is_fuse(path):
                raise NotOurs(path) from exc
            if exc.errno != errno.EBUSY or tries == BUSY_TRIES:
                raise
        else:
            return True
        tries += 1
        time.sleep(BUSY_PAUSE_S)


def _is_fuse(path: str) -> bool:
    """Whether the topmost mount on `path` is a FUSE one; a dead filesystem cannot be asked."""
    with open(_MOUNT_TABLE, "rb") as table:
        kinds = [line.partition(b" - ")[2] for line in table if _mount_point(line) == path]
    return bool(kinds) and kinds[-1].startswith((b"fuse ", b"fuse.", b"fuseblk"))
