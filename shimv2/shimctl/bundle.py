"""Where a container's files are: its bundle, as containerd lays it out, and the client's own side.

Two folders per container below a state folder, so that a second process finds all it needs to take
over from one that died:

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
    """There is no bundle of that id, or none whose shim ever answered."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """The paths of one container.  Holds no file open and is the same in every process."""

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
        """Make both folders with the modes containerd uses, config.json and the log FIFO.

        Raises:
            FileExistsError: there is such a container already.
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
        """Return the mount that gives the container `lower` as its root, writes kept apart.

        They go to the client's folder, or to one of the container's own below `layers`.
        """
        own = os.path.join(layers, self.id) if layers else self.own
        upper, work = (os.path.join(own, name) for name in ("upper", "overlay"))
        for folder in (upper, work):
            os.makedirs(folder, mode=0o755, exist_ok=True)
        options = (f"lowerdir={lower}", f"upperdir={upper}", f"workdir={work}")
        return Mount(type="overlay", source="overlay", target="", options=options)

    # --- what a daemon remembers across its own restart -------------------------------------------

    def remember(self, shim: str, reply: Reply) -> None:
        """Write `shim-binary-path` and `bootstrap.json`, as containerd 2 does after `start`."""
        with open(os.path.join(self.path, "shim-binary-path"), "w", encoding="utf-8") as file:
            file.write(shim)
        target = os.path.join(self.path, "bootstrap.json")
        with open(f"{target}.tmp", "w", encoding="utf-8") as file:
            file.write(reply.to_json())
        os.replace(f"{target}.tmp", target)

    def recall(self) -> tuple[str, Reply]:
        """Return the shim's path and its reply, as a daemon finds them after a restart.

        Raises:
            NoSuchContainer: nobody got as far as an answer from `start`.
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
        """Unmount what a shim left in the root, then remove both folders.  May be repeated."""
        for target in mounts_below(self.path):
            subprocess.run(["umount", target], check=True, capture_output=True)
        for folder in (self.path, self.own):
            shutil.rmtree(folder, ignore_errors=not os.path.isdir(folder))


def mounts_below(folder: str) -> list[str]:
    """Return the mount points at or below `folder`, the innermost first."""
    found = []
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        for line in file:
            # The kernel writes blanks in a path as octal escapes (proc(5)).
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
