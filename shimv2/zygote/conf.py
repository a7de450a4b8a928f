"""The launcher's conf file: the interpreter, the entry point, and all files of the code.

If one of these files is replaced, as by a security update, later starts get a new zygote.
`tools/install.sh` writes the conf file:

    python -I -m shimv2.zygote.conf PYTHON ENTRY DESTDIR
"""

import os
import sys
from collections.abc import Sequence
from typing import Final

_PACKAGES: Final = ("shimv2", "ttrpc", "protos", "google.protobuf")


def conf(python: str, entry: str, destdir: str = "") -> str:
    """Return the text of the conf file for this interpreter and these packages.

    Paths are written without the prefix `destdir`.
    """
    # These imports load all that a zygote loads.
    import shimv2.zygote.child  # noqa: PLC0415
    import shimv2.zygote.warmup  # noqa: F401, PLC0415

    files = {_loaded(name) for name in _PACKAGES} | set(_mapped_files())
    names = sorted(path.removeprefix(destdir) for path in files)
    return "".join(f"{line}\n" for line in (python, entry, *names))


def _loaded(package: str) -> str:
    file = sys.modules[package].__file__
    assert file is not None
    return os.path.abspath(file)


def _mapped_files() -> Sequence[str]:
    """List the executable files that this process maps: interpreter, C library, extensions."""
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as maps:
        rows = [row.rstrip("\n").split(maxsplit=5) for row in maps]
    return [row[5] for row in rows if len(row) > 5 and "x" in row[1] and os.path.isfile(row[5])]


if __name__ == "__main__":
    sys.stdout.write(conf(*sys.argv[1:]))
