"""Packs this tree for the machines: a tar file with compiled modules and the command to run.

Modules are compiled here, by a Python of the same version.  Reason: the emulator is slow, and some
tests start the shim as a user that cannot write compiled files.  The tests are not compiled here,
because pytest compiles them in its own way.
"""

import io
import py_compile
import sys
import tarfile
import tempfile
from importlib.util import cache_from_source
from pathlib import Path
from typing import Final

from tests.vm.image import PYTHON, TREE

_PARTS: Final = (
    *("Makefile", "bench", "protos", "pyproject.toml", "shimv2", "tests", "tools", "ttrpc"),
)
_TARGET: Final = "work"


def pack(target: Path, command: str) -> None:
    """Write the tar file of /work and /command."""
    with tarfile.open(target, "w") as tar:
        for name in _PARTS:
            tar.add(TREE / name, f"{_TARGET}/{name}", filter=_kept)
        if f"{sys.version_info.major}.{sys.version_info.minor}" == PYTHON:
            _add_compiled(tar)
        script = tarfile.TarInfo("command")
        script.size = len(command.encode())
        tar.addfile(script, io.BytesIO(command.encode()))


def _kept(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    if Path(member.name).name == "__pycache__":
        return None  # compiled files have the paths of their sources on this machine
    return _roots(member)


def _roots(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0  # some tests check the owner of a program
    member.uname = member.gname = ""
    return member


def _add_compiled(tar: tarfile.TarFile) -> None:
    with tempfile.TemporaryDirectory(prefix="vm.") as folder:
        compiled = str(Path(folder, "module.pyc"))
        for path in (path for part in _PARTS for path in (TREE / part).rglob("*.py")):
            if path.name.startswith("test_") or path.name == "conftest.py":
                continue
            name = f"{_TARGET}/{path.relative_to(TREE)}"
            py_compile.compile(str(path), compiled, f"/{name}", doraise=True)
            member = tar.gettarinfo(compiled, cache_from_source(name))
            member.mode = 0o644  # a user's shim reads it
            with open(compiled, "rb") as file:
                tar.addfile(_roots(member), file)
