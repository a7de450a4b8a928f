"""Code that the interpreter has rewritten for speed, and rewrites no more.

CPython 3.11 counts how often a function runs, then replaces its instructions by such as look, each
time they run, at what they meet: these *adapt*, that is, become special for it.  All of that is
written into the code, in each fork again.  `hasten` has it happen at once, `keep` ends it: what has
become special for one kind of thing stays so and is faster, all else is as it was compiled.  A
special instruction writes only when it meets another kind of thing than before.

For CPython 3.11 only: other versions have other instructions, which nobody has looked at.
"""

import ctypes
import dis
import opcode
from collections.abc import Iterable, Iterator
from types import CodeType, FunctionType
from typing import Final

from shimv2.pagesharing import immortal

__all__ = ["hasten", "keep"]

# Of PyCodeObject: flags, the count of runs until the code is rewritten (0 = never), and, to see
# that this is so, the count of arguments and the first line; then the code that is run.
_FLAGS, _WARMUP, _ARGUMENTS, _FIRST_LINE, _RUN = 48, 52, 56, 72, 184
_UNIT: Final = 2  # bytes: an instruction and its argument, or a word of its cache
_FRESH: Final = 53  # the first word of a cache whose instruction has met one kind of thing only
_CACHES: Final[list[int]] = getattr(opcode, "_inline_cache_entries", [])  # words, by instruction
_NUMBERS: Final[dict[str, int]] = getattr(dis, "_all_opmap", {})
_ADAPTING: Final = frozenset(
    number for name, number in _NUMBERS.items() if name.endswith("_ADAPTIVE")
)


def hasten(objects: Iterable[object]) -> None:
    """Have the code of functions rewritten when it runs next."""
    for code in _codes(objects):
        if not _is_rewritten(code):
            _warmup(code).value = -1


def keep(objects: Iterable[object]) -> None:
    """Have no code of functions rewritten from now on, but for what meets something new."""
    for code in _codes(objects):
        _warmup(code).value = 0
        if _is_rewritten(code):
            _end_adapting(code)


def _codes(objects: Iterable[object]) -> Iterator[CodeType]:
    """Find all code that lies where it is expected, each once; none with another interpreter."""
    if not immortal.IS_CPYTHON_3_11:
        return
    left = [each.__code__ for each in objects if isinstance(each, FunctionType)]
    seen: set[int] = set()
    while left:
        code = left.pop()
        if id(code) not in seen:
            seen.add(id(code))
            left += [each for each in code.co_consts if isinstance(each, CodeType)]
            if _is_known(code):
                yield code


def _is_known(code: CodeType) -> bool:
    read, run = ctypes.c_int.from_address, _run(code)
    as_known = (code.co_flags, code.co_argcount, code.co_firstlineno)
    found = tuple(read(id(code) + field).value for field in (_FLAGS, _ARGUMENTS, _FIRST_LINE))
    return found == as_known and ctypes.string_at(id(code) + _RUN, len(run)) == run


def _warmup(code: CodeType) -> ctypes.c_short:
    return ctypes.c_short.from_address(id(code) + _WARMUP)


def _run(code: CodeType) -> bytes:
    run: bytes = code._co_code_adaptive  # type: ignore[attr-defined]
    return run


def _is_rewritten(code: CodeType) -> bool:
    return _run(code) != code.co_code


def _end_adapting(code: CodeType) -> None:
    """Put the compiled instruction in the place of each that has not become special, or for more
    than one kind of thing."""
    run, compiled, at = _run(code), code.co_code, 0
    while at < len(run):
        caches = _CACHES[compiled[at]]
        if run[at] != compiled[at] and caches:
            counter = int.from_bytes(run[at + _UNIT : at + 2 * _UNIT], "little")
            if run[at] in _ADAPTING or counter != _FRESH:
                ctypes.c_ubyte.from_address(id(code) + _RUN + at).value = compiled[at]
        at += _UNIT * (1 + caches)
