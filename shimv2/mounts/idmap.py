"""Idmapped mounts: a file's owner on disk appears in the container as another user id.

The kernel takes the mapping from a user namespace, which is made for each mount.  It maps only a
detached mount (mount_setattr(2)), so the original is cloned, mapped, and then attached.
"""

import contextlib
import errno
import os
import signal
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Final

from shimv2.aio.readiness import readable
from shimv2.gocompat.gotext import quote, strerror
from shimv2.kernel import linux
from shimv2.kernel.reaper import Reaper
from shimv2.kernel.spawn import hold_user_namespace
from shimv2.mounts.options import Options
from shimv2.mounts.overlay import with_layers
from shimv2.mounts.umount import unmount_fully
from shimv2.values.errors import Refused

_LARGEST_ID: Final = 2**32 - 2  # the kernel's (uid_t)-1 means "no id"


def parse_map(name: str, text: str) -> str:
    """Turn `inside:outside:count[,...]` into lines for `/proc/PID/uid_map` or `gid_map`.

    Raises:
        Refused: the text has another form.
    """
    lines = []
    for part in text.split(","):
        numbers = part.split(":")
        if len(numbers) != 3 or not all(n.isascii() and n.isdecimal() for n in numbers):
            raise _bad_map(name, text)
        inside, outside, count = map(int, numbers)
        if not count or max(inside, outside) + count - 1 > _LARGEST_ID:
            raise _bad_map(name, text)
        lines.append(f"{inside} {outside} {count}\n")
    return "".join(lines)


def _bad_map(name: str, text: str) -> Refused:
    return Refused(f"mount option {name}={quote(text)}: expected CONTAINER:HOST:SIZE[,...]")


async def user_namespace(options: Options, reaper: Reaper) -> int:
    """Open a user namespace with the mapping of the options.  The caller closes the fd.

    Raises:
        Refused: the mapping has a wrong form, or the kernel refuses it.
    """
    maps = {
        "uid_map": parse_map("uidmap", options.uid_map),
        "gid_map": parse_map("gidmap", options.gid_map),
    }
    try:
        async with _holder(reaper) as pid:
            for name, lines in maps.items():
                _write(f"/proc/{pid}/{name}", lines)
            return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY)
    except OSError as exc:
        text = f"cannot make a user namespace for uidmap={options.uid_map}"
        raise Refused(f"{text},gidmap={options.gid_map}: {strerror(exc.errno or 0)}") from exc


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


@contextlib.asynccontextmanager
async def _holder(reaper: Reaper) -> AsyncIterator[int]:
    """Yield the pid of a process in a new user namespace; it is dead after the block."""
    with reaper.launching():
        pid, report_fd = hold_user_namespace()
        exited = reaper.claim(pid)
    try:
        try:
            await readable(report_fd)
            number = int.from_bytes(os.read(report_fd, 1) or bytes([errno.ESRCH]), "big")
        finally:
            os.close(report_fd)
        if number:
            raise OSError(number, os.strerror(number))
        yield pid
    finally:
        if not exited.done():
            os.kill(pid, signal.SIGKILL)
        await exited


def attach(source: str, target: str, namespace_fd: int, *, recursive: bool = False) -> None:
    """Attach an idmapped clone of the mount at `source` to `target`.

    Raises:
        Refused: the kernel, or the filesystem, cannot do that.
    """
    with clone(source, namespace_fd, recursive=recursive) as tree:
        place(tree, target)


@contextlib.contextmanager
def clone(
    source: str, namespace_fd: int, *, recursive: bool = False, read_only: bool = False
) -> Iterator[int]:
    """Yield an fd of a detached, idmapped clone of the mount at `source`."""
    try:
        tree = linux.open_tree(source, recursive=recursive)
    except OSError as exc:
        raise _refused(source, "open_tree", exc) from exc
    try:
        try:
            linux.set_idmap(tree, namespace_fd, recursive=recursive, read_only=read_only)
        except OSError as exc:
            raise _refused(source, "mount_setattr", exc) from exc
        yield tree
    finally:
        os.close(tree)


def place(tree: int, target: str) -> None:
    """Attach the detached mount `tree` to `target`."""
    try:
        linux.move_mount(tree, target)
    except OSError as exc:
        raise _refused(target, "move_mount", exc) from exc


def _refused(path: str, call: str, exc: OSError) -> Refused:
    return Refused(f"cannot idmap {path}: {call}: {strerror(exc.errno or 0)}")


@contextlib.contextmanager
def mapped_layers(
    words: Sequence[str], namespace_fd: int, folder: str
) -> Iterator[tuple[str, ...]]:
    """Mount an overlay's lower layers idmapped below `folder`; yield the overlay's new options.

    The kernel cannot idmap an overlay itself.  The overlay clones its layers when it is mounted, so
    the mounts below `folder` are needed only until then.  They are read-only: a process that
    removes `folder` recursively must not remove the layers' contents.
    """
    count = 0
    with contextlib.ExitStack() as undo:
        os.mkdir(folder, 0o700)
        undo.callback(os.rmdir, folder)

        def mapped(layer: str) -> str:
            nonlocal count
            point = f"{folder}/{count}"
            count += 1
            os.mkdir(point, 0o700)
            undo.callback(os.rmdir, point)
            with clone(layer, namespace_fd, read_only=True) as tree:
                place(tree, point)
            undo.callback(unmount_fully, point)
            return escaped(point)

        yield with_layers(words, mapped)


def escaped(path: str) -> str:
    """Escape a layer's path for overlay's option `lowerdir`."""
    return path.replace("\\", "\\\\").replace(":", "\\:").replace(",", "\\,")
