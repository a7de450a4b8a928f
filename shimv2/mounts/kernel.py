"""Mounts made by mount(2) and its successors.  Blocking: runs in the thread of `mounts.thread`."""

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from shimv2.gocompat.gotext import os_error, quote, strerror
from shimv2.kernel import linux
from shimv2.mounts import idmap, overlay
from shimv2.mounts.loopdev import loop_device
from shimv2.mounts.options import Options
from shimv2.mounts.place import inside, name_inside
from shimv2.mounts.umount import unmount_one
from shimv2.values import paths
from shimv2.values.errors import Refused, ShimError
from shimv2.values.model import Mount

PREFIX: Final = "failed to mount rootfs component: "
_OWN_NAMESPACE_MAP: Final = ["0", "0", "4294967295"]  # uid_map of the initial user namespace
# Flags that a user namespace may not clear on a mount: statvfs(3)'s and mount(2)'s value of each.
_LOCKED: Final = (
    (os.ST_RDONLY, linux.MS_RDONLY), (os.ST_NODEV, linux.MS_NODEV),
    (os.ST_NOEXEC, linux.MS_NOEXEC), (os.ST_NOSUID, linux.MS_NOSUID),
    (os.ST_NOATIME, linux.MS_NOATIME), (os.ST_RELATIME, linux.MS_RELATIME),
    (os.ST_NODIRATIME, linux.MS_NODIRATIME),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Job:
    """One mount with its parsed options, and the user namespace that the main thread opened."""

    mount: Mount
    options: Options
    namespace_fd: int = -1  # holds the id mapping; -1 = no mapping


def as_mount_error(error: Exception) -> Exception:
    """Turn an error of one mount into the error that the caller of all mounts gets."""
    if isinstance(error, OSError):
        return Refused(f"{PREFIX}{os_error(error)}")
    if isinstance(error, ShimError):
        return type(error)(f"{PREFIX}{error}")
    return error


def mount_batch(jobs: Sequence[Job], target: str, made: list[str]) -> None:
    """Mount each job in order and append its mount point to `made`, also when a later one fails.

    Raises:
        Refused: with the Go shim's text.
    """
    for job in jobs:
        try:
            _mount_one(job, target, made)
        except (OSError, ShimError) as error:
            raise as_mount_error(error) from error


def _mount_one(job: Job, target: str, made: list[str]) -> None:
    mount, flags = job.mount, job.options.flags
    remount, bind = flags & linux.MS_REMOUNT, flags & linux.MS_BIND
    if remount and job.namespace_fd >= 0:
        raise Refused("cannot idmap what is mounted already")
    with contextlib.ExitStack() as stack:
        source, data = _source_and_data(job, target, stack)
        if bind and job.namespace_fd >= 0:
            _attach(source, target, job, made)
        elif data or not remount:
            path = _mount_at(source, target, mount, flags, data)
            if not remount:
                made.append(path)
            if job.namespace_fd >= 0 and mount.type != "overlay":
                _replace_by_mapped(path, job.namespace_fd)
        if bind and flags & linux.MS_RDONLY:
            # MS_BIND ignores all other flags (mount(2)); a remount sets them.
            with inside(target, mount.target) as (where, _):
                _remount(where, flags)


def _source_and_data(job: Job, target: str, stack: contextlib.ExitStack) -> tuple[str, str]:
    """Return the source and the data for mount(2); `stack` closes what the call needs open."""
    source, options, words = job.mount.source, job.options, job.options.data
    if options.loop:
        read_only = bool(options.flags & linux.MS_RDONLY)
        device = loop_device(source, read_only=read_only, direct_io=options.direct_io)
        source = stack.enter_context(device)
    if job.mount.type == "overlay":
        if job.namespace_fd >= 0:
            layers = idmap.mapped_layers(words, job.namespace_fd, paths.idmapped_layers(target))
            words = stack.enter_context(layers)
        words = stack.enter_context(overlay.short_enough(words))
    data = ",".join(words)
    if len(os.fsencode(data)) >= overlay.PAGE_BYTES:
        raise Refused("mount options is too long")
    return source, data


def _mount_at(source: str, target: str, mount: Mount, flags: int, data: str) -> str:
    """Call mount(2) once and return the real mount point; errors have the Go shim's text."""
    path = os.path.join(target, mount.target.lstrip("/")) if mount.target else target
    try:
        with inside(target, mount.target) as (where, path):
            linux.mount(source, where, mount.type, flags, data)
    except OSError as exc:
        raise Refused(
            f"mount source: {quote(source)}, target: {quote(path)}, fstype: {mount.type}, "
            f"flags: {flags}, data: {quote(data)}, err: {strerror(exc.errno or 0)}"
        ) from exc
    return path


def _attach(source: str, target: str, job: Job, made: list[str]) -> None:
    path = name_inside(target, job.mount.target)
    with inside(target, job.mount.target) as (where, _):
        recursive = bool(job.options.flags & linux.MS_REC)
        idmap.attach(source, where, job.namespace_fd, recursive=recursive)
    made.append(path)


def _replace_by_mapped(path: str, namespace_fd: int) -> None:
    """Replace a fresh mount by its idmapped clone."""
    with idmap.clone(path, namespace_fd) as tree:
        unmount_one(path)
        idmap.place(tree, path)


def _remount(where: str, flags: int) -> None:
    try:
        linux.mount("", where, "", flags | linux.MS_REMOUNT | _locked_flags(where), "")
    except OSError as exc:
        raise Refused(strerror(exc.errno or 0)) from exc  # the Go shim reports no more than that


def _locked_flags(path: str) -> int:
    """Return the flags a remount must repeat: in a user namespace they cannot be cleared."""
    with open("/proc/self/uid_map", encoding="ascii") as table:
        if table.read().split() == _OWN_NAMESPACE_MAP:
            return 0
    set_now = os.statvfs(path).f_flag
    return sum(flag for shown, flag in _LOCKED if set_now & shown)
