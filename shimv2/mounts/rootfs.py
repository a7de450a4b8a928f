"""Makes all mounts of a rootfs, or none, and unmounts them.

mount(2) is called in one short-lived thread a batch (`thread`), for two reasons: a mount may wait
for a disk or a network, and an overlay with many layers needs a working directory of its own.  FUSE
helpers (`fuse`) and the holders of user namespaces (`idmap`) are child processes, which only the
main thread starts.
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
from shimv2.mounts.kernel import Job, as_mount_error, mount_batch
from shimv2.mounts.options import parse_options
from shimv2.mounts.place import name_inside
from shimv2.mounts.thread import in_thread
from shimv2.mounts.umount import (
    NeedsFusermount,
    unmount_fully,
    unmount_one,
    unmount_recursive_now,
)
from shimv2.values.errors import Refused, ShimError
from shimv2.values.model import Mount

__all__ = ["mount_all", "unmount_all", "unmount_recursive"]

log = logging.getLogger(__name__)


async def mount_all(mounts: Sequence[Mount], target: str, reaper: Reaper) -> None:
    """Mount all, in order, each at its own target inside `target` (an absolute path).

    All or nothing: when one fails or the caller is cancelled, those already made are unmounted.

    Raises:
        Refused: with the Go shim's text.
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
            with contextlib.suppress(asyncio.CancelledError):  # the first error is raised
                await _undo(partial(unmount_one, path), path, reaper)
        raise


async def _mount_by_program(
    mounts: Sequence[Mount], target: str, made: list[str], reaper: Reaper
) -> None:
    for mount in mounts:
        try:
            path = await mount_fuse(mount, target, reaper)
        except (OSError, ShimError) as error:
            raise as_mount_error(error) from error
        made.append(path)


async def _job(mount: Mount, reaper: Reaper, held: contextlib.ExitStack) -> Job:
    """Parse the options; open a user namespace if they have an id mapping."""
    try:
        options = parse_options(mount.options)
        if not options.uid_map:
            return Job(mount, options)
        namespace_fd = await idmap.user_namespace(options, reaper)
    except (OSError, ShimError) as error:
        raise as_mount_error(error) from error
    held.callback(os.close, namespace_fd)
    return Job(mount, options, namespace_fd)


async def unmount_all(mounts: Sequence[Mount], target: str, reaper: Reaper) -> None:
    """Unmount what `mount_all` mounted, the last first.  Failures are only logged."""
    for mount in reversed(mounts):
        await _undo(partial(_unmount_inside, target, mount), mount.target or target, reaper)


def _unmount_inside(target: str, mount: Mount) -> None:
    try:
        path = name_inside(target, mount.target)  # a path, because an fd would keep the mount busy
    except FileNotFoundError:
        return  # nothing is mounted there
    unmount_fully(path)


async def unmount_recursive(target: str, reaper: Reaper) -> None:
    """Run `unmount_recursive_now` in a thread; "" is ignored.

    Raises:
        OSError, Refused: the outermost mount cannot be unmounted.
    """
    if target:
        await _unmounting(lambda: unmount_recursive_now(target), reaper)


async def _undo(work: Callable[[], object], path: str, reaper: Reaper) -> None:
    try:
        await _unmounting(work, reaper)
    except (OSError, Refused) as error:
        log.warning("cannot unmount %s: %s", path, getattr(error, "strerror", error))


async def _unmounting(work: Callable[[], object], reaper: Reaper) -> None:
    """Run `work`; while it needs fusermount, unmount with that and run `work` again."""
    while True:
        try:
            await in_thread(work)
        except NeedsFusermount as error:
            await unmount_fuse(error.path, reaper)
        else:
            return
