"""The C parts are built if there is a compiler; without one the build succeeds too."""

import ctypes
import os
import shutil
import struct
import sys
from pathlib import Path

import pytest

from shimv2.kernel.spawn import spawn
from tests.support.children import wait_for

PROJECT = Path(__file__).parents[2]


PRODUCTS = ["launcher", "libmemory.so", "libspawn.so", "libstate.so"]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree with only the files that the build needs."""
    shutil.copy(PROJECT / "setup.py", tmp_path)
    for source in PROJECT.glob("shimv2/*/*.[ch]"):
        target = tmp_path / source.relative_to(PROJECT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
    return tmp_path


def build(tree: Path, **env: str) -> str:
    """Run `setup.py build_native` and return its output."""
    with open(tree / "output", "w+", encoding="utf-8") as output:
        pid = spawn(
            [sys.executable, "setup.py", "-q", "build_native"],
            cwd=str(tree),
            env={**os.environ, **env},
            fds={1: output.fileno(), 2: output.fileno()},
        )
        status = wait_for(pid)
        output.seek(0)
        text = output.read()
    assert status == 0, text
    return text


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_native_parts_build_without_a_warning_and_load(tree: Path) -> None:
    """-Wall -Wextra print no warning; the function exists under its versioned name."""
    assert "warning" not in build(tree, CC="cc", CFLAGS="-Werror")

    library = ctypes.PyDLL(str(tree / "shimv2/_bin/libspawn.so"))
    assert hasattr(library, "pyrunc_spawn_1")
    assert sorted(os.listdir(tree / "shimv2/_bin")) == PRODUCTS
    assert not is_linked_at_its_start(tree / "shimv2/_bin/launcher")


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_launcher_is_linked_at_its_start_where_there_is_no_static_library(tree: Path) -> None:
    """As on a Fedora without glibc-static."""
    cc = tree / "cc-without-libc.a"
    cc.write_text('#!/bin/sh\nfor word; do [ "$word" != -static ] || exit 1; done\nexec cc "$@"\n')
    cc.chmod(0o755)
    assert "built without it" not in build(tree, CC=str(cc))
    assert sorted(os.listdir(tree / "shimv2/_bin")) == PRODUCTS
    assert is_linked_at_its_start(tree / "shimv2/_bin/launcher")


def is_linked_at_its_start(program: Path) -> bool:
    """Whether a program of 64 bits names an interpreter (elf(5), PT_INTERP): the dynamic linker."""
    data = program.read_bytes()
    (table,), (size, count) = (
        struct.unpack_from("=Q", data, 32),
        struct.unpack_from("=HH", data, 54),
    )
    kinds = [struct.unpack_from("=I", data, table + size * number)[0] for number in range(count)]
    return 3 in kinds


def test_build_without_a_compiler_warns_and_succeeds(tree: Path) -> None:
    """Then the shim makes its children with os.fork, which is only slower."""
    assert "no C compiler" in build(tree, CC="no-such-compiler")
    assert not (tree / "shimv2/_bin").exists()


def test_build_with_a_broken_compiler_warns_and_succeeds(tree: Path) -> None:
    """No partial file is left that the shim could load."""
    assert "does not compile" in build(tree, CC="false")
    assert os.listdir(tree / "shimv2/_bin") == []
