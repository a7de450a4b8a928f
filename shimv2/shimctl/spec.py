"""Builds a container's OCI config as containerd's client library does for runc.  Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

PATH: Final = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_OCI_VERSION: Final = "1.0.2-dev"  # the newest that Debian 12's crun accepts

# containerd's default capabilities, in its order.
_CAPABILITIES: Final = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
)
_MASKED: Final = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/sys/firmware",
    "/proc/scsi",
)
_READONLY: Final = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
# null, zero, full, random, urandom, tty, console, pts, ptmx, tun: containerd's device cgroup.
_DEVICES: Final = (
    ("c", 1, 3),
    ("c", 1, 8),
    ("c", 1, 7),
    ("c", 5, 0),
    ("c", 1, 5),
    ("c", 1, 9),
    ("c", 5, 1),
    ("c", 136, None),
    ("c", 5, 2),
    ("c", 10, 200),
)
_SHM: Final = "/dev/shm"  # noqa: S108 - a mount point in the container, no file is made by that name
NAMESPACES: Final = ("pid", "ipc", "uts", "mount", "network")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a user can choose; everything else has containerd's default."""

    args: Sequence[str]
    env: Sequence[str] = ()
    cwd: str = "/"
    terminal: bool = False
    uid: int = 0
    gid: int = 0
    binds: Sequence[tuple[str, str]] = ()  # host path, path in the container
    host_namespaces: Sequence[str] = ()  # those of NAMESPACES to share with the host
    annotations: Mapping[str, str] = field(default_factory=dict)
    memory_limit_bytes: int | None = None


def process(wanted: Wanted) -> dict[str, object]:
    """Return the OCI process object of a config or an exec."""
    return {
        "terminal": wanted.terminal,
        "user": {"uid": wanted.uid, "gid": wanted.gid},
        "args": list(wanted.args),
        "env": [PATH, *(["TERM=xterm"] if wanted.terminal else []), *wanted.env],
        "cwd": wanted.cwd,
        "capabilities": {
            kind: list(_CAPABILITIES) for kind in ("bounding", "effective", "permitted")
        },
        "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
        "noNewPrivileges": True,
    }


def config(wanted: Wanted, *, namespace: str, container_id: str) -> dict[str, object]:
    """Return the whole config.json.  The cgroup is containerd's: /<namespace>/<id>."""
    resources: dict[str, object] = {"devices": _device_rules()}
    if wanted.memory_limit_bytes is not None:
        resources["memory"] = {"limit": wanted.memory_limit_bytes}
    return {
        "ociVersion": _OCI_VERSION,
        "process": process(wanted),
        "root": {"path": "rootfs"},
        "mounts": [*_mounts(), *(_bind(source, target) for source, target in wanted.binds)],
        "annotations": dict(wanted.annotations),
        "linux": {
            "resources": resources,
            "cgroupsPath": f"/{namespace}/{container_id}",
            "namespaces": [
                {"type": name} for name in NAMESPACES if name not in wanted.host_namespaces
            ],
            "maskedPaths": list(_MASKED),
            "readonlyPaths": list(_READONLY),
        },
    }


def _device_rules() -> list[dict[str, object]]:
    rules: list[dict[str, object]] = [{"allow": False, "access": "rwm"}]
    for kind, major, minor in _DEVICES:
        rule: dict[str, object] = {"allow": True, "type": kind, "major": major, "access": "rwm"}
        if minor is not None:
            rule["minor"] = minor
        rules.append(rule)
    return rules


def _mount(target: str, kind: str, source: str, *options: str) -> dict[str, object]:
    return {"destination": target, "type": kind, "source": source, "options": list(options)}


def _bind(source: str, target: str) -> dict[str, object]:
    return _mount(target, "bind", source, "rbind", "rw")


def _mounts() -> list[dict[str, object]]:
    shm = "size=65536k"
    pts = ("newinstance", "ptmxmode=0666", "mode=0620", "gid=5")
    return [
        _mount("/proc", "proc", "proc", "nosuid", "noexec", "nodev"),
        _mount("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", shm),
        _mount("/dev/pts", "devpts", "devpts", "nosuid", "noexec", *pts),
        _mount(_SHM, "tmpfs", "shm", "nosuid", "noexec", "nodev", "mode=1777", shm),
        _mount("/dev/mqueue", "mqueue", "mqueue", "nosuid", "noexec", "nodev"),
        _mount("/sys", "sysfs", "sysfs", "nosuid", "noexec", "nodev", "ro"),
        _mount("/run", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", shm),
    ]
