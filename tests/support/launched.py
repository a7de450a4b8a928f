"""The shim as `make install` installs it: the launcher, and its conf file beside it."""

import atexit
import functools
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from shimv2.shimctl.testbed.zygotes import end_zygotes
from tests.support.boot import fds

_ROOT: Final = Path(__file__).resolve().parents[2]
RECLAIMS: Final = os.environ.get("SHIM_TEST_RECLAIM") == "1"
LAUNCHER: Final = _ROOT / "shimv2" / "_bin" / "launcher"
# Runs shimv2/cold_start.py of this tree, which need not be installed.  Warnings are errors.
_ENTRY: Final = """import sys
import warnings

warnings.simplefilter("error")
sys.path.insert(0, {root!r})
from shimv2.lean_imports import hide_unused

hide_unused()
{more}
import shimv2.cold_start
"""
_AT_EVERY_REST: Final = """from shimv2.pagesharing import reclaim

reclaim.reclaim_before_every_sleep()
"""

_shared: list[Path] = []


def install(path: Path, *, reclaims: bool = RECLAIMS) -> Path:
    """Install a launcher at `path`: another file has another key, and so another zygote.

    With `reclaims` its shims reclaim memory each time before the event loop sleeps.
    """
    shutil.copy(LAUNCHER, path)
    entry = path.with_name(f"{path.name}.py")
    more = _AT_EVERY_REST if reclaims else ""
    entry.write_text(_ENTRY.format(root=str(_ROOT), more=more))
    path.with_name(f"{path.name}.conf").write_text(_conf(str(entry)))
    return path


@functools.cache
def _code() -> list[str]:
    """List the files of the code, as an installation would."""
    argv = [sys.executable, "-m", "shimv2.zygote.conf", "", ""]
    env = {**os.environ, "PYTHONPATH": str(_ROOT)}
    done = subprocess.run(argv, env=env, capture_output=True, check=True)
    return done.stdout.decode().splitlines()[2:]


def _conf(entry: str) -> str:
    """Return the text of the conf file."""
    return "".join(f"{line}\n" for line in (sys.executable, entry, *_code()))


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


def socket_of(zygote: int) -> Path:
    """Return where a zygote listens."""
    mine = {to[len("socket:[") : -1] for to in fds(zygote).values() if to.startswith("socket:[")}
    rows = (row.split() for row in Path("/proc/net/unix").read_text().splitlines()[1:])
    (path,) = (row[7] for row in rows if row[6] in mine and len(row) > 7)
    return Path(path)
