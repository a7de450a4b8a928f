"""What a zygote and its forks do so that a shim has little memory of its own.

CPython writes to every object it passes by: reference counts, and in 3.11 the code itself, which is
rewritten as it runs.  Each write makes a fork copy a page.  Four things help: `prepare` and
`settle` keep the interpreter from rewriting code and from placing new objects between old ones, and
take the meaning from the reference counts (immortal.py); `publish` lays what is there into a file;
and `reclaim`, in a fork, gives up the copies that say what it says, counts without meaning aside
(native/_memory.c).  A shim does so when it has come to rest: `Reclaimer`.

Without the library, where there was no compiler, `publish` and `reclaim` do nothing.
"""

import asyncio
import ctypes
import gc
import os
import re
import sys
from array import array
from types import CodeType, FunctionType
from typing import Final

from shimv2 import immortal

__all__ = ["Reclaimer", "is_published", "prepare", "publish", "reclaim", "settle"]

_LIBRARY: Final = os.path.join(os.path.dirname(os.path.abspath(__file__)), "_bin", "libmemory.so")
_M_ARENA_MAX: Final = -8  # mallopt(3)

_WORTH_TURNS: Final = 8  # callbacks of the loop: a few questions, or the smallest verb
_REST_S: Final = 0.5


def prepare() -> None:
    """Take the interpreter's own notes early: with everything imported, before it is used."""
    ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)  # the mounts' thread would get an arena of its own
    objects = gc.get_objects()
    _number_types(objects)
    _keep_code(objects)


def settle() -> "array[int]":
    """Bring the heap into a state that forks can share: with all in it that they will use.

    Returns where in memory the counts are that have no meaning any more: for `publish`.
    """
    gc.collect()
    counts = immortal.make()
    gc.freeze()  # the collector does not write to what is shared, nor finds it
    _fill_holes()
    return counts


# --- published memory ----------------------------------------------------------------------------

_published: Final[list[ctypes.PyDLL]] = []


def publish(counts: "array[int]") -> bool:
    """Lay our memory into a file that forks give copies up to; whether it was done.

    Only in a process without threads, and last: what changes afterwards is not in the file.
    """
    try:
        library = ctypes.PyDLL(_LIBRARY)
    except OSError:
        return False
    library.pyrunc_reclaim_1.restype = ctypes.c_long
    _published.append(library)
    at, number = counts.buffer_info()
    if library.pyrunc_publish_2(ctypes.c_void_p(at), ctypes.c_long(number)) < 0:
        _published.clear()
    return bool(_published)


def is_published() -> bool:
    return bool(_published)


def reclaim() -> int:
    """Give up all copies of pages that are what they were; how many pages.

    Nothing is done while there is another thread, which might write to one at that moment.
    """
    if not _published or len(os.listdir("/proc/self/task")) > 1:
        return 0
    return max(0, int(_published[0].pyrunc_reclaim_1()))


class Reclaimer:
    """Reclaims once a shim has come to rest: some time after work, and not again until more."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._turns = _WORTH_TURNS  # the start itself was worth it
        self._later: asyncio.TimerHandle | None = None

    def before_sleep(self, turns: int) -> None:
        """Tell that `turns` callbacks have run since the last time and nothing is left to do."""
        self._turns += turns
        if self._turns >= _WORTH_TURNS and self._later is None:
            self._later = self._loop.call_later(_REST_S, self._reclaim)

    def _reclaim(self) -> None:
        self._later = None
        self._turns = 0
        reclaim()


# --- the interpreter's writes --------------------------------------------------------------------

# Of PyCodeObject in CPython 3.11: flags, the count of runs until the code is rewritten (0 = never),
# and, to see that this is so, the count of arguments and the first line.
_FLAGS, _WARMUP, _ARGUMENTS, _FIRST_LINE = 48, 52, 56, 72


def _number_types(objects: list[object]) -> None:
    """Have every class numbered for the cache of look-ups, which happens at the first of them."""
    for each in objects:
        if isinstance(each, type):
            getattr(each, "no such attribute", None)


def _keep_code(objects: list[object]) -> None:
    """Let code that was not yet rewritten for speed stay so: each fork would rewrite its own.

    Other versions of the interpreter than 3.11 have no such switch.
    """
    if sys.implementation.name != "cpython" or sys.version_info[:2] != (3, 11):
        return
    left = [each.__code__ for each in objects if isinstance(each, FunctionType)]
    seen: set[int] = set()
    while left:
        code = left.pop()
        if id(code) not in seen:
            seen.add(id(code))
            _keep(code)
            left += [each for each in code.co_consts if isinstance(each, CodeType)]


def _keep(code: CodeType) -> None:
    at = id(code)
    read = ctypes.c_int.from_address
    as_known = (code.co_flags, code.co_argcount, code.co_firstlineno)
    if tuple(read(at + field).value for field in (_FLAGS, _ARGUMENTS, _FIRST_LINE)) == as_known:
        ctypes.c_short.from_address(at + _WARMUP).value = 0


# --- holes ---------------------------------------------------------------------------------------

_fillers: Final[list[list[object]]] = []
_BYTES_HEAD: Final = sys.getsizeof(b"")
_OBJECT: Final = sys.getsizeof(object())
_ROW: Final = re.compile(r"^ *\d+ +(\d+) +\d+ +\d+ +(\d+)$", re.MULTILINE)


def _fill_holes() -> None:
    """Take all that is free between what is used, and keep it: a fork then gets pages of its own.

    What it allocates would otherwise go into these holes, and each costs the copy of a page that is
    full of what is shared.
    """
    for size, free in _free_blocks():
        _fillers.append([_block(size, number) for number in range(free)])


def _block(size: int, number: int) -> object:
    """Make an object of exactly that many bytes, all its own."""
    if size > _BYTES_HEAD:
        return bytes(size - _BYTES_HEAD)
    return object() if size == _OBJECT else complex(number)


def _free_blocks() -> list[tuple[int, int]]:
    """List the sizes of blocks the interpreter's allocator deals in, with how many are free."""
    report = os.memfd_create("report", os.MFD_CLOEXEC)
    stderr = os.dup(2)
    try:
        os.dup2(report, 2)
        sys._debugmallocstats()
        os.dup2(stderr, 2)
        text = os.pread(report, 1 << 20, 0).decode("ascii", "replace")
    finally:
        os.close(stderr)
        os.close(report)
    return [(int(size), int(free)) for size, free in _ROW.findall(text)]
