"""Leak counters: what a test left behind in its own process, and on the machine.

Each root test has a mark, a short random word.  The names of its folders and namespaces contain the
mark, and so do its mounts, cgroups, arguments and working directories.  So a leftover shows which
test made it, and tests in other processes at the same time ignore it.
"""

import gc
import glob
import os
import shutil
import signal
import socket
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

_CGROUPS: Final = "/sys/fs/cgroup"
_SOCKETS: Final = "/run/containerd/s"
_FIFOS: Final = "/run/containerd/fifo"
_RUNTIME_STATE: Final = "/run/containerd/runc"
_GRACE_S: Final = (
    5.0  # for what ends without help: a shim that exits, a cgroup that the kernel empties
)
_OWN_GRACE_S: Final = 1.0
_STEP_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class OwnState:
    """The fds, children and threads of this process."""

    fds: dict[int, str]
    children: frozenset[int]
    threads: frozenset[str]

    @classmethod
    def now(cls) -> "OwnState":
        fds = {}
        for name in os.listdir("/proc/self/fd"):
            try:
                fds[int(name)] = os.readlink(f"/proc/self/fd/{name}")
            except FileNotFoundError:
                continue  # the listing's own fd
        threads = frozenset(thread.name for thread in threading.enumerate())
        return cls(fds, frozenset(children_of(os.getpid())), threads)

    def grown_since(self, before: "OwnState") -> list[str]:
        """List what exists now and did not exist before."""
        fds = [f"fd {n} -> {to}" for n, to in self.fds.items() if before.fds.get(n) != to]
        children = [f"child {pid}: {command(pid)}" for pid in self.children - before.children]
        threads = [f"thread {name}" for name in self.threads - before.threads]
        return sorted(fds + children + threads)


def own_leaks(before: OwnState, *, grace_s: float = _OWN_GRACE_S) -> list[str]:
    """List what this process has in addition to `before`, after up to `grace_s` to release it."""
    end = time.monotonic() + grace_s
    left = OwnState.now().grown_since(before)
    if left:
        gc.collect()  # objects in a reference cycle are no leak yet
    while left and time.monotonic() < end:
        time.sleep(_STEP_S)  # between two checks
        left = OwnState.now().grown_since(before)
    return left


