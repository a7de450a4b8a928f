"""Objects that are never freed, so that it does not matter how often they are counted.

CPython counts the references to an object in the object itself: a process writes wherever it passes
by.  A fork that could forget such writes would have the pages again that it shared before.  It
cannot while the count decides: one that is too low frees what is in use.

So `make` raises all counts by `BIAS`, as if that many references were held for ever; to hold one
more is what any program may do.  No such count ever comes near to 0, at which an object is freed,
or to 1, at which it is taken for nobody else's and changed in place - however often a fork forgets
what was added or taken away: at most one for each reference there is at that moment, and memory has
no room for `BIAS` of them.

For CPython 3.11 only: other versions lay objects out in another way, which nobody has looked at.
"""

import ctypes
import gc
import sys
from array import array
from collections.abc import Iterable, Iterator
from types import CodeType
from typing import Final

__all__ = ["BIAS", "HEAP_TYPE", "IS_CPYTHON_3_11", "classes", "make"]

BIAS: Final = 1 << 40  # native/_memory.c relies on it
HEAP_TYPE: Final = 1 << 9  # of type.__flags__ (Py_TPFLAGS_HEAPTYPE)
IS_CPYTHON_3_11: Final = sys.implementation.name == "cpython" and sys.version_info[:2] == (3, 11)

_count_at: Final = ctypes.c_ssize_t.from_address


def make() -> "array[int]":
    """Make all objects that can be found immortal; the addresses of their counts, in no order.

    The list is empty, and nothing was done, where a count is not what it is expected to be.
    """
    addresses = array("Q")
    if _is_known():
        left = _raised([*gc.get_objects(), *classes()], addresses)
        while left:
            held = gc.get_referents(*left)
            held += [inner for each in left for inner in _hidden(each)]
            left = _raised(held, addresses)
    return addresses


def _raised(objects: Iterable[object], addresses: "array[int]") -> list[object]:
    """Raise the counts of those that are not immortal yet, and return them."""
    raised = []
    for each in objects:
        count = _count_at(id(each))
        if count.value < BIAS:
            count.value += BIAS
            addresses.append(id(each))
            raised.append(each)
    return raised


def _is_known() -> bool:
    """Tell whether an object begins with its count, and each reference adds one to it."""
    if (
        not IS_CPYTHON_3_11
        or hasattr(sys, "gettotalrefcount")
        or ctypes.sizeof(ctypes.c_ssize_t) != 8
    ):
        return False  # what counts totals is a debug build, and has more to count
    probe = object()
    alone = _count_at(id(probe)).value
    more = [probe] * 5
    return alone == 1 and _count_at(id(probe)).value == alone + len(more)


def classes() -> Iterator[type]:
    """Find all classes: the collector does not know those that are part of the program.

    One that has several bases is found several times.
    """
    left: list[type] = [object]
    while left:
        each = left.pop()
        yield each
        left += type.__subclasses__(each)


def _hidden(each: object) -> Iterable[object]:
    """List what an object holds without telling the collector."""
    if isinstance(each, CodeType):
        names = (each.co_names, each.co_filename, each.co_name, each.co_qualname)
        return (*names, each.co_consts, each.co_linetable, each.co_exceptiontable)
    if not isinstance(each, type):
        return ()
    if each.__flags__ & HEAP_TYPE:
        return (each.__name__, each.__qualname__)
    return (each.__dict__, each.__mro__, each.__bases__)
