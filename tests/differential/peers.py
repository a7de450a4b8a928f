"""The Go shims of three Debian releases: this machine's own where it fits, else a package's."""

import os
import re
import subprocess
from dataclasses import dataclass
from typing import Final

from tests.support.host import ROOT

_CACHE: Final = "/var/cache/containerd-shim-pyrunc"
_BINARY: Final = "usr/bin/containerd-shim-runc-v2"
_RELEASES: Final = {"bookworm": "1.6.", "trixie": "1.7.", "sid": "2."}  # the oldest first
_LIMIT_S: Final = 600.0


class PeerMissing(Exception):
    """A shim to compare with could not be had; the text says which, and why."""


@dataclass(frozen=True, slots=True)
class Peer:
    release: str
    path: str
    version: str

    def __str__(self) -> str:
        return self.version


def find_peers() -> list[Peer]:
    """Return the peers, the oldest first; what is not there yet is downloaded once.

    Raises:
        PeerMissing: with the release and the reason.
    """
    return [_find(release, line) for release, line in _RELEASES.items()]


def _find(release: str, line: str) -> Peer:
    installed = f"/{_BINARY}"
    if _version(installed).startswith(line):
        return Peer(release, installed, _version(installed))
    folder = os.path.join(_CACHE, f"containerd-{release}")
    done = subprocess.run(
        [os.path.join(ROOT, "tools/debs.sh"), release, folder, "containerd"],
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_LIMIT_S,
    )
    path = os.path.join(folder, _BINARY)
    version = _version(path)
    if done.returncode or not version.startswith(line):
        raise PeerMissing(
            f"there is no containerd {line}x of Debian {release} to compare with: neither as"
            f" {installed} nor from tools/debs.sh (exit status {done.returncode}), version"
            f" {version or 'unknown'!r}\n{done.stdout}"
        )
    return Peer(release, path, version)


def _version(path: str) -> str:
    """Return a shim's version without the distribution's suffix, or "" if it does not run."""
    try:
        said = subprocess.run([path, "-v"], check=False, capture_output=True, text=True)
    except OSError:
        return ""
    found = re.search(r"Version: +([0-9.]+)", said.stdout)
    return found[1] if found else ""
