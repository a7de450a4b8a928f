"""What a zygote and its forks do so that a shim has little memory of its own.

CPython writes to every object it passes by: reference counts, and in 3.11 the code itself, which is
rewritten as it runs.  Each write makes a fork copy a page.  Some things help: `prepare` and
`settle` have code rewritten before the fork and not after (specialized.py), keep the interpreter
from placing new objects between old ones, and take the meaning from the reference counts
(immortal.py); `publish` lays what is there into a file; and `reclaim`, in a fork, gives up the
copies that say what it says, counts without meaning aside (_reclaim.c).  A shim does so when
it has come to rest: `Reclaimer`.  What it has touched by then others do better to touch before it
is needed: `touch_ahead` (_prefault.c).

Without the library, where there was no compiler, `publish` and `reclaim` do nothing.
"""

import asyncio
import ctypes
import gc
import os
from array import array
from collections.abc import Callable
from typing import Final

from shimv2 import COMPILED_DIR
from shimv2.pagesharing import immortal, specialized

__all__ = [
    "Reclaimer",
    "is_published",
    "prepare",
    "publish",
    "reclaim",
    "say_touched",
    "settle",
    "tell_touched",
    "touch_ahead",
]

_LIBRARY: Final = os.path.join(COMPILED_DIR, "libmemory.so")
_M_ARENA_MAX: Final = -8  # mallopt(3)

_WORTH_TURNS: Final = 8  # callbacks of the loop: a few questions, or the smallest verb
_REST_S: Final = 0.5
_MOST_WAITS: Final = 5  # for that rest
# What an exec has to copy again, 4 MB, takes some 8 ms of CPU time; a node has a few GB for a CPU.
_PAYS_AFTER_S: Final = 16.0
_MOST_STEPS: Final = 3  # in which that rest becomes as long


def prepare() -> None:
    """Take the interpreter's own notes early: with everything imported, before it is used."""
    ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)  # the mounts' thread would get an arena of its own
    objects = gc.get_objects()
    _number_types(objects)
    specialized.hasten(objects)


def settle() -> "array[int]":
    """Bring the heap into a state that forks can share: with all in it that they will use.

    Returns where in memory the counts are that have no meaning any more: for `publish`.
    """
    gc.collect()
    specialized.keep(gc.get_objects())
    _close_tables()
    counts = immortal.make()
    gc.freeze()  # the collector does not write to what is shared, nor finds it
    gc.collect()  # empties lists of objects to be used again, which lie anywhere
    library = _library()
    if library is not None:
        library.pyrunc_fill_1()
    return counts


# --- published memory ----------------------------------------------------------------------------

# A warmed-up shim has some 30 MB; more would be the node's memory for something unexpected.
_MAX_IMAGE_BYTES: Final = 128 << 20

_published: Final[list[ctypes.PyDLL]] = []


def _library() -> ctypes.PyDLL | None:
    """Load it; None where there is none, or one of another version."""
    try:
        library = ctypes.PyDLL(_LIBRARY)
        library.pyrunc_reclaim_2.restype = ctypes.c_long
        library.pyrunc_fill_1.restype = None
        library.pyrunc_publish_3.argtypes = [ctypes.c_void_p, ctypes.c_long, ctypes.c_uint64]
        library.pyrunc_publish_3.restype = ctypes.c_char_p
        library.pyrunc_used_pages_1.argtypes = [ctypes.c_void_p, ctypes.c_long]
        library.pyrunc_used_pages_1.restype = ctypes.c_long
        library.pyrunc_prefault_1.argtypes = [ctypes.c_void_p, ctypes.c_long]
        library.pyrunc_prefault_1.restype = None
    except (OSError, AttributeError):
        return None
    return library


def publish(counts: "array[int]") -> bool:
    """Lay our memory into a file that forks give copies up to; whether it was done.

    Only in a process with one thread, and last: what changes afterwards is not in the file.
    """
    library = _library()
    if library is None or not _has_one_thread():
        return False
    _published.append(library)
    if library.pyrunc_publish_3(*counts.buffer_info(), _MAX_IMAGE_BYTES) is not None:
        _published.clear()
    return bool(_published)


def _has_one_thread() -> bool:
    return len(os.listdir("/proc/self/task")) == 1


def is_published() -> bool:
    return bool(_published)


def reclaim() -> int:
    """Give up all copies of pages that are what they were; how many pages.

    Nothing is done while there is another thread, which might write to one at that moment.
    """
    if not _published or not _has_one_thread():
        return 0
    return max(0, int(_published[0].pyrunc_reclaim_2()))


