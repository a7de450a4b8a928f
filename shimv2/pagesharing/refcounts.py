"""Reference counts: makes all objects of a zygote immortal.

CPython keeps an object's reference count in the object (`ob_refcnt`), so that it writes to each
object that it uses.  These writes copy the page in a fork.  A reclaim undoes the copy, and the
write is lost.  That is unsafe while the count decides when CPython frees the object.

CPython 3.12 and later have immortal objects (PEP 683): CPython does not change their `ob_refcnt`.
`make_immortal` gives all objects the count of an immortal object.

CPython 3.11 has no immortal objects.  There `make_immortal` adds `BIAS` to each count, as if the
program held that many references for ever.  So a count stays far from 0 (CPython frees the object)
and from 1 (CPython may change the object in place).  A reclaim takes from a count at most one for
each reference that exists at that moment, and memory has no room for `BIAS` references.
"""

import ctypes
import gc
import sys
from array import array
from collections.abc import Iterable, Iterator
from types import CodeType
from typing import Final

__all__ = ["BIAS", "HAS_IMMORTALS", "IMMORTAL", "is_layout_known", "make_immortal"]

BIAS: Final = 1 << 40  # the same as in _image.h
HAS_IMMORTALS: Final = sys.version_info >= (3, 12)
_HAS_FLAGS: Final = sys.version_info >= (3, 14)
# The lower 32 bits of ob_refcnt; from 2**31 on the interpreter does not change them.  In 3.12 and
# 3.13 it is _Py_IMMORTAL_INITIAL_REFCNT.  In 3.14 (Include/refcount.h) that constant is 3 << 30,
# and Py_INCREF changes a count below it.  So the value here is higher: CPython may still subtract
# the references that its stack holds now.
IMMORTAL: Final = 7 << 29 if _HAS_FLAGS else 2**32 - 1
_IMMORTAL_FLAG: Final = 1 << 48  # 3.14: _Py_IMMORTAL_FLAGS in ob_flags, the upper 16 bits
_LOWEST_IMMORTAL: Final = 1 << 31
_HEAP_TYPE: Final = 1 << 9  # Py_TPFLAGS_HEAPTYPE

# An object begins with ob_refcnt (PyObject, Include/object.h).
_ob_refcnt: Final = ctypes.c_ssize_t.from_address
_ob_refcnt_low: Final = ctypes.c_uint32.from_address


def make_immortal() -> "array[int]":
    """Make all reachable objects immortal; return the addresses of counts that still change."""
    addresses = array("Q")
    is_new = _set_immortal if HAS_IMMORTALS else _raise_count
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
    """Check, with a new object, that it begins with its count and that immortality works."""
    probe = object()
    alone = _ob_refcnt(id(probe)).value
    more = [probe] * 5
    if alone != 1 or _ob_refcnt(id(probe)).value != alone + len(more):
        return False
    if not HAS_IMMORTALS:
        return True
    _set_immortal(probe)
    immortal = _ob_refcnt(id(probe)).value
    more += [probe] * 5
    more += [_returned(probe) for _ in range(5)]
    added = _ob_refcnt(id(probe)).value
    more.clear()
    return immortal == added == _ob_refcnt(id(probe)).value


def _returned(each: object) -> object:
    """Return the object: a call puts references to it on the stack of the interpreter."""
    return each


def _raise_count(each: object) -> bool:
    """Add BIAS to the count of an object, once; return whether this call did it."""
    count = _ob_refcnt(id(each))
    if count.value >= BIAS:
        return False
    count.value += BIAS
    return True


def _set_immortal(each: object) -> bool:
    """Make an object immortal, once; return whether this call did it."""
    count = _ob_refcnt_low(id(each))
    if count.value >= _LOWEST_IMMORTAL:
        return False
    count.value = IMMORTAL
    if _HAS_FLAGS:
        _ob_refcnt(id(each)).value |= _IMMORTAL_FLAG
    return True


def _classes() -> Iterator[type]:
    """Yield all classes: the collector does not track those that the interpreter's binary holds.

    A class with several bases comes several times.
    """
    left: list[type] = [object]
    while left:
        each = left.pop()
        yield each
        left += type.__subclasses__(each)


def _untracked(each: object) -> Iterable[object]:
    """List the objects that `each` holds and the collector does not see."""
    if isinstance(each, CodeType):
        names = (each.co_names, each.co_filename, each.co_name, each.co_qualname)
        return (*names, each.co_consts, each.co_linetable, each.co_exceptiontable)
    if not isinstance(each, type):
        return ()
    if each.__flags__ & _HEAP_TYPE:
        return (each.__name__, each.__qualname__)
    return (each.__dict__, each.__mro__, each.__bases__)
