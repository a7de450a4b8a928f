"""Finds mount points inside an untrusted root; sets the working directory of one thread."""

import contextlib
import os
from collections.abc import Iterator

from shimv2.gocompat.gotext import os_error
from shimv2.kernel import linux
from shimv2.values.errors import Refused


@contextlib.contextmanager
def inside(root: str, relative: str) -> Iterator[tuple[str, str]]:
    """Resolve `relative` with `root` as its `/`; yield a path for system calls, and the real path.

    The rootfs comes from an untrusted image: a symlink in it must not lead a mount outside
    (openat2(2), RESOLVE_IN_ROOT).  The first path is `/proc/self/fd/N`.  The fd is closed after the
    block, because an open fd keeps a mount busy and does not follow later mounts on the same path.
    """
    if not relative.strip("/"):
        yield root, root
        return
    root_fd = os.open(root, os.O_PATH | os.O_DIRECTORY)
    try:
        fd = linux.open_in_root(root_fd, relative, os.O_PATH)
    finally:
        os.close(root_fd)
    try:
        where = f"/proc/self/fd/{fd}"
        yield where, os.readlink(where)
    finally:
        os.close(fd)


def name_inside(root: str, relative: str) -> str:
    """Resolve `relative` with `root` as its `/` and return the real path; no fd stays open."""
    with inside(root, relative) as (_, path):
        return path


@contextlib.contextmanager
def working_directory(path: str) -> Iterator[None]:
    """Change the working directory of this thread, which must have called unshare(CLONE_FS)."""
    before_fd = os.open(".", os.O_PATH | os.O_DIRECTORY)
    try:
        try:
            os.chdir(path)
        except OSError as exc:
            raise Refused(os_error(exc, op="chdir")) from exc
        yield
    finally:
        os.fchdir(before_fd)
        os.close(before_fd)
