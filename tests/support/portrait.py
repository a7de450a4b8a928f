"""Describes all that a server inherited from its starter, to compare two servers."""

import os
from pathlib import Path
from typing import Any, Final

from shimv2.kernel import linux
from tests.support.boot import arguments, fds

_IDS: Final = ("Name", "PPid", "Uid", "Gid", "Groups", "NoNewPrivs", "Seccomp", "THP_enabled")
_CAPABILITIES: Final = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
_SIGNALS: Final = ("SigPnd", "ShdPnd", "SigBlk", "SigIgn", "SigCgt")
_PLACES: Final = ("Umask", "Threads", "Cpus_allowed", "Mems_allowed")
_SPECULATION: Final = ("Speculation_Store_Bypass", "SpeculationIndirectBranch")
_NAMESPACES: Final = (
    "cgroup", "ipc", "mnt", "net", "pid", "time", "time_for_children", "user", "uts"
)  # fmt: skip
_FILES: Final = (
    "limits",
    "cgroup",
    "oom_score_adj",
    "loginuid",
    "personality",
    "timerslack_ns",
    "coredump_filter",
    "attr/current",
)


_FIELDS: Final = _IDS + _CAPABILITIES + _SIGNALS + _PLACES + _SPECULATION


def portrait(pid: int, id_: str) -> dict[str, Any]:
    """Describe the server `pid` of container `id_`; the id itself is removed from the texts."""
    proc = Path(f"/proc/{pid}")
    status = dict(line.split(":", 1) for line in (proc / "status").read_text().splitlines())
    found: dict[str, Any] = {name: status.get(name, "").split() for name in _FIELDS}
    found |= {f"ns {name}": os.readlink(proc / "ns" / name) for name in _NAMESPACES}
    for name in _FILES:
        found[name] = _text(proc / name)
    environment = (proc / "environ").read_bytes().split(b"\0")
    found["environ"] = sorted(pair.replace(id_.encode(), b"ID") for pair in environment)
    found["arguments"] = [word.replace(id_, "ID") for word in arguments(pid)]
    found["cwd"] = os.readlink(proc / "cwd").replace(id_, "ID")
    found["root"] = os.readlink(proc / "root")
    found["streams"] = [to.replace(id_, "ID") for fd, to in sorted(fds(pid).items()) if fd < 3]
    found["priority"] = (os.getpriority(os.PRIO_PROCESS, pid), linux.io_priority(pid))
    found["scheduler"] = (os.sched_getscheduler(pid), os.sched_getparam(pid).sched_priority)
    found["affinity"] = os.sched_getaffinity(pid)
    found["group"] = (os.getpgid(pid) == pid, os.getsid(pid) == pid)
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # a kernel without it, or without a security module to read it from
        return ""
