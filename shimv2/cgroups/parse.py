"""The kernel's files about control groups -> values.  Pure."""

from collections.abc import Iterable, Mapping


def memberships(text: str) -> dict[str, str]:
    """Read `/proc/PID/cgroup`: controller (or `name=x`) -> path; the unified hierarchy is ``""``.

    Lines are `ID:CONTROLLERS:PATH` (cgroups(7)); a path may contain colons.
    """
    found: dict[str, str] = {}
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            found[controller] = path
    return found


def mountpoints(mountinfo: str) -> dict[str, str]:
    """Read `/proc/self/mountinfo`: v1 controller -> where its hierarchy is mounted, whole.

    Bind mounts of a part of a hierarchy (their root is not `/`) are passed over: paths of
    `/proc/PID/cgroup` are relative to the hierarchy's root.
    """
    found: dict[str, str] = {}
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        fields, (fstype, _, options) = left.split(), right.split(" ", 2)
        if fstype == "cgroup" and fields[3] == "/":
            for option in options.split(","):
                found.setdefault(option, fields[4])
    return found


def pids(text: str) -> list[int]:
    """Read `cgroup.procs`; 0 stands for a process of another pid namespace and is left out."""
    return [pid for pid in map(int, text.split()) if pid]


def directory(member: Mapping[str, str], mounts: Mapping[str, str], order: Iterable[str]) -> str:
    """Name the directory of the first controller of `order` that is mounted and not the root."""
    for controller in order:
        path = member.get(controller, "/")
        if path != "/" and controller in mounts:
            return mounts[controller] + path
    return ""
