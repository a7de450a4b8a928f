"""containerd of three Debian releases: the installed one if its version fits, else a package."""

import functools
import os
import re
import subprocess
from dataclasses import dataclass
from typing import Final

# The source tree; the scripts in its tools/ download missing programs.
ROOT: Final = os.path.abspath(os.path.join(os.path.dirname(__file__), "../../.."))
CACHE: Final = "/var/cache/containerd-shim-pyrunc"
GO_SHIM: Final = "containerd-shim-runc-v2"
# Name of a release -> the Debian release that has it, and the beginning of its version.  Oldest
# first.
_RELEASES: Final = {
    "1.6": ("bookworm", "1.6."),
    "1.7": ("trixie", "1.7."),
    "2.1": ("sid", "2."),
}
RELEASES: Final = tuple(_RELEASES)
_LIMIT_S: Final = 1800.0  # for the build of a Go module or a Rust crate on a busy machine


class ReleaseMissing(Exception):
    """A program of another release is not available; the text has its name and the reason."""


@dataclass(frozen=True, slots=True)
class Release:
    name: str
    suite: str
    binaries: str  # the folder of containerd, ctr and the Go shim
    version: str

    @property
    def shim(self) -> str:
        """Return the path of the Go shim that comes with it."""
        return os.path.join(self.binaries, GO_SHIM)


@functools.cache
def find_release(name: str) -> Release:
    """Return one of RELEASES; a missing one is downloaded once.

    Raises:
        ReleaseMissing: with the release and the reason.
    """
    suite, line = _RELEASES[name]
    installed = Release(name, suite, "/usr/bin", _version("/usr/bin"))
    if installed.version.startswith(line):
        return installed
    folder = os.path.join(CACHE, f"containerd-{suite}")
    tool("debs.sh", suite, folder, "containerd")
    binaries = os.path.join(folder, "usr/bin")
    release = Release(name, suite, binaries, _version(binaries))
    if not release.version.startswith(line):
        raise ReleaseMissing(
            f"Debian {suite} has no containerd {line}x any more, but {release.version or 'none'}"
        )
    return release


def tool(script: str, *args: str) -> str:
    """Run a script of tools/ that downloads something, unless it did so before.

    Returns its output.

    Raises:
        ReleaseMissing: the script failed; the text is its output.
    """
    done = subprocess.run(
        [os.path.join(ROOT, "tools", script), *args],
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_LIMIT_S,
    )
    if done.returncode:
        raise ReleaseMissing(
            f"tools/{script} {' '.join(args)}: exit status {done.returncode}\n{done.stdout}"
        )
    return done.stdout


def _version(binaries: str) -> str:
    """Return the shim's version without the distribution's suffix, or "" if it does not run."""
    try:
        output = subprocess.run(
            [os.path.join(binaries, GO_SHIM), "-v"], check=False, capture_output=True, text=True
        )
    except OSError:
        return ""
    found = re.search(r"Version: +v?([0-9.]+)", output.stdout)
    return found[1] if found else ""
