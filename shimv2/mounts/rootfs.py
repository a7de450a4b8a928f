"""The mounts that make a rootfs, and their undo.

What the kernel mounts is mounted in one short-lived thread a batch (thread.py): a mount may wait
for a disk or a network, and an overlay with many layers only fits into mount(2) with a working
directory of its own.  What a program mounts (fuse.py) and what needs another user namespace
(idmap.py) needs children, and those are the main thread's.  Mounts are made in the shim's mount
namespace, which is the daemon's.
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby

from shimv2.kernel.reaper import Reaper
from shimv2.mounts import idmap
from shimv2.mounts.fuse import is_fuse, mount_fuse, unmount_fuse
from shimv2.mounts.kernel import Job, mount_batch, said
from shimv2.mounts.options import parse_options
from shimv2.mounts.place import name_inside
from shimv2.mounts.thread import in_thread
from shimv2.mounts.umount import NotOurs, unmount_fully, unmount_one, unmount_recursive_now
from shimv2.values.errors import Refused, ShimError
from shimv2.values.model import Mount

__all__ = ["mount_all", "unmount_all", "unmount_recursive"]

log = logging.getLogger(__name__)


async def mount_all(mounts: Sequence[Mount], target: str, reaper: Reaper) -> None:
    """Mount all, in order, at `target` (absolute) joined with each one's own target inside it.

    All or nothing: what was mounted is unmounted again when one fails or the caller is cancelled.

    Raises:
        Refused: with the reference's text.
    """
    made: list[str] = []
    try:
        for by_program, group in groupby(mounts, is_fuse):
            if by_program:
                await _mount_by_program(list(group), target, made, reaper)
            else:
                with contextlib.ExitStack() as held:
                    jobs = [await _job(mount, reaper, held) for mount in group]
                    await in_thread(partial(mount_batch, jobs, target, made))
    except BaseException:
        for path in reversed(made):
            with contextlib.suppress(asyncio.CancelledError):  # whatever happened first is raised
                await _undo(partial(unmount_one, path), path, reaper)
        raise


async def _mount_by_program(
    mounts: Sequence[Mount], target: str, made: list[str], reaper: Reaper
) -> None:
    for mount in mounts:
        try:
            path = await mount_fuse(mount, target, reaper)
        except (OSError, ShimError) as error:
            raise said(error) from error
        made.append(path)


async def _job(mount: Mount, reaper: Reaper, held: contextlib.ExitStack) -> Job:
    """Read the options; open a user namespace if they want ids mapped."""
    try:
        options = parse_options(mount.options)
        if not options.uid_map:
            return Job(mount, options)
        namespace_fd = await idmap.user_namespace(options, reaper)
    except (OSError, ShimError) as error:
        raise said(error) from error
    held.callback(os.close, namespace_fd)
    return Job(mount, options, namespace_fd)


async def unmount_all(mounts: Sequence[Mount], target: str, reaper: Reaper) -> None:
    """Take the mounts of `mount_all` away, the last first.  Failures are only logged."""
    for mount in reversed(mounts):
        await _undo(partial(_unmount_inside, target, mount), mount.target or target, reaper)


def _unmount_inside(target: str, mount: Mount) -> None:
    try:
        path = name_inside(target, mount.target)  # looked up only: an open fd would keep it busy
    except FileNotFoundError:
        return  # then nothing is mounted there
    unmount_fully(path)


async def unmount_recursive(target: str, reaper: Reaper) -> None:
    """`unmount_recursive_now`, without blocking the loop.

    Raises:
        OSError, Refused: of the outermost mount.
    """
    if target:
        await _unmounting(lambda: unmount_recursive_now(target), reaper)


async def _undo(work: Callable[[], object], path: str, reaper: Reaper) -> None:
    try:
        await _unmounting(work, reaper)
    except (OSError, Refused) as error:
        log.warning("cannot unmount %s again: %s", path, getattr(error, "strerror", error))


async def _unmounting(work: Callable[[], object], reaper: Reaper) -> None:
    """Repeat `work` until it meets no mount any more that only a program may take away."""
    while True:
        try:
            await in_thread(work)
        except NotOurs as error:
            await unmount_fuse(error.path, reaper)
        else:
            return
