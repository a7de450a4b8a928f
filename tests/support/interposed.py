"""The C part of page sharing, compiled with other code in the place of its system calls."""

import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

from shimv2.pagesharing import publish

needs_compiler: Final = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
_SOURCES: Final = Path(publish.__file__).parent
_INCLUDES: Final = "".join(
    f"#include <{name}>\n" for name in ("signal.h", "string.h", "sys/mman.h", "unistd.h")
)


def compiled(folder: Path, source: str, code: str) -> str:
    """Compile the library into a folder, with `code` at the beginning of one source; its path."""
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
