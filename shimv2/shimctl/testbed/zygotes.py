"""The zygotes that a launcher starts, and their spares (their waiting children)."""

import contextlib
import os
import signal
from pathlib import Path
from typing import Final

import psutil

from shimv2.shimctl.testbed.until import until

_TITLE: Final = "containerd-shim-pyrunc-zygote"
_SUPERVISOR_TITLE: Final = "containerd-shim-pyrunc-warmup"
_SUFFIX: Final = ".sock"
_LISTENS: Final = "00010000"  # flags of a socket that listens (SO_ACCEPTCON)


def sockets_folder() -> Path:
    """Return where this user's zygotes listen."""
    if os.geteuid() == 0:
        return Path("/run/containerd-shim-pyrunc/0")
    return Path(os.environ["XDG_RUNTIME_DIR"], "containerd-shim-pyrunc")


def zygotes(program: Path) -> list[int]:
    """List a launcher's zygotes and their spares, without the processes of a warm-up."""
    pids = _titled(program)
    parents = {pid: _parent(pid) for pid in pids}
    return [pid for pid, parent in parents.items() if parent and parent not in pids]


def supervisors(program: Path) -> set[int]:
    """List the processes that wait for a zygote of a launcher to warm up."""
    return _titled(program, _SUPERVISOR_TITLE)


def _titled(program: Path, title: str = _TITLE) -> set[int]:
    pids = (int(name) for name in os.listdir("/proc") if name.isdecimal())
    return {pid for pid in pids if _arguments(pid) == [title, str(program)]}


def _arguments(pid: int) -> list[str]:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read().rstrip(b"\0").decode(errors="replace").split("\0")
    except OSError:
        return []


def _parent(pid: int) -> int:
    """Return the pid of a process's parent, 0 if the process has ended."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[1])
    except OSError:
        return 0


def _listens(pid: int) -> bool:
    """Whether a process has a zygote's listening socket (proc_pid_net(5): unix)."""
    try:
        with open(f"/proc/{pid}/net/unix", encoding="utf-8") as file:
            lines = [line.split() for line in file]
        files = os.listdir(f"/proc/{pid}/fd")
        links = {os.readlink(f"/proc/{pid}/fd/{name}") for name in files}
    except OSError:  # it has ended, or has closed a file meanwhile
        return False
    listening = (words for words in lines if len(words) == 8 and words[3] == _LISTENS)
    return any(f"socket:[{words[6]}]" in links for words in listening if _SUFFIX in words[7])


def zygote(program: Path) -> int:
    """Return the one zygote of a launcher, once its spare waits for a request."""
    return pairs(program, 1)[0]


def spare(program: Path) -> int:
    """Return the process that will take the next request."""
    return pairs(program, 1)[1]


def pairs(program: Path, count: int) -> list[int]:
    """Return `count` zygotes, then their spares, once each spare waits for a request."""
    found: list[int] = []

    def all_wait() -> bool:
        # A zygote leads its session; its forks do not.
        try:
            found[:] = sorted(zygotes(program), key=lambda pid: os.getsid(pid) != pid)
        except ProcessLookupError:  # one of them has just ended
            return False
        # A zygote that is warming up has other forks and does not listen yet.
        return len(found) == 2 * count and all(map(_listens, found))

    until(all_wait, f"{count} zygotes with their spares", found=lambda: _describe(program))
    return found


def _describe(program: Path) -> str:
    """List all processes whose command line names a launcher, for the text of a failure."""
    every = psutil.process_iter(["pid", "ppid", "status", "cmdline"])
    mine = (each.info for each in every if str(program) in " ".join(each.info["cmdline"] or []))
    return "".join(f"\n{info}" for info in mine)


def end_zygotes(program: Path) -> None:
    """End all zygotes of a launcher, as at a shutdown, and wait until they have ended."""

    def ended() -> bool:
        pids = _titled(program)  # a `start` may just have made another one
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
                os.kill(pid, signal.SIGCONT)  # a test may have stopped it
        return not pids

    until(ended, "the zygotes to end")
