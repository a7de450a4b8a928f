"""Bytecode: what the interpreter notes in code while it runs may be forgotten.

The specializing interpreter (PEP 659) of CPython 3.11 and later writes into the bytecode that it
runs: counters, and instructions that it replaces by special forms, with what these need in their
inline caches.  An instruction is changed by its own execution and by nothing else.  So a fork in
which a page of bytecode is again what it was in the zygote is like one that has not yet run these
instructions, provided that each instruction goes back as a whole.  A special form is used only
after a check of what it relies on: the version numbers of types, dicts and functions, which are
never used twice.

So an instruction has to lie in one page, with its caches.  One that does not is left out.
"""

import ctypes
import dis
import mmap
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from types import CodeType, FunctionType
from typing import Final

__all__ = ["codes", "find"]

_WORD: Final = 8  # bytes; what is compared


def find(objects: Iterable[object]) -> "array[int]":
    """Find the bytecode of all functions among `objects`: pairs of a start and an end address.

    Each pair lies in one page and holds whole instructions; a word of which it has only a part does
    not count.
    """
    found = array("Q")
    for code in codes(objects):
        start = id(code) + CodeType.__basicsize__  # co_code_adaptive: the last field, of any length
        running: bytes = code._co_code_adaptive  # type: ignore[attr-defined]
        if ctypes.string_at(start, len(running)) == running:
            # Up to the end of the last word: what allocators give ends where a word does.
            end = start + -(-len(running) // _WORD) * _WORD
            for part in _parts(code, start, end):
                found.extend(part)
    return found


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
    """Split bytecode at the ends of pages, without the instructions that lie across them."""
    border = (start // mmap.PAGESIZE + 1) * mmap.PAGESIZE
    if border < end:
        # An instruction reaches to the next one: its caches come between the two.
        begins = [start + each.offset for each in dis.get_instructions(code)] + [end]
    while border < end:
        after = bisect_left(begins, border)  # the first that begins on the next page
        yield start, border if begins[after] == border else begins[after - 1]
        start = begins[after]
        border += mmap.PAGESIZE
    yield start, end
