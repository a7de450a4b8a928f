"""Finds a criu that works on this machine's kernel."""

import functools
import os
import shutil
import subprocess
from typing import Final

_CACHED: Final = "/var/cache/containerd-shim-pyrunc/criu/criu"  # tools/criu.sh makes it


@functools.cache
def working_criu() -> str | None:
    """Return the criu on PATH if it works, else the one that `make criu` has downloaded."""
    for program in (shutil.which("criu"), _CACHED):
        if program and os.access(program, os.X_OK):
            checked = subprocess.run([program, "check"], check=False, capture_output=True)
            if checked.returncode == 0:
                return program
    return None
