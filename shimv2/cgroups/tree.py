"""One container's control groups, found once, right after its init was made."""

import contextlib
import os
from collections.abc import Mapping, Sequence
from typing import Final

from shimv2.cgroups import parse, v1, v2
from shimv2.kernel.linux import filesystem_type

_ROOT: Final = "/sys/fs/cgroup"
_CGROUP2_MAGIC: Final = 0x63677270  # of statfs(2)
# Which v1 hierarchy tells the processes: runc joins all it finds, so the first that is there.
_V1_ORDER: Final = ("pids", "memory", "cpu", "freezer", "devices", "cpuset", "name=systemd")


def is_unified() -> bool:
    """Whether cgroup v2 rules; a hybrid hierarchy counts as v1, whose controllers are the live."""
    return filesystem_type(_ROOT) == _CGROUP2_MAGIC


def folders(path: str) -> list[str]:
    """Name the directories of the cgroup `path` (which starts with a slash), one a hierarchy."""
    if is_unified():
        return [_ROOT + path]
    return sorted({mount + path for mount in parse.mountpoints(_mountinfo()).values()})


def directories(member: Mapping[str, str]) -> list[str]:
    """Name the directories of memberships (controller -> path), of the unified hierarchy as well.

    Raises:
        ValueError: a hierarchy is not mounted here.
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
    """The directories of a container's cgroup.  Holds no fd; valid after the cgroup is gone."""

    def __init__(
        self,
        directory: str,
        controllers: Mapping[str, str] | None = None,
        uncounted: Sequence[str] = (),
    ) -> None:
        self.directory = directory  # whose `cgroup.procs` names the processes
        self.controllers = controllers  # v1: controller -> its directory; None: v2, there is one
        self._uncounted = uncounted  # directories without a controller

    @classmethod
    def of(cls, pid: int) -> "Cgroup | None":
        """Find the cgroup of `pid`; None when it is gone or in no cgroup of its own.

        A cgroup that it shares with us it has from us: rootless, a runtime may be unable to make
        one, and what is counted there is the user's whole session.
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
        path = member.get("", "/")  # a hybrid machine's other half: nothing is counted there
        other = _directories({"": path}, mountinfo) if path != "/" else []
        return cls(directory, parse.directories(member, mounts), other)

    def enable_controllers(self) -> None:
        """Have everything counted that this machine can count; cgroup v1 does so by itself."""
        if self.controllers is None:
            v2.enable_controllers(_ROOT, self.directory.removeprefix(_ROOT))

    def remove(self) -> None:
        """Remove what a runtime left of it; a part that is in use stays.

        Once a checkpoint has ended a container the runtime has forgotten it, but not waited until
        the kernel had let its cgroup go (seen: runc 1.1.5 on cgroup v2).
        """
        for folder in {self.directory, *(self.controllers or {}).values(), *self._uncounted}:
            with contextlib.suppress(OSError):
                os.rmdir(folder)

    def is_frozen(self) -> bool:
        """Whether the processes are held, or about to be; not when an outer cgroup holds them."""
        if self.controllers is None:
            return v2.is_frozen(self.directory)
        folder = self.controllers.get("freezer")
        return folder is not None and v1.is_frozen(folder)

    def stats(self) -> v1.Stats | v2.Stats:
        """Read what is counted: from files, without the runtime, also after the init's end.

        Raises:
            OSError: a file that exists cannot be read.
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
            except OSError:  # removed meanwhile, or threaded: then its domain lists the processes
                continue
        return sorted(found)
