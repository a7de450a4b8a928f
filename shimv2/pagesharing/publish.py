"""Publishing: a zygote moves its memory into an image that its forks share (_publish.c).

A fork copies a page when it writes to it.  After `prepare` and `settle` a fork writes less:

* Values that CPython computes at first use exist already.
* Objects are immortal.
* New memory from malloc does not lie on shared pages.
"""

import ctypes
import gc
import mmap
import os
from array import array
from dataclasses import dataclass, field
from types import FunctionType
from typing import Final

from shimv2.pagesharing import bytecode, library, refcounts, support
from shimv2.values.sharing import UNSHARED

__all__ = [
    "CannotShare",
    "Meaningless",
    "has_one_thread",
    "is_published",
    "note_unshared",
    "prepare",
    "publish",
    "published_library",
    "settle",
]

_M_ARENA_MAX: Final = -8  # mallopt(3)
# A warmed-up zygote has some 30 MB.  More is a sign of a fault, and would use up a node's memory.
_MAX_IMAGE_BYTES: Final = 128 << 20

_MAX_NAME: Final = 249  # memfd_create(2)
_published: Final[list[ctypes.PyDLL]] = []


class CannotShare(Exception):
    """Memory is not shared; the text is the reason.  Shims work as they do without sharing."""


@dataclass(frozen=True)
class Meaningless:
    """The words in memory without meaning: a reclaim ignores differences in them (ADR 4)."""

    counts: "array[int]" = field(default_factory=lambda: array("Q"))
    """Addresses of the reference counts of immortal objects, and of counters of executions."""

    bytecode: "array[int]" = field(default_factory=lambda: array("Q"))
    """Pairs of a start and an end address, see bytecode.py."""


def prepare() -> None:
    """Do now what CPython and the C library do at first use.  Call it after all imports."""
    ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)  # else the mount thread gets its own arena
    for each in gc.get_objects():
        if isinstance(each, type):
            getattr(each, "no such attribute", None)  # assigns tp_version_tag


def settle() -> Meaningless:
    """Prepare the heap for sharing.  Call it when all objects exist that forks will use.

    Raises:
        CannotShare: this interpreter or machine is not supported.
    """
    reason = support.why_not(support.Build.current())
    compiled = library.load()
    if compiled is None:
        reason = reason or "the C part was not built"
    if not refcounts.is_layout_known():
        reason = reason or "reference counts are not where they are expected"
    if reason or compiled is None:
        raise CannotShare(reason)
    gc.collect()
    functions = [each for each in gc.get_objects() if isinstance(each, FunctionType)]
    ranges, warmups = bytecode.find(functions), bytecode.find_warmups(functions)
    del functions
    counts = refcounts.make_immortal()
    counts.extend(warmups)
    gc.freeze()  # else a collection in a fork writes to shared objects
    gc.collect()  # empties the free lists, whose objects lie on shared pages
    compiled.pyrunc_fill_1()
    return Meaningless(counts, ranges)


def publish(meaningless: Meaningless | None = None) -> None:
    """Move this process's memory into an image.  Call it last: the image has no later changes.

    Raises:
        CannotShare: there are several threads, too much memory, or the kernel refuses.
    """
    found = meaningless or Meaningless()
    compiled = library.load()
    if compiled is None:
        raise CannotShare("the C part was not built")
    if not has_one_thread():
        raise CannotShare("there is more than one thread")
    _published.append(compiled)  # before the call, so that the image has it, too
    failure: bytes | None = compiled.pyrunc_publish_4(
        *found.counts.buffer_info(), *found.bytecode.buffer_info(), _MAX_IMAGE_BYTES
    )
    if failure is not None:
        _published.clear()
        raise CannotShare(failure.decode())


def is_published() -> bool:
    return bool(_published)


def published_library() -> ctypes.PyDLL | None:
    """Return the C part if this process, or the zygote it was forked from, has published."""
    return _published[0] if _published else None


def note_unshared(reason: str) -> None:
    """Put the reason into the memory map of this process and its forks (values/sharing.py)."""
    name = (UNSHARED + reason)[:_MAX_NAME].encode("ascii", "replace")
    fd = os.memfd_create(name.decode(), os.MFD_CLOEXEC)
    try:
        c = ctypes.CDLL(None)  # mmap.mmap() keeps a descriptor open
        size, flags = ctypes.c_size_t(mmap.PAGESIZE), mmap.MAP_PRIVATE
        c.mmap(None, size, mmap.PROT_READ, flags, fd, ctypes.c_long(0))
    finally:
        os.close(fd)


def has_one_thread() -> bool:
    return len(os.listdir("/proc/self/task")) == 1
