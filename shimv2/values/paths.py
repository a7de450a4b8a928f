"""The names of a bundle's files, of the runtime's state directory, and of the socket.  Pure."""

import hashlib
import os.path
from collections.abc import Mapping
from typing import Final

SOCKET_DIR: Final = "/run/containerd/s"

RUNTIME_ROOT: Final = "/run/containerd/runc"

GROUP_ANNOTATIONS: Final = ("io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id")
"""Containers with the same value share a shim; the first annotation that is present counts."""

# --- files of a bundle; the daemon makes config.json, rootfs, work and log ---------------------


def config_file(bundle: str) -> str:
    return os.path.join(bundle, "config.json")


def rootfs(bundle: str) -> str:
    return os.path.join(bundle, "rootfs")


def idmapped_layers(rootfs_dir: str) -> str:
    """Name the directory with an overlay's layers while the overlay is being mounted."""
    return rootfs_dir.rstrip("/") + ".idmapped"


def work_dir(bundle: str) -> str:
    """Name the link to the directory that outlives a reboot, for checkpoints."""
    return os.path.join(bundle, "work")


def criu_work_dir(bundle: str) -> str:
    """Name the directory of a checkpoint's logs if the client names none."""
    return os.path.join(work_dir(bundle), "criu-work")


def address_file(bundle: str) -> str:
    return os.path.join(bundle, "address")


def socket_dir_link(bundle: str) -> str:
    """Name the link to the directory of the socket, if that is not SOCKET_DIR."""
    return os.path.join(bundle, "s")


def options_file(bundle: str) -> str:
    return os.path.join(bundle, "options.json")


def runtime_file(bundle: str) -> str:
    """Name the file with the runtime's name, which `delete` reads."""
    return os.path.join(bundle, "runtime")


def runtime_log(bundle: str) -> str:
    return os.path.join(bundle, "log.json")


def criu_dump_log(bundle: str) -> str:
    return os.path.join(bundle, "criu-dump.log")


def init_pid_file(bundle: str) -> str:
    return os.path.join(bundle, "init.pid")


def exec_pid_file(bundle: str, exec_id: str) -> str:
    """Name the file in which the runtime writes an exec's pid: `<bundle>/<exec id>.pid`.

    Two kinds of ids get a hashed name.  The file of `init` would be that of the container's init,
    whose pid `delete` reads.  An id with `..` would name a file outside of the bundle.  An id with
    another slash keeps its name; the runtime refuses it, with the text that clients know.
    """
    if exec_id == "init" or ".." in exec_id.split("/"):
        digest = hashlib.sha256(exec_id.encode("utf-8", "surrogateescape")).hexdigest()
        return os.path.join(bundle, f"exec-{digest[:32]}.pid-file")
    return f"{bundle}/{exec_id.lstrip('/')}.pid"


# --- exit records ------------------------------------------------------------------------------

EXITS_DIR: Final = "exits"
INIT_RECORD: Final = "init.json"


# --- the runtime -------------------------------------------------------------------------------


def runtime_root(root: str, namespace: str) -> str:
    """Name the runtime's state directory: the option `root` or its default, and the namespace."""
    return go_join(root or RUNTIME_ROOT, namespace)


def bundle_for_delete(cwd: str, container_id: str) -> str:
    """Name the bundle that `delete` cleans up: `<parent of cwd>/<container_id>`."""
    return go_join(os.path.dirname(cwd), container_id)


# --- the socket --------------------------------------------------------------------------------


def group_id(annotations: Mapping[str, str], container_id: str) -> str:
    """Return the group of a container.  An annotation that is present and empty counts."""
    for name in GROUP_ANNOTATIONS:
        if name in annotations:
            return annotations[name]
    return container_id


def socket_path(grpc_address: str, namespace: str, group: str, *, folder: str = SOCKET_DIR) -> str:
    """Name the socket of a group's shim: a hash that the Go shim computes in the same way."""
    joined = go_join(grpc_address, namespace, group)
    digest = hashlib.sha256(joined.encode("utf-8", "surrogateescape")).hexdigest()
    return f"{folder}/{digest}"


def address_of(path: str) -> str:
    return f"unix://{path}"


def go_join(*parts: str) -> str:
    """Join and clean paths as Go's filepath.Join: without empty parts, `.`, `..` and `//`."""
    joined = "/".join(part for part in parts if part)
    if not joined:
        return ""
    cleaned = os.path.normpath(joined)
    # normpath keeps two leading slashes, because POSIX allows them a special meaning; Go does not.
    return cleaned[1:] if cleaned.startswith("//") else cleaned
