"""Reads back, and restores, what the shim sets with prctl(2) and fcntl(2)."""

import contextlib
import ctypes
import fcntl
from collections.abc import Iterator
from typing import Final

from shimv2.kernel import linux

_PR_GET_PDEATHSIG: Final = 2
_PR_GET_DUMPABLE: Final = 3
_PR_GET_CHILD_SUBREAPER: Final = 37


def is_child_subreaper() -> bool:
    return bool(_prctl_int(_PR_GET_CHILD_SUBREAPER))


@contextlib.contextmanager
def as_subreaper() -> Iterator[None]:
    """Make this process a child subreaper in the block."""
    before = is_child_subreaper()
    linux.set_child_subreaper()
    try:
        yield
    finally:
        linux.set_child_subreaper(before)


def parent_death_signal() -> int:
    return _prctl_int(_PR_GET_PDEATHSIG)


def is_dumpable() -> bool:
    return linux.prctl(_PR_GET_DUMPABLE) == 1


def pipe_capacity_bytes(fd: int) -> int:
    return fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ)


def _prctl_int(option: int) -> int:
    out = ctypes.c_int()
    linux.prctl(option, ctypes.addressof(out))
    return out.value
