"""A container's files: its bundle, laid out as containerd does, and the client's own directory.

Each container has two directories below the state directory.  A second process finds there all it
needs to take over after the first one died:

    <state>/<namespace>/<id>/     the bundle, shared with the shim; its name must be the id
    <state>/<namespace>/.<id>/    the client's: stdio FIFOs, the upper layer of the root
"""

import json
import os
import shutil
import stat
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from shimv2.shimctl.reply import Reply
from shimv2.values.model import Mount

STREAMS: Final = ("stdin", "stdout", "stderr")


class NoSuchContainer(Exception):
    """There is no bundle of that id, or its `start` never succeeded."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """The paths of one container.  Holds no file open; every process computes the same paths."""

    state: str
    namespace: str
    id: str

    @property
    def path(self) -> str:
        return os.path.join(self.state, self.namespace, self.id)

    @property
    def own(self) -> str:
        return os.path.join(self.state, self.namespace, f".{self.id}")

    @property
    def log(self) -> str:
        return os.path.join(self.path, "log")

    def fifo(self, stream: str, *, exec_id: str = "") -> str:
        return os.path.join(self.own, f"{exec_id}-{stream}" if exec_id else stream)

    def exists(self) -> bool:
        return os.path.isdir(self.path)

    # --- making -------------------------------------------------------------------------------

    def make(self, config: Mapping[str, object]) -> None:
        """Make both directories with containerd's modes, config.json and the log FIFO.

        Raises:
            FileExistsError: the container exists already.
        """
        os.makedirs(os.path.dirname(self.path), mode=0o711, exist_ok=True)
        os.mkdir(self.path, 0o700)
        os.mkdir(os.path.join(self.path, "rootfs"), 0o711)
        work = os.path.join(self.own, "work")
        os.makedirs(work, mode=0o700)
        os.symlink(work, os.path.join(self.path, "work"))
        with open(os.path.join(self.path, "config.json"), "w", encoding="utf-8") as file:
            json.dump(config, file)
        os.mkfifo(self.log, 0o700)

    def make_fifos(self, *, exec_id: str = "") -> None:
        for stream in STREAMS:
            os.mkfifo(self.fifo(stream, exec_id=exec_id), 0o700)

    def remove_fifos(self, *, exec_id: str = "") -> None:
        for stream in STREAMS:
            _unlink(self.fifo(stream, exec_id=exec_id))

    def overlay(self, lower: str, *, layers: str = "") -> Mount:
        """Return an overlay mount with `lower` as its read-only layer.

        The upper layer is in the client's directory, or in one per container below `layers`.
        """
        own = os.path.join(layers, self.id) if layers else self.own
        upper, work = (os.path.join(own, name) for name in ("upper", "overlay"))
        for folder in (upper, work):
            os.makedirs(folder, mode=0o755, exist_ok=True)
        options = (f"lowerdir={lower}", f"upperdir={upper}", f"workdir={work}")
        return Mount(type="overlay", source="overlay", target="", options=options)

    # --- what containerd stores for its own restart -----------------------------------------------

    def remember(self, shim: str, reply: Reply) -> None:
        """Write `shim-binary-path` and `bootstrap.json`, as containerd 2 does after `start`."""
        with open(os.path.join(self.path, "shim-binary-path"), "w", encoding="utf-8") as file:
            file.write(shim)
        target = os.path.join(self.path, "bootstrap.json")
        with open(f"{target}.tmp", "w", encoding="utf-8") as file:
            file.write(reply.to_json())
        os.replace(f"{target}.tmp", target)

    def recall(self) -> tuple[str, Reply]:
        """Return the shim's path and its reply, which `remember` stored.

        Raises:
            NoSuchContainer: nothing is stored: `start` never succeeded.
        """
        try:
            with open(os.path.join(self.path, "shim-binary-path"), encoding="utf-8") as file:
                shim = file.read()
            with open(os.path.join(self.path, "bootstrap.json"), "rb") as bootstrap:
                return shim, Reply.parse(bootstrap.read())
        except FileNotFoundError:
            msg = f"no container {self.id} in {os.path.dirname(self.path)}"
            raise NoSuchContainer(msg) from None

    # --- removing -----------------------------------------------------------------------------

    def remove(self) -> None:
        """Unmount the mounts that a shim left, then remove both directories.  Idempotent."""
        for target in mounts_below(self.path):
            subprocess.run(["umount", target], check=True, capture_output=True)
        for folder in (self.path, self.own):
            shutil.rmtree(folder, ignore_errors=not os.path.isdir(folder))


def mounts_below(folder: str) -> list[str]:
    """Return the mount points at or below `folder`, the innermost first."""
    found = []
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        for line in file:
            # The kernel writes spaces in a path as octal escapes (proc(5)).
            point = line.split()[4].encode().decode("unicode_escape")
            if point == folder or point.startswith(f"{folder}/"):
                found.append(point)
    return sorted(found, key=len, reverse=True)


def is_fifo(path: str) -> bool:
    try:
        return stat.S_ISFIFO(os.lstat(path).st_mode)
    except FileNotFoundError:
        return False


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