@dataclass(slots=True)
class HostLeaks:
    """Everything on this machine with a test's mark.  The test's own `folder` is not counted."""

    mark: str
    folder: str
    _sockets: set[str] = field(default_factory=lambda: set(_listed(_SOCKETS)))
    _fifos: set[str] = field(default_factory=lambda: set(_listed(_FIFOS)))

    def found(self) -> list[str]:
        """List what exists at this moment."""
        return [
            *self.marked(),
            *(f"socket {path}" for path in self.sockets()),
            *(f"FIFO folder {path}" for path in self.fifos()),
            *(f"temporary file {path}" for path in glob.glob(f"{self.folder}/tmp/*")),
        ]

    def marked(self) -> list[str]:
        """List what has the mark in its name: only this test can have left it behind."""
        return [
            *(f"process {pid}: {command(pid)}" for pid in self.processes()),
            *(f"mount {point}" for point in self.mounts()),
            *(f"cgroup {path}" for path in self.cgroups()),
            *(f"runtime state {path}" for path in glob.glob(f"{_RUNTIME_STATE}/{self.mark}*/*")),
        ]

    def since_start(self, *, grace_s: float = _GRACE_S) -> list[str]:
        """List what the test left behind, after up to `grace_s` for it to end."""
        return _settled(self.found, grace_s)

    def marked_since(self, known: Sequence[str], *, grace_s: float = _GRACE_S) -> list[str]:
        """List what has the mark and is not in `known`, after up to `grace_s` for it to end."""
        return _settled(lambda: [each for each in self.marked() if each not in known], grace_s)

    def processes(self) -> list[int]:
        mine = ancestors()
        pids = (int(name) for name in os.listdir("/proc") if name.isdecimal())
        return [pid for pid in pids if pid not in mine and self._carries(pid)]

    def mounts(self) -> list[str]:
        with open("/proc/self/mountinfo", encoding="utf-8") as file:
            points = [line.split()[4] for line in file if self.mark in line]
        return sorted(points, key=len, reverse=True)

    def cgroups(self) -> list[str]:
        """List the containers' cgroups; runtimes keep the namespace's own, which is not counted."""
        found = glob.glob(f"{_CGROUPS}/{self.mark}*/*/") + glob.glob(
            f"{_CGROUPS}/*/{self.mark}*/*/"
        )
        return [path.rstrip("/") for path in found]

    def sockets(self) -> list[str]:
        """List new socket files without a listener.  A listening process is counted instead."""
        new = (os.path.join(_SOCKETS, name) for name in set(_listed(_SOCKETS)) - self._sockets)
        return [path for path in new if _dead(path)]

    def fifos(self) -> list[str]:
        """Return new FIFO folders that no process has open; their random names have no mark."""
        new = {os.path.join(_FIFOS, name) for name in set(_listed(_FIFOS)) - self._fifos}
        return sorted(new - _opened_folders() if new else new)

    def remove(self) -> None:
        """End and remove everything that a failed test left behind."""
        self.remove_marked()
        for path in self.fifos():
            shutil.rmtree(path, ignore_errors=True)
        for path in self.sockets():
            os.unlink(path)

    def remove_marked(self) -> None:
        """End and remove what has the mark in its name: other tests may run on this machine."""
        for pid in self.processes():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        end = time.monotonic() + _GRACE_S
        while self.processes() and time.monotonic() < end:
            time.sleep(_STEP_S)  # between two checks
        for point in self.mounts():
            subprocess.run(["umount", "-l", point], check=False, capture_output=True)
        for path in glob.glob(f"{_RUNTIME_STATE}/{self.mark}*"):
            shutil.rmtree(path, ignore_errors=True)
        self.remove_namespace_folders()

    def remove_namespace_folders(self) -> None:
        """Remove the namespace's empty folders: runtimes leave them after ordinary removals too."""
        for pattern in (f"{_CGROUPS}/{self.mark}*", f"{_CGROUPS}/*/{self.mark}*"):
            for top in glob.glob(pattern):
                for path, _, _ in os.walk(top, topdown=False):
                    _rmdir(path)
        for path in glob.glob(f"{_RUNTIME_STATE}/{self.mark}*"):
            _rmdir(path)

    def _carries(self, pid: int) -> bool:
        wanted = self.mark.encode()
        for name in ("cmdline", "environ", "cgroup"):
            try:
                with open(f"/proc/{pid}/{name}", "rb") as file:
                    if wanted in file.read():
                        return alive(pid)
            except OSError:
                continue
        for name in ("cwd", "root"):
            try:
                if self.mark in os.readlink(f"/proc/{pid}/{name}"):
                    return True
            except OSError:
                continue
        return False


def _settled(find: Callable[[], list[str]], grace_s: float) -> list[str]:
    end = time.monotonic() + grace_s
    while (left := find()) and time.monotonic() < end:
        time.sleep(_STEP_S)  # between two checks
    return left


def children_of(pid: int) -> list[int]:
    found: list[int] = []
    for path in glob.glob(f"/proc/{pid}/task/*/children"):
        try:
            with open(path, encoding="ascii") as file:
                found += map(int, file.read().split())
        except FileNotFoundError:
            continue
    return found


def ancestors() -> set[int]:
    """Return this process and its ancestors: their arguments may contain the name of a test."""
    chain = {os.getpid()}
    pid = os.getppid()
    while pid > 1:
        chain.add(pid)
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            pid = int(file.read().rpartition(")")[2].split()[1])
    return chain


def command(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read().replace(b"\0", b" ").decode(errors="replace").strip() or "?"
    except OSError:
        return "gone"


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie, which its parent has not reaped, does not."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except OSError:
        return False


def _listed(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _dead(path: str) -> bool:
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return False
    except FileNotFoundError:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
    return False


def _opened_folders() -> set[str]:
    """Return the folders of all files that some process has open."""
    folders = set()
    for link in glob.glob("/proc/[0-9]*/fd/*"):
        try:
            folders.add(os.path.dirname(os.readlink(link)))
        except OSError:
            continue
    return folders


def _rmdir(path: str) -> None:
    try:
        os.rmdir(path)
    except OSError:
        return
