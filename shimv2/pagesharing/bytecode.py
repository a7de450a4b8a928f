"""Bytecode: finds the words that a reclaim may set back to their state in the zygote.

The specializing interpreter (PEP 659) of CPython 3.11 and later writes into the bytecode that it
runs.  It counts executions, replaces instructions by specialized forms, and fills inline caches.
Only the execution of an instruction changes that instruction.  A reclaim gives a fork the
zygote's bytecode again.  After that the fork is in the same state as one that has not run these
instructions yet.

There are two conditions:

* An instruction is reset as a whole, with its caches.  So an instruction on two pages is left out.
* A specialized form checks what it relies on before it is used.  It compares version numbers of
  types, dicts and functions, and CPython never uses such a number twice.
"""

import ctypes
import dis
import mmap
import sys
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from types import CodeType, FunctionType
from typing import Final

__all__ = ["codes", "find", "find_warmups"]

# CPython 3.11, PyCodeObject: co_flags (32 bits), co_warmup (16 bits), and 16 bits more.  From 3.12
# on the counters of executions lie in the bytecode.
_FLAGS_OFFSET: Final = 48
_WARMUP_OFFSET: Final = 52

_WORD: Final = 8  # bytes; a reclaim compares words


def find(objects: Iterable[object]) -> "array[int]":
    """Find the bytecode of all functions among `objects`: pairs of a start and an end address.

    Each pair lies in one page and holds whole instructions.  If a pair covers only a part of a
    word, a reclaim does not ignore that word.
    """
    found = array("Q")
    for code in codes(objects):
        start = id(code) + CodeType.__basicsize__  # co_code_adaptive: the last field, of any length
        running: bytes = code._co_code_adaptive  # type: ignore[attr-defined]
        if ctypes.string_at(start, len(running)) == running:
            # Up to the end of the last word: an allocator's blocks end at the end of a word.
            end = start + -(-len(running) // _WORD) * _WORD
            for part in _parts(code, start, end):
                found.extend(part)
    return found


def find_warmups(objects: Iterable[object]) -> "array[int]":
    """Find the words with CPython 3.11's counters of executions (co_warmup) of all functions.

    The interpreter adds 1 at each call of a function until the counter is 0, and specializes the
    function then.  A fork that forgets some calls specializes it later; nothing else depends on the
    counter.  A reclaim ignores a difference if the counter is 0 in neither of the two.
    """
    if not _has_warmup():
        return array("Q")
    return array("Q", (id(code) + _FLAGS_OFFSET for code in codes(objects)))


def _has_warmup() -> bool:
    """Whether a call of a new function adds 1 to its counter, where it is expected to be."""

    def probe() -> None: ...

    at = id(probe.__code__)
    warmup = ctypes.c_int16.from_address(at + _WARMUP_OFFSET)
    before = warmup.value
    probe()
    flags = ctypes.c_int.from_address(at + _FLAGS_OFFSET).value
    is_3_11 = sys.version_info[:2] == (3, 11)
    return (
        is_3_11 and flags == probe.__code__.co_flags and before < 0 and warmup.value == before + 1
    )


def codes(objects: Iterable[object]) -> Iterator[CodeType]:
    """Find the code of all functions among `objects`, and the code inside it, each once."""
    left = [each.__code__ for each in objects if isinstance(each, FunctionType)]
    seen: set[int] = set()
    while left:
        code = left.pop()
        if id(code) not in seen:
            seen.add(id(code))
            left += [each for each in code.co_consts if isinstance(each, CodeType)]
            yield code


def _parts(code: CodeType, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Split bytecode at page boundaries; leave out instructions that cross a boundary."""
    border = (start // mmap.PAGESIZE + 1) * mmap.PAGESIZE
    if border < end:
        # An instruction's caches follow it, so that it ends where the next one begins.
        begins = [start + each.offset for each in dis.get_instructions(code)] + [end]
    while border < end:
        after = bisect_left(begins, border)  # the first one on the next page
        yield start, border if begins[after] == border else begins[after - 1]
        start = begins[after]
        border += mmap.PAGESIZE
    yield start, end
