"""The launcher with another C library than glibc."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from shimv2.shimctl.testbed import zygotes
from tests.support.boot import Boot
from tests.support.warm import booted, started, warmed

_ZYGOTE: Final = Path(__file__).parents[2] / "shimv2" / "zygote"
_LAUNCHER: Final = ("launcher.c", "description.c", "text.c")
_LIBRARY: Final = ("_state.c", "description.c", "text.c")
_FLAGS: Final = ("-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror")
_COMPILERS: Final = ("cc", "musl-gcc")


@pytest.fixture
def boot() -> Iterator[Boot]:
    with booted() as made:
        yield made


def compiled(compiler: str, program: Path, sources: tuple[str, ...], *flags: str) -> None:
    if not shutil.which(compiler):
        pytest.skip(f"{compiler} is not installed")
    files = [str(_ZYGOTE / source) for source in sources]
    subprocess.run([compiler, *_FLAGS, *flags, *files, "-o", str(program)], check=True)


@pytest.mark.parametrize("compiler", _COMPILERS)
def test_library_compiles_without_warnings(tmp_path: Path, compiler: str) -> None:
    compiled(compiler, tmp_path / "libstate.so", _LIBRARY, "-shared", "-fPIC")


@pytest.mark.parametrize("compiler", _COMPILERS)
def test_launcher_compiles_without_warnings_and_finds_its_zygote(boot: Boot, compiler: str) -> None:
    """The interpreter's part, with this machine's C library, writes the same key and state."""
    program = boot.folder / "launcher"
    compiled(compiler, program, _LAUNCHER, "-static")
    program.replace(boot.shim)
    warmed(boot)
    waiting = zygotes.spare(boot.shim)

    assert started(boot, "c1") == waiting
