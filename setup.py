"""Builds the C parts.  The rest of the package's description is in pyproject.toml.

    python setup.py build_native     into shimv2/_bin of this tree, for development

If there is a C compiler (`$CC`, else `cc`), a wheel has them.  Without a compiler it has none, and
the shim does the same steps in Python, only slower.
"""

import os
import shlex
import shutil
import subprocess  # noqa: TID251 - the build, not the shim
import sys
from typing import Any, Final

from setuptools import Command, Distribution, setup
from setuptools.command.build_py import build_py

FLAGS: Final = ("-std=gnu11", "-O2", "-Wall", "-Wextra")
# The products, their sources and flags.
# Each tuple of flags is tried until one works.  A static program starts faster, because nothing is
# linked at its start; but some systems have no libc.a.
LIBRARY: Final = (("-shared", "-fPIC", "-fvisibility=hidden"),)
PROGRAM: Final = (("-static",), ())
PAGE_SHARING: Final = ("_publish.c", "_reclaim.c", "_prefault.c", "_maps.c", "_fill.c")
PRODUCTS: Final = (
    ("libspawn.so", "shimv2/kernel", ("_spawn.c",), LIBRARY),
    ("libmemory.so", "shimv2/pagesharing", PAGE_SHARING, LIBRARY),
    ("libstate.so", "shimv2/zygote", ("_state.c", "description.c", "text.c"), LIBRARY),
    ("launcher", "shimv2/zygote", ("launcher.c", "description.c", "text.c"), PROGRAM),
)


def compiler() -> list[str]:
    """Return the compiler's command line; empty if there is no compiler."""
    words = shlex.split(os.environ.get("CC", "cc"))
    return words if words and shutil.which(words[0]) else []


def build(folder: str) -> None:
    """Compile all products into `folder`; report a missing or failing compiler, and continue."""
    cc = compiler()
    if not cc:
        sys.stderr.write("no C compiler: built without the native parts\n")
        return
    os.makedirs(folder, exist_ok=True)
    extra = shlex.split(os.environ.get("CFLAGS", "")) + shlex.split(os.environ.get("LDFLAGS", ""))
    for product, source_dir, sources, tries in PRODUCTS:
        path = os.path.join(folder, product)
        files = [os.path.join(source_dir, source) for source in sources]
        # Replaced by a rename: a running shim has the old file mapped.
        for flags in tries:
            argv = [*cc, *FLAGS, *flags, *files, "-o", f"{path}.new", *extra]
            if subprocess.run(argv, check=False).returncode == 0:
                os.replace(f"{path}.new", path)
                break
        else:
            sys.stderr.write(f"{product} does not compile: built without it\n")


class BuildPy(build_py):
    def run(self) -> None:
        super().run()
        build("shimv2/_bin" if self.editable_mode else f"{self.build_lib}/shimv2/_bin")


class BuildNative(Command):
    description = "compile the C parts into this tree"
    user_options: Final[list[Any]] = []

    def initialize_options(self) -> None:
        """Nothing to set."""

    def finalize_options(self) -> None:
        """Nothing to check."""

    def run(self) -> None:
        build("shimv2/_bin")


class WithNative(Distribution):
    def has_ext_modules(self) -> bool:
        return bool(compiler())


def wheel_commands() -> dict[str, type[Command]]:
    """Mark a wheel with C parts as for this machine's platform and each Python 3."""
    try:
        from setuptools.command.bdist_wheel import bdist_wheel  # noqa: PLC0415 - not everywhere
    except ImportError:  # before setuptools 70
        try:
            from wheel.bdist_wheel import bdist_wheel  # noqa: PLC0415 - not everywhere
        except ImportError:
            return {}  # no wheel can be built here

    class BdistWheel(bdist_wheel):
        def get_tag(self) -> tuple[str, str, str]:
            _, _, platform = super().get_tag()
            return "py3", "none", "any" if self.root_is_pure else platform

    return {"bdist_wheel": BdistWheel}


setup(
    distclass=WithNative,
    cmdclass={"build_py": BuildPy, "build_native": BuildNative, **wheel_commands()},
)
