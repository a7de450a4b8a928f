"""Finds the cgroups of one container, once, right after its init was created."""

import contextlib
import os
from collections.abc import Mapping, Sequence
from typing import Final

from shimv2.cgroups import parse, v1, v2
from shimv2.kernel.linux import filesystem_type

_ROOT: Final = "/sys/fs/cgroup"
_CGROUP2_MAGIC: Final = 0x63677270  # CGROUP2_SUPER_MAGIC of statfs(2)
# The v1 hierarchies to read the processes from, best first: runc joins every one it finds.
_V1_ORDER: Final = ("pids", "memory", "cpu", "freezer", "devices", "cpuset", "name=systemd")


def is_unified() -> bool:
    """Whether all controllers are cgroup v2's.  A hybrid machine counts as v1."""
    return filesystem_type(_ROOT) == _CGROUP2_MAGIC


def folders(path: str) -> list[str]:
    """List the directories of the cgroup `path` (which starts with a slash), one per hierarchy."""
    if is_unified():
        return [_ROOT + path]
    return sorted({mount + path for mount in parse.mountpoints(_mountinfo()).values()})


def directories(member: Mapping[str, str]) -> list[str]:
    """List the directories of memberships (controller -> path), the unified hierarchy included.

    Raises:
        ValueError: a hierarchy is not mounted.
    """
    return _directories(member, _mountinfo())


def _directories(member: Mapping[str, str], mountinfo: str) -> list[str]:
    mounts = {**parse.mountpoints(mountinfo), "": parse.unified_mountpoint(mountinfo)}
    missing = [controller for controller in member if not mounts.get(controller)]
    if missing:
        raise ValueError(f"no hierarchy is mounted for {', '.join(map(repr, missing))}")
    return sorted({mounts[controller] + path for controller, path in member.items()})


def _mountinfo() -> str:
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        return file.read()


def _memberships(pid: int | str) -> dict[str, str]:
    with open(f"/proc/{pid}/cgroup", encoding="utf-8") as file:
        return parse.memberships(file.read())


class Cgroup:
    """The directories of a container's cgroup.  Holds no fd; usable after the cgroup is gone."""

    def __init__(
        self,
        directory: str,
        controllers: Mapping[str, str] | None = None,
        uncounted: Sequence[str] = (),
    ) -> None:
        self.directory = directory  # its `cgroup.procs` lists the processes
        self.controllers = controllers  # v1: controller -> directory; None: v2, one directory
        self._uncounted = uncounted  # directories without a controller

    @classmethod
    def of(cls, pid: int) -> "Cgroup | None":
        """Find the cgroup of `pid`; None if the process is gone or shares the shim's cgroup.

        A process shares the shim's cgroup when a rootless runtime could not make one; that cgroup
        counts the user's whole session.
        """
        try:
            ours = _memberships("self")
            member = {
                controller: path
                for controller, path in _memberships(pid).items()
                if path != ours.get(controller)
            }
        except OSError:
            return None
        if is_unified():
            path = member.get("", "/")
            return cls(_ROOT + path) if path != "/" else None
        mountinfo = _mountinfo()
        mounts = parse.mountpoints(mountinfo)
        directory = parse.directory(member, mounts, _V1_ORDER)
        if not directory:
            return None
        path = member.get("", "/")  # a hybrid machine's v2 hierarchy has no controllers
        other = _directories({"": path}, mountinfo) if path != "/" else []
        return cls(directory, parse.directories(member, mounts), other)

    def enable_controllers(self) -> None:
        """Enable all controllers of the machine for this cgroup; on v1 they always are."""
        if self.controllers is None:
            v2.enable_controllers(_ROOT, self.directory.removeprefix(_ROOT))

    def remove(self) -> None:
        """Remove the directories that a runtime left; those in use stay.

        After a checkpoint that ends the container, runc does not wait until the kernel releases
        the cgroup (seen: runc 1.1.5 on cgroup v2).
        """
        for folder in {self.directory, *(self.controllers or {}).values(), *self._uncounted}:
            with contextlib.suppress(OSError):
                os.rmdir(folder)

    def is_frozen(self) -> bool:
        """Whether this cgroup is frozen or freezing; a frozen parent does not count."""
        if self.controllers is None:
            return v2.is_frozen(self.directory)
        folder = self.controllers.get("freezer")
        return folder is not None and v1.is_frozen(folder)

    def stats(self) -> v1.Stats | v2.Stats:
        """Read all counters; possible also after the init's end.

        Raises:
            OSError: a file exists and cannot be read.
        """
        if self.controllers is None:
            return v2.read_stats(self.directory)
        return v1.read_stats(self.controllers)

    def pids(self) -> list[int]:
        """List the processes, sub-cgroups included; empty when the cgroup is gone."""
        found: set[int] = set()
        for folder, _, _ in os.walk(self.directory):
            try:
                with open(f"{folder}/cgroup.procs", encoding="ascii") as file:
                    found.update(parse.pids(file.read()))
            except OSError:  # removed, or threaded: then the domain cgroup lists the processes
                continue
        return sorted(found)
