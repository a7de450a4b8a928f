"""Where a mount goes, and from which working directory its options are read."""

import contextlib
import os
from collections.abc import Iterator

from shimv2.gocompat.gotext import os_error
from shimv2.kernel import linux
from shimv2.values.errors import Refused


@contextlib.contextmanager
def inside(root: str, relative: str) -> Iterator[tuple[str, str]]:
    """A path for the kernel and its name, of `relative` looked up with `root` as its `/`.

    The rootfs is made of what strangers packed: a symlink in it must not lead a mount out of it.
    The first path goes through an fd that is closed afterwards: an open one keeps a mount busy, and
    does not see what is mounted over it later.
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
    """The name of what is looked up; nothing is held open."""
    with inside(root, relative) as (_, path):
        return path


@contextlib.contextmanager
def working_directory(path: str) -> Iterator[None]:
    """Of this thread alone: it does not share its own with the process any more."""
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
