"""Checks whether memory can be shared with this interpreter, C library and machine."""

import os
import struct
import sys
from dataclasses import dataclass
from typing import Final

__all__ = ["Build", "why_not"]

_VERSIONS: Final = ((3, 11), (3, 12), (3, 13), (3, 14))


@dataclass(frozen=True, slots=True)
class Build:
    """The properties of an interpreter that decide how it lays out memory."""

    implementation: str  # sys.implementation.name
    version: tuple[int, int]
    is_free_threaded: bool  # PEP 703: an object has two reference counts
    counts_references: bool  # a debug build, which also counts all references
    traces_references: bool  # Py_TRACE_REFS: an object begins with two more pointers
    runs_jit: bool  # bytecode refers to the JIT's executors
    machine: str  # as uname(2) has it
    pointer_bits: int
    c_library: str  # name and version; "" if the C library does not report them

    @classmethod
    def current(cls) -> "Build":
        """Describe the interpreter that runs this code."""
        jit = getattr(sys, "_jit", None)  # since 3.14
        try:
            c_library = os.confstr("CS_GNU_LIBC_VERSION") or ""
        except (ValueError, OSError):  # musl
            c_library = ""
        return cls(
            implementation=sys.implementation.name,
            version=sys.version_info[:2],
            is_free_threaded="t" in sys.abiflags,
            counts_references=hasattr(sys, "gettotalrefcount"),
            traces_references=hasattr(sys, "getobjects"),
            runs_jit=jit is not None and jit.is_enabled(),
            machine=os.uname().machine,
            pointer_bits=8 * struct.calcsize("P"),
            c_library=c_library,
        )


def why_not(build: Build) -> str:
    """Return why memory cannot be shared with such an interpreter; empty if it can."""
    version = ".".join(map(str, build.version))
    reasons = {
        f"{build.implementation} is not CPython": build.implementation != "cpython",
        f"CPython {version} is not known": build.version not in _VERSIONS,
        "a free-threaded interpreter": build.is_free_threaded,
        "a debug build of the interpreter": build.counts_references,
        "an interpreter that traces references": build.traces_references,
        "the interpreter's JIT is enabled": build.runs_jit,
        f"the machine is no x86-64 but {build.machine}": build.machine != "x86_64",
        f"pointers have {build.pointer_bits} bits": build.pointer_bits != 64,
        "the C library is not glibc": not build.c_library.startswith("glibc"),
    }
    return next((reason for reason, applies in reasons.items() if applies), "")
