"""Finds the control groups of a process, without the shim's code."""

from pathlib import Path
from typing import Final

_ROOT: Final = Path("/sys/fs/cgroup")


def unified() -> bool:
    """Whether this machine has cgroup v2 only."""
    return (_ROOT / "cgroup.controllers").exists()


def no_cgroup(path: str) -> str:
    """Return the error text of `start` when the cgroup that the shim should join is missing."""
    if unified():
        why = f"open {_ROOT}{path}/cgroup.procs: no such file or directory"
        return f"failed to join cgroup {path}: {why}"
    return f"failed to load cgroup {path}: cgroups: cgroup deleted"


def folder_of(pid: int, controller: str) -> Path:
    """Return the folder with a controller's files for a process.

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
