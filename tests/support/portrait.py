"""All that a server inherited from who started it, to be compared with another's."""

import os
from pathlib import Path
from typing import Any, Final

from shimv2.kernel import linux
from tests.support.boot import arguments, fds

_IDS: Final = ("Name", "PPid", "Uid", "Gid", "Groups", "NoNewPrivs", "Seccomp", "THP_enabled")
_CAPABILITIES: Final = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
_SIGNALS: Final = ("SigPnd", "ShdPnd", "SigBlk", "SigIgn", "SigCgt")
_PLACES: Final = ("Umask", "Threads", "Cpus_allowed", "Mems_allowed")
_FIELDS: Final = _IDS + _CAPABILITIES + _SIGNALS + _PLACES
_NAMESPACES: Final = ("cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts")


def portrait(pid: int, id_: str) -> dict[str, Any]:
    """Describe the server `pid` of container `id_`, whose name is left out of everything."""
    proc = Path(f"/proc/{pid}")
    status = dict(line.split(":", 1) for line in (proc / "status").read_text().splitlines())
    found: dict[str, Any] = {name: status.get(name, "").split() for name in _FIELDS}
    found |= {f"ns {name}": os.readlink(proc / "ns" / name) for name in _NAMESPACES}
    for name in ("limits", "cgroup", "oom_score_adj", "loginuid", "personality", "timerslack_ns"):
        path = proc / name
        found[name] = path.read_text() if path.exists() else ""
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
