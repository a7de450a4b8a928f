"""The OCI runtimes that daemons are paired with: the installed ones, and those of Debian sid."""

import functools
import os
import re
import shutil
import subprocess
from typing import Final

from shimv2.shimctl.testbed.releases import CACHE, ReleaseMissing, tool
from shimv2.shimctl.testbed.runtimes import around_hybrid

# Name of a runtime -> path of its program in the package of that name; "" = the installed one.
_PROGRAMS: Final = {
    "runc": "",
    "crun": "",
    "runc-sid": "usr/sbin/runc",
    "crun-sid": "usr/bin/crun",
}
RUNTIMES: Final = tuple(_PROGRAMS)
INSTALLED: Final = tuple(name for name, program in _PROGRAMS.items() if not program)


def find_runtime(name: str, folder: str) -> str:
    """Return the path of a runtime that works on this machine, or of a script in `folder` that runs
    it.

    Raises:
        ReleaseMissing: it is not available; the text has the reason.
    """
    program = _program(name)
    return around_hybrid(program, folder) if name.startswith("crun") else program


@functools.cache
def describe(name: str) -> str:
    """Return the name and version that a runtime prints.

    Raises:
        ReleaseMissing: as `find_runtime`.
    """
    program = _program(name)
    done = subprocess.run([program, "--version"], check=True, capture_output=True, text=True)
    found = re.search(r"version v?([0-9.]+)", done.stdout)
    return f"{name.partition('-')[0]} {found[1] if found else '?'}"


@functools.cache
def _program(name: str) -> str:
    kind, path = name.partition("-")[0], _PROGRAMS[name]
    if not path:
        found = shutil.which(kind)
        if found is None:
            raise ReleaseMissing(f"{kind} is not installed")
        return found
    folder = os.path.join(CACHE, name)
    tool("patched.sh", "sid", folder, kind, path)
    return os.path.join(folder, kind)
