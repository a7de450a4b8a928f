"""Reference counts: all objects that a zygote has are made immortal.

CPython counts the references to an object in the object itself (`ob_refcnt`), so that it writes to
each object that it uses.  A fork could give up the pages that it copied for that, if it were safe
to forget such writes.  It is not, as long as the count decides when the object is freed.

CPython 3.12 and later have immortal objects (PEP 683): their `ob_refcnt` is not changed any more.
`make_immortal` gives that value to all objects, and looking at them writes nothing.

For CPython 3.11 it adds `BIAS` to all counts, as if that many references were held for ever, which
any program may do.  Then no count comes near to 0, at which an object is freed, or to 1, at which
it may be changed in place.  A fork that forgets writes to such a count loses at most one for each
reference that exists at that moment, and memory has no room for `BIAS` of them.
"""

import ctypes
import gc
import sys
from array import array
from collections.abc import Iterable, Iterator
from types import CodeType
from typing import Final

__all__ = ["BIAS", "HAS_IMMORTALS", "IMMORTAL", "is_layout_known", "make_immortal"]

BIAS: Final = 1 << 40  # _image.h has it, too
HAS_IMMORTALS: Final = sys.version_info >= (3, 12)
_HAS_FLAGS: Final = sys.version_info >= (3, 14)
# The lower 32 bits of ob_refcnt; the interpreter does not change them from 2**31 on.  3.12 and
# 3.13: _Py_IMMORTAL_INITIAL_REFCNT.  In 3.14 (Include/refcount.h) that is 3 << 30, and Py_INCREF
# adds to less.  It is more here: references that its stack holds now may still be subtracted.
IMMORTAL: Final = 7 << 29 if _HAS_FLAGS else 2**32 - 1
_IMMORTAL_FLAG: Final = 1 << 48  # 3.14: _Py_IMMORTAL_FLAGS in ob_flags, the upper 16 bits
_LOWEST_IMMORTAL: Final = 1 << 31
_HEAP_TYPE: Final = 1 << 9  # Py_TPFLAGS_HEAPTYPE

# An object begins with ob_refcnt (PyObject, Include/object.h).
_ob_refcnt: Final = ctypes.c_ssize_t.from_address
_ob_refcnt_low: Final = ctypes.c_uint32.from_address


def make_immortal() -> "array[int]":
    """Make all objects immortal that can be found; the addresses of counts that still change."""
    addresses = array("Q")
    is_new = _take_out if HAS_IMMORTALS else _raise_count
    left: list[object] = [*gc.get_objects(), *_classes()]
    new = [each for each in left if is_new(each)]
    while left:
        if not HAS_IMMORTALS:
            addresses.extend(map(id, new))
        held = gc.get_referents(*left)
        held += [inner for each in left for inner in _untracked(each)]
        left = new = [each for each in held if is_new(each)]
    return addresses


def is_layout_known() -> bool:
    """Try with an object of our own: does it begin with its count, and what changes that?"""
    probe = object()
    alone = _ob_refcnt(id(probe)).value
    more = [probe] * 5
    if alone != 1 or _ob_refcnt(id(probe)).value != alone + len(more):
        return False
    if not HAS_IMMORTALS:
        return True
    _take_out(probe)
    taken_out = _ob_refcnt(id(probe)).value
    more += [probe] * 5
    more += [_returned(probe) for _ in range(5)]
    added = _ob_refcnt(id(probe)).value
    more.clear()
    return taken_out == added == _ob_refcnt(id(probe)).value


def _returned(each: object) -> object:
    """Return an object: the interpreter's stack has references of its own."""
    return each


def _raise_count(each: object) -> bool:
    """Raise the count of an object unless it was raised before; whether it was done."""
    count = _ob_refcnt(id(each))
    if count.value >= BIAS:
        return False
    count.value += BIAS
    return True


def _take_out(each: object) -> bool:
    """Make an object immortal unless it was before; whether it was done."""
    count = _ob_refcnt_low(id(each))
    if count.value >= _LOWEST_IMMORTAL:
        return False
    count.value = IMMORTAL
    if _HAS_FLAGS:
        _ob_refcnt(id(each)).value |= _IMMORTAL_FLAG
    return True


def _classes() -> Iterator[type]:
    """Find all classes: those that are part of the program are not tracked by the collector.

    One that has several bases is found several times.
    """
    left: list[type] = [object]
    while left:
        each = left.pop()
        yield each
        left += type.__subclasses__(each)


def _untracked(each: object) -> Iterable[object]:
    """List what an object holds and does not show to the collector."""
    if isinstance(each, CodeType):
        names = (each.co_names, each.co_filename, each.co_name, each.co_qualname)
        return (*names, each.co_consts, each.co_linetable, each.co_exceptiontable)
    if not isinstance(each, type):
        return ()
    if each.__flags__ & _HEAP_TYPE:
        return (each.__name__, each.__qualname__)
    return (each.__dict__, each.__mro__, each.__bases__)
