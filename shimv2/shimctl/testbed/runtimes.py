"""OCI runtimes as they work on this machine."""

import os
import shutil
from typing import Final

_UNIFIED: Final = "/sys/fs/cgroup/unified"


def crun(folder: str) -> str:
    """Return the installed crun, as it works here; a script for it may lie in `folder`."""
    program = shutil.which("crun")
    assert program, "crun is not installed"
    return around_hybrid(program, folder)


def around_hybrid(program: str, folder: str) -> str:
    """Return a crun that works here: it refuses a cgroup v2 with controllers beside v1.

    Then it gets a mount namespace of its own without that mount; new mounts of the host still
    reach it, and the container has a namespace of its own anyway.
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
"""What else than runc containers can have, and what makes it work here."""
