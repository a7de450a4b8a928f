"""The shim as `make install` leaves it: the launcher, and beside it a file with its interpreter."""

import atexit
import contextlib
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Final

import psutil

from tests.support.boot import arguments, fds
from tests.support.until import until

_ROOT: Final = Path(__file__).resolve().parents[2]
RECLAIMS: Final = os.environ.get("SHIM_TEST_RECLAIM") == "1"
LAUNCHER: Final = _ROOT / "shimv2" / "_bin" / "launcher"
# As shimv2/cold_start.py, of this tree: it may be installed nowhere.  A warning is an error in it.
_ENTRY: Final = """import sys
import warnings

warnings.simplefilter("error")
sys.path.insert(0, {root!r})
{more}
from shimv2.cli import launched

launched(sys.argv[1], sys.argv[2:])
"""
_AT_EVERY_REST: Final = """from shimv2.pagesharing import memory

memory._REST_S = 0.0
memory._WORTH_TURNS = 2  # to give up memory is one turn of the loop
"""
_TITLE: Final = "containerd-shim-pyrunc-zygote"

_shared: list[Path] = []


def install(path: Path, *, reclaims: bool = RECLAIMS) -> Path:
    """Put a launcher of its own at `path`: another file is another key, and so another zygote.

    Its shims give up memory whenever they rest if they are to, which costs more than it gains.
    """
    shutil.copy(LAUNCHER, path)
    entry = path.with_name(f"{path.name}.py")
    more = _AT_EVERY_REST if reclaims else ""
    entry.write_text(_ENTRY.format(root=str(_ROOT), more=more))
    path.with_name(f"{path.name}.conf").write_text(f"{sys.executable}\n{entry}\n")
    return path


def shared() -> Path:
    """Return the launcher that all tests of this process share, with one zygote; ended at exit."""
    if not _shared:
        folder = Path(tempfile.mkdtemp(prefix="shim", dir="/tmp"))
        _shared.append(install(folder / "launcher"))
        atexit.register(_forget, folder)
    return _shared[0]


def _forget(folder: Path) -> None:
    end_zygotes(_shared[0])
    shutil.rmtree(folder)


def sockets_folder() -> Path:
    """Return where this user's zygotes listen."""
    if os.geteuid() == 0:
        return Path("/run/containerd-shim-pyrunc/0")
    return Path(os.environ["XDG_RUNTIME_DIR"], "containerd-shim-pyrunc")


def socket_of(zygote: int) -> Path:
    """Return where a zygote listens."""
    mine = {to[len("socket:[") : -1] for to in fds(zygote).values() if to.startswith("socket:[")}
    rows = (row.split() for row in Path("/proc/net/unix").read_text().splitlines()[1:])
    (path,) = (row[7] for row in rows if row[6] in mine and len(row) > 7)
    return Path(path)


def zygotes(program: Path) -> list[int]:
    """List the zygotes left by a launcher, and their spares; not who helps one to warm up."""
    pids = _titled(program)
    return [pid for pid in pids if _parent(pid) not in pids]


def _titled(program: Path) -> set[int]:
    pids = (int(name) for name in os.listdir("/proc") if name.isdecimal())
    return {pid for pid in pids if arguments(pid) == [_TITLE, str(program)]}


def _parent(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[1])
    except OSError:
        return 0


def zygote(program: Path) -> int:
    """Return the one zygote of a launcher, once its spare waits for a request."""
    return _pair(program)[0]


def spare(program: Path) -> int:
    """Return the process that will take the next request."""
    return _pair(program)[1]


def _pair(program: Path) -> list[int]:
    found: list[int] = []

    def both() -> bool:
        # A zygote leads its session; what it forks does not.
        try:
            found[:] = sorted(zygotes(program), key=lambda pid: os.getsid(pid) != pid)
        except ProcessLookupError:  # the one between the two, just now
            return False
        return len(found) == 2

    until(both, "a zygote with its spare", found=lambda: _told(program))
    return found


def _told(program: Path) -> str:
    """List all processes that have to do with a launcher, as text for a failure."""
    every = psutil.process_iter(["pid", "ppid", "status", "cmdline"])
    mine = (each.info for each in every if str(program) in " ".join(each.info["cmdline"] or []))
    return "".join(f"\n{info}" for info in mine)


def end_zygotes(program: Path) -> None:
    """Have them all end, as at a shutdown, and wait until they have."""

    def ended() -> bool:
        pids = _titled(program)  # another one may just have been left behind
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
                os.kill(pid, signal.SIGCONT)  # a test may have stopped it
        return not pids

    until(ended, "the zygotes to be gone")
