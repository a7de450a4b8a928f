"""The folders and namespaces of an unprivileged user, for rootless daemons and shims."""

import os
import shutil
import stat
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from shimv2.kernel import linux
from shimv2.shimctl.rootfs import make_rootfs
from tests.support.host import NAME, Host, write_shim
from tests.support.users import USER, as_user

_TREE: Final = Path(__file__).resolve().parents[2]
_UNIFIED: Final = "/sys/fs/cgroup/unified"
_PRIVATE: Final = linux.MS_REC | linux.MS_PRIVATE


def python_is_readable() -> bool:
    """Whether other users can run this interpreter; one of pyenv is in its user's home."""
    prefix = Path(sys.base_prefix).resolve()
    return all(folder.stat().st_mode & stat.S_IXOTH for folder in (prefix, *prefix.parents))


@dataclass(frozen=True, slots=True)
class User:
    """A home below the test's folder, with a copy of the shim's tree that the user can read."""

    host: Host
    uid: int = USER

    @classmethod
    def make(cls, host: Host) -> "User":
        user = cls(host)
        for folder in (user.home, user.runtime_dir):
            os.mkdir(folder, 0o700)
            os.chown(folder, user.uid, user.uid)
        os.mkdir(user._tree)
        write_shim(os.path.join(user.home, NAME), root=user._tree, python=user._python)
        return user

    @property
    def home(self) -> str:
        return os.path.join(self.host.folder, "u")

    @property
    def runtime_dir(self) -> str:
        return os.path.join(self.home, "run")

    @property
    def shim(self) -> str:
        return os.path.join(self.home, NAME)

    @property
    def rootfs(self) -> str:
        return os.path.join(self.home, "rootfs")

    @property
    def env(self) -> dict[str, str]:
        return {
            "HOME": self.home,
            "XDG_RUNTIME_DIR": self.runtime_dir,
            "TMPDIR": os.path.join(self.home, "tmp"),
            "PATH": f"{self.home}:/usr/sbin:/usr/bin:/sbin:/bin",
        }

    @property
    def _tree(self) -> str:
        return os.path.join(self.host.folder, "tree")

    @property
    def _python(self) -> str:
        """Return a path of the interpreter that the user can read: the virtual environment is in
        the tree."""
        if Path(sys.executable).is_relative_to(_TREE):
            return os.path.join(self._tree, os.path.relpath(sys.executable, _TREE))
        return sys.executable

    def do(self, work: Callable[[], Any], *, own_namespace: bool = False) -> int:
        """Run `work` as the user, in a mount namespace in which the user can read the tree.

        With `own_namespace` the user is root of a user namespace with an empty /run, as after
        `unshare --map-root-user --mount` and the mount of a tmpfs.
        """

        def inside() -> None:
            os.environ.clear()
            os.environ.update(self.env)
            os.mkdir(os.environ["TMPDIR"])
            os.chdir(self.home)
            make_rootfs(self.rootfs)
            if own_namespace:
                self._enter_namespace()
            work()

        return as_user(inside, uid=self.uid, before=self._prepare)

    def _prepare(self) -> None:
        linux.unshare(linux.CLONE_NEWNS)
        linux.mount("", "/", "", _PRIVATE, "")
        linux.mount(str(_TREE), self._tree, "", linux.MS_BIND, "")
        if os.path.ismount(_UNIFIED):  # crun refuses it beside cgroup v1
            linux.unmount(_UNIFIED)

    def _enter_namespace(self) -> None:
        linux.unshare(linux.CLONE_NEWUSER | linux.CLONE_NEWNS)
        maps = {"setgroups": "deny", "uid_map": f"0 {self.uid} 1", "gid_map": f"0 {self.uid} 1"}
        for name, text in maps.items():
            Path("/proc/self", name).write_text(text)
        linux.mount("tmpfs", "/run", "tmpfs", 0, "mode=755")

    def left(self) -> list[str]:
        """List what a removed container left behind in the folders of the user's daemons."""
        found = []
        for folder in (self.runtime_dir, os.path.join(self.home, "tmp")):
            for path, _, files in os.walk(folder):
                found += [os.path.join(path, name) for name in files]
        return found


def available() -> bool:
    """Whether unprivileged users may make user namespaces on this machine."""
    limit = Path("/proc/sys/user/max_user_namespaces").read_text()
    return int(limit) > 0 and shutil.which("runc") is not None
