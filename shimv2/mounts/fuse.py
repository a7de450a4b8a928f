"""FUSE filesystems: mounted by a helper program, which leaves a server process behind.

The helper `mount.fuse` exits once the filesystem is mounted.  The server process is re-parented to
the shim, its subreaper.  The shim never kills it: it exits when the filesystem is unmounted.
"""

import asyncio
import os
from collections.abc import Sequence
from typing import Final

from shimv2.gocompat.gotext import quote
from shimv2.kernel.reaper import Reaper
from shimv2.mounts.options import refuse_mount_manager_options
from shimv2.mounts.place import name_inside
from shimv2.mounts.thread import in_thread
from shimv2.mounts.umount import FUSERMOUNTS, mounts_on, unmount_one
from shimv2.runtime.command import CommandFailed, launch, memory_file, output
from shimv2.runtime.tree import kill_tree
from shimv2.values.errors import Refused
from shimv2.values.model import Exit, Mount

HELPER_LIMIT_S: Final = 30.0
_DEATH_LIMIT_S: Final = 5.0
_KINDS: Final = ("fuse", "fuse3")


def is_fuse(mount: Mount) -> bool:
    """Whether `mount` has a type `fuse.PROGRAM` or `fuse3.PROGRAM`."""
    kind, dot, _ = mount.type.partition(".")
    return bool(dot) and kind in _KINDS


async def mount_fuse(mount: Mount, target: str, reaper: Reaper) -> str:
    """Mount a FUSE filesystem inside the root `target` and return the real mount point.

    When it fails, nothing stays mounted.

    Raises:
        Refused: the program is missing, fails or takes longer than `HELPER_LIMIT_S`; the text has
            its output.
    """
    refuse_mount_manager_options(mount.options)
    kind, _, name = mount.type.partition(".")
    path = name_inside(target, mount.target)
    options = [word for option in mount.options for word in ("-o", option)]
    helper, args = f"mount.{kind}", [mount.source, path, *options, "-t", name]
    before = mounts_on(path)
    try:
        await _run([helper, *args], reaper, what=f"mount helper [{helper} [{' '.join(args)}]]")
    except (Exception, asyncio.CancelledError):
        if mounts_on(path) > before:
            await in_thread(lambda: unmount_one(path))
        raise
    if mounts_on(path) == before:
        raise Refused(f"{helper} has mounted nothing at {path}")
    return path


async def unmount_fuse(path: str, reaper: Reaper) -> None:
    """Unmount `path` with `fusermount3`, or with `fusermount` when that fails.

    Raises:
        Refused: neither program exists, or the last one fails.
    """
    for name in FUSERMOUNTS:
        try:
            await _run([name, "-u", path], reaper, what=f"{name} -u {path}")
        except Refused:
            if name == FUSERMOUNTS[-1]:
                raise
        else:
            return


async def _run(argv: Sequence[str], reaper: Reaper, *, what: str) -> None:
    """Run a program to its end, for at most `HELPER_LIMIT_S`.

    Raises:
        Refused: it cannot be executed, or fails; the text is Go's, with the program's output.
    """
    caught = memory_file("mount-helper-output")
    try:
        try:
            with reaper.launching():
                pid = launch(argv, {1: caught, 2: caught})
                exited = reaper.claim(pid)
        except CommandFailed as error:
            raise Refused(f'{what} failed: "": {error}') from None
        try:
            await asyncio.wait([exited], timeout=HELPER_LIMIT_S)
            in_time = exited.done()
        finally:
            if not exited.done():
                await _kill(pid, exited)
        status = exited.result().status if in_time else 0
        if status or not in_time:
            reason = f"exit status {status}" if in_time else "signal: killed"
            raise Refused(f"{what} failed: {quote(output(caught))}: {reason}")
    finally:
        os.close(caught)


async def _kill(pid: int, exited: "asyncio.Future[Exit]") -> None:
    kill_tree(pid)
    await asyncio.wait([exited], timeout=_DEATH_LIMIT_S)
