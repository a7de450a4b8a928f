"""Two releases of Docker: their programs, and their configuration with a shim and a runtime."""

import functools
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from shimv2.shimctl.testbed.releases import CACHE, ReleaseMissing, tool
from tests.daemons.pairs import pairs
from tests.support.host import OTHER_SHIM, RUNTIME

PAIRS: Final = (*pairs("dockerd 20.10", quick=("runc",)), *pairs("dockerd 28"))
every_pair: Final = pytest.mark.parametrize("pair", PAIRS, indirect=True)
_WITH_RUNC: Final = [pair for pair in PAIRS if str(pair.id).endswith("+runc")]
every_release: Final = pytest.mark.parametrize("pair", _WITH_RUNC, indirect=True)
docker_20: Final = pytest.mark.parametrize("pair", _WITH_RUNC[:1], indirect=True)
docker_28: Final = pytest.mark.parametrize("pair", _WITH_RUNC[1:], indirect=True)
RUNC_RUNTIME: Final = "io.containerd.runc.v2"
# The beginning of the version of a release, and its release of containerd.
_RELEASES: Final = {"20.10": ("20.10.", "1.6"), "28": ("28.", "2.1")}
_PROGRAMS: Final = ("usr/sbin/dockerd", "usr/bin/docker", "usr/bin/docker-init")


@dataclass(frozen=True, slots=True)
class Engine:
    release: str
    path: str  # the folders of dockerd, docker and their other programs
    containerd: str  # its release, as shimv2.shimctl.testbed.releases names them


@functools.cache
def engine(release: str) -> Engine:
    """Return a release of docker: the installed one if its version fits, else an unpacked package.

    The package is not installed, because that would start a daemon, which changes the network.

    Raises:
        ReleaseMissing: with the release and the reason.
    """
    line, containerd = _RELEASES[release]
    path = "/usr/sbin:/usr/bin"
    if not _version(path).startswith(line):
        path = _unpacked(release)
    if not _version(path).startswith(line):
        raise ReleaseMissing(f"there is no docker {line}x, but {_version(path) or 'none'}")
    return Engine(release, path, containerd)


def _unpacked(release: str) -> str:
    if release == "20.10":
        folder = os.path.join(CACHE, "docker-bookworm")
        tool("patched.sh", "bookworm", folder, "docker.io", *_PROGRAMS)
        return folder
    folder = os.path.join(CACHE, "docker-28")  # its docker-init is a link to tini-static
    tool("debs.sh", "sid", folder, "docker.io", "docker-cli", "tini-static")
    return f"{folder}/usr/sbin:{folder}/usr/bin"


def daemon_json(release: str, runtime: str, folder: str) -> dict[str, object]:
    """Return a configuration in which containers get the shim under test and `runtime`.

    dockerd 20.10 knows only containerd's shim, so ours gets that name; a runtime is named by its
    path.  Newer releases use the shim's name, and the runtime is in the shim's options.
    """
    entry: dict[str, object]
    if release == "20.10":
        entry = {"path": runtime}
    elif OTHER_SHIM:
        entry = {"runtimeType": RUNC_RUNTIME, "options": {"BinaryName": runtime}}
    else:
        options = Path(folder, "options.toml")
        options.write_text(f'BinaryName = "{runtime}"\n', encoding="utf-8")
        entry = {"runtimeType": RUNTIME, "options": {"ConfigPath": str(options)}}
    return {"runtimes": {"under-test": entry}, "default-runtime": "under-test"}


def _version(path: str) -> str:
    program = shutil.which("dockerd", path=path)
    if program is None:
        return ""
    done = subprocess.run([program, "--version"], check=False, capture_output=True, text=True)
    found = re.search(r"version ([0-9.]+)", done.stdout)
    return found[1] if found else ""
