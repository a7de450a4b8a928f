"""Where a process is in the machine's control groups, found apart from the shim's own way."""

from pathlib import Path
from typing import Final

_ROOT: Final = Path("/sys/fs/cgroup")


def unified() -> bool:
    """Tell whether cgroup v2 rules this machine, alone."""
    return (_ROOT / "cgroup.controllers").exists()


def folder_of(pid: int, controller: str) -> Path:
    """Return the folder with a controller's files about a process.

    Raises:
        LookupError: the process is in no such cgroup.
    """
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        if unified() and not names:
            return _ROOT / path[1:]
        if controller in names.split(","):
            return _ROOT / controller / path[1:]
    msg = f"{pid} is in no cgroup of {controller}"
    raise LookupError(msg)