_MOST_RUNS: Final = 4096  # of pages, of which a shim tells that it has touched them

_tell: Final[list[Callable[[bytes], object]]] = []


def tell_touched(tell: Callable[[bytes], object]) -> None:
    """Have a fork say once, at its first rest or its end, what it has touched."""
    _tell.append(tell)


def say_touched() -> None:
    """Say it now, if somebody wants to know and has not been told."""
    if _tell and _published:
        _tell.pop()(_touched())


def touch_ahead(runs: bytes) -> None:
    """Touch the pages that another fork has touched in its time, while there is nothing else to do.

    To be told of each page by an interrupt takes longer than to copy it.
    """
    if _published:
        numbers = array("Q", runs)
        _published[0].pyrunc_prefault_1(*numbers.buffer_info())


def _touched() -> bytes:
    runs = array("Q", bytes(2 * _MOST_RUNS * 8))
    at, most = runs.buffer_info()
    return runs[: _published[0].pyrunc_used_pages_1(at, most)].tobytes()


class Reclaimer:
    """Reclaims once a shim has come to rest: some time after work, and not again until more.

    One that does not come to rest does so all the same, a few times as late.  One that is woken
    before what was given up has paid for being copied anew - by a probe, by somebody who asks for
    figures - rests longer and longer, until it is left alone; once is no habit, though.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._turns = _WORTH_TURNS  # the start itself was worth it
        self._later: asyncio.TimerHandle | None = None
        self._gave_up_at: float | None = None  # loop time, until there is work again
        self._too_soon = 0  # how often in a row

    def before_sleep(self, turns: int) -> None:
        """Tell that `turns` callbacks have run since the last time and nothing is left to do."""
        self._turns += turns
        if self._turns > 0 and self._gave_up_at is not None:
            self._learn(self._loop.time() - self._gave_up_at)
        if self._turns >= _WORTH_TURNS and self._later is None:
            self._wait(self._turns, _MOST_WAITS - 1)

    def at_exit(self) -> None:
        say_touched()  # this shim was too short-lived to come to rest

    def _learn(self, given_up_s: float) -> None:
        self._gave_up_at = None
        self._too_soon = self._too_soon + 1 if given_up_s < _PAYS_AFTER_S else 0

    def _rest_s(self) -> float:
        habit = min(max(0, self._too_soon - 1), _MOST_STEPS)
        return min(_REST_S * 4.0**habit, _PAYS_AFTER_S)

    def _wait(self, turns: int, more: int) -> None:
        self._later = self._loop.call_later(self._rest_s(), self._look, turns, more)

    def _look(self, turns: int, more: int) -> None:
        """Reclaim if there were `turns` and no more; else wait again, up to `more` times."""
        if self._turns > turns and more:
            self._wait(self._turns + 1, more - 1)  # and so will this one
            return
        self._later = None
        self._turns = -1  # this very turn will be told of
        say_touched()
        reclaim()
        self._gave_up_at = self._loop.time()


# --- the interpreter's writes --------------------------------------------------------------------


def _number_types(objects: list[object]) -> None:
    """Have every class numbered for the cache of look-ups, which happens at the first of them."""
    for each in objects:
        if isinstance(each, type):
            getattr(each, "no such attribute", None)


# Of PyHeapTypeObject in CPython 3.11: the table of its objects' attributes, which is there if a
# flag says so (Py_TPFLAGS_MANAGED_DICT); of the table: how many more names it has room for.
_MANAGED_DICT, _TABLE, _ROOM = 1 << 4, 872, 16


def _close_tables() -> None:
    """Have making an object change nothing about its class.

    Each takes one place from the room for names in the class's table, until one place is left.
    Names that come later are no longer shared by all objects of the class, which costs each of them
    a dictionary.
    """
    if immortal.IS_CPYTHON_3_11 and _is_table_known():
        for each in immortal.classes():
            room = _room(each)
            if room is not None:
                room.value = min(room.value, 1)


def _room(of: type) -> ctypes.c_ssize_t | None:
    """Find how many more names a class has room for; None if it has no table."""
    if not of.__flags__ & immortal.HEAP_TYPE or not of.__flags__ & _MANAGED_DICT:
        return None
    table = ctypes.c_void_p.from_address(id(of) + _TABLE).value
    return None if table is None else ctypes.c_ssize_t.from_address(table + _ROOM)


def _is_table_known() -> bool:
    """Try with a class of our own whether the table is where it is expected."""

    class Probe:
        pass

    room = _room(Probe)
    if room is None:
        return False
    before = room.value
    Probe()
    return 1 < before < 100 and room.value == before - 1
