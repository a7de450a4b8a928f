"""Objects that are never freed, so that it does not matter how often they are counted.

CPython counts the references to an object in the object itself: a process writes wherever it passes
by.  A fork that could forget such writes would have the pages again that it shared before.  It
cannot while the count decides: one that is too low frees what is in use.

CPython 3.12 has a count that is not changed any more, by whoever passes by (PEP 683): `make` gives
it to all objects there are, and nothing is written.

In CPython 3.11 it raises all counts by `BIAS`, as if that many references were held for ever; to
hold one more is what any program may do.  No such count ever comes near to 0, at which an object is
freed, or to 1, at which it is taken for nobody else's and changed in place - however often a fork
forgets what was added or taken away: at most one for each reference there is at that moment, and
memory has no room for `BIAS` of them.

For CPython 3.11 to 3.13 only: nobody has looked at how other versions count.
"""

import ctypes
import gc
import sys
from array import array
from collections.abc import Iterable, Iterator
from types import CodeType
from typing import Final

__all__ = ["BIAS", "HAS_IMMORTALS", "HEAP_TYPE", "IS_CPYTHON_3_11", "classes", "make"]

BIAS: Final = 1 << 40  # _image.h relies on it
HEAP_TYPE: Final = 1 << 9  # of type.__flags__ (Py_TPFLAGS_HEAPTYPE)
_IS_CPYTHON: Final = sys.implementation.name == "cpython"
IS_CPYTHON_3_11: Final = _IS_CPYTHON and sys.version_info[:2] == (3, 11)
HAS_IMMORTALS: Final = _IS_CPYTHON and sys.version_info[:2] in ((3, 12), (3, 13))
_NOT_COUNTED: Final = 2**32 - 1  # by those, in the lower half of a count; 2**31 says it, too

_count_at: Final = ctypes.c_ssize_t.from_address
_half_at: Final = ctypes.c_uint32.from_address


def make() -> "array[int]":
    """Make all objects that can be found immortal; the addresses of counts that still change.

    Nothing is done where a count is not what it is expected to be.
    """
    addresses = array("Q")
    if _is_known():
        is_new = _is_raised if IS_CPYTHON_3_11 else _is_taken_out
        left: list[object] = [*gc.get_objects(), *classes()]
        new = [each for each in left if is_new(each)]
        while left:
            if IS_CPYTHON_3_11:
                addresses.extend(map(id, new))
            held = gc.get_referents(*left)
            held += [inner for each in left for inner in _hidden(each)]
            left = new = [each for each in held if is_new(each)]
    return addresses


def _is_raised(each: object) -> bool:
    """Raise the count of an object unless it has been; whether it was."""
    count = _count_at(id(each))
    if count.value >= BIAS:
        return False
    count.value += BIAS
    return True


def _is_taken_out(each: object) -> bool:
    """Have an object not counted any more; whether it was before."""
    count = _half_at(id(each))
    if count.value > _NOT_COUNTED // 2:
        return False
    count.value = _NOT_COUNTED
    return True


def _is_known() -> bool:
    """Tell whether an object begins with its count, and each reference adds one to it - or none."""
    if (
        not (IS_CPYTHON_3_11 or HAS_IMMORTALS)
        or hasattr(sys, "gettotalrefcount")
        or ctypes.sizeof(ctypes.c_ssize_t) != 8
    ):
        return False  # what counts totals is a debug build, and has more to count
    probe = object()
    alone = _count_at(id(probe)).value
    more = [probe] * 5
    if alone != 1 or _count_at(id(probe)).value != alone + len(more):
        return False
    if HAS_IMMORTALS:
        _is_taken_out(probe)
        more += [probe] * 5
        return _half_at(id(probe)).value == _NOT_COUNTED
    return True


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
