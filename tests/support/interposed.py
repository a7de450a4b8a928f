"""The C parts, compiled with other code in the place of their system calls."""

import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

from shimv2.pagesharing import publish
from shimv2.zygote import supervisor

needs_compiler: Final = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
_SOURCES: Final = Path(publish.__file__).parent
_LAUNCHER: Final = ("launcher.c", "description.c", "text.c")
_HEADERS: Final = ("errno.h", "signal.h", "string.h", "sys/mman.h", "unistd.h")
_INCLUDES: Final = "".join(f"#include <{name}>\n" for name in _HEADERS)


def compile_launcher(program: Path, code: str) -> None:
    """Compile the launcher, with `code` at the beginning of its sources, and replace `program`."""
    header = program.with_name("interposed.h")
    header.write_text(f"#define _GNU_SOURCE\n{_INCLUDES}{code}\n", encoding="ascii")
    sources = [str(Path(supervisor.__file__).with_name(name)) for name in _LAUNCHER]
    new = program.with_name(f"{program.name}.new")
    command = ["cc", "-std=gnu11", "-O1", "-w", "-include", str(header), *sources, "-o", str(new)]
    subprocess.run(command, check=True)
    new.replace(program)


def compiled(folder: Path, source: str, code: str) -> str:
    """Compile the library with `code` at the beginning of one source; return its path."""
    header = folder / "interposed.h"
    header.write_text(f"#define _GNU_SOURCE\n{_INCLUDES}{code}\n", encoding="ascii")
    objects = []
    for path in sorted(_SOURCES.glob("*.c")):
        objects.append(str(folder / f"{path.stem}.o"))
        extra = ["-include", str(header)] if path.name == source else []
        command = ["cc", "-std=gnu11", "-O1", "-w", "-fPIC", "-fvisibility=hidden", *extra]
        subprocess.run([*command, "-c", str(path), "-o", objects[-1]], check=True)
    library = str(folder / "libmemory.so")
    subprocess.run(["cc", "-shared", *objects, "-o", library], check=True)
    return library
