"""OCI runtimes, in a form that works on this machine."""

import os
import shutil
from typing import Final

_UNIFIED: Final = "/sys/fs/cgroup/unified"


def crun(folder: str) -> str:
    """Return the installed crun, or a script in `folder` that makes it work on this machine."""
    program = shutil.which("crun")
    assert program, "crun is not installed"
    return around_hybrid(program, folder)


def around_hybrid(program: str, folder: str) -> str:
    """Return `program`, which is crun, or a script in `folder` that runs it.

    crun refuses to work if the cgroup v2 hierarchy beside v1 has controllers.  On such a machine
    the script runs crun in a mount namespace without that hierarchy.  Later mounts of the host
    still propagate to it, and a container has a mount namespace of its own anyway.
    """
    try:
        with open(f"{_UNIFIED}/cgroup.controllers", encoding="ascii") as file:
            hybrid = bool(file.read().split())
    except FileNotFoundError:
        hybrid = False
    if not hybrid:
        return program
    path = os.path.join(folder, "crun")
    with open(path, "w", encoding="utf-8") as script:
        script.write(
            "#!/bin/sh\nexec unshare --mount --propagation slave sh -c "
            f'\'umount {_UNIFIED} && exec {program} "$@"\' crun "$@"\n'
        )
    os.chmod(path, 0o755)
    return path


RUNTIMES: Final = {"crun": crun}
"""The runtimes beside runc: name -> function that returns the program to use."""
