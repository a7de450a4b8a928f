"""The shims that are compared: ours as it is installed, Go shims of four releases, one in Rust."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from bench import measures
from shimv2.shimctl.reply import Generation
from shimv2.shimctl.testbed import zygotes
from shimv2.shimctl.testbed.releases import CACHE, GO_SHIM, ReleaseMissing, find_release, tool

ROOT: Final = Path(__file__).resolve().parent.parent
NAME: Final = "containerd-shim-pyrunc-v2"
_INSTALL_LIMIT_S: Final = 300.0
_VERSION_LIMIT_S: Final = 10.0
_ZYGOTE_LIMIT_S: Final = 10.0
_STEP_S: Final = 0.002
_PAIR: Final = 2  # a zygote and its spare

# Name of the peer -> the release of containerd that has it, and the generation of its protocol.
_RELEASES: Final = {
    measures.GO_2_1: ("2.1", Generation.V2_0),
    measures.GO_1_7: ("1.7", Generation.V1_7),
    measures.GO_1_6: ("1.6", Generation.V1_6),
}


@dataclass(frozen=True, slots=True)
class _Built:
    """A shim that no Debian release has, and how to build it in a folder of the cache."""

    script: str  # in tools/
    source: str
    folder: str
    packages: Sequence[str]  # the packages of the source to build
    program: str
    generation: Generation
    label: str


_BUILT: Final = {
    measures.GO_2_4: _Built(
        "go-tool.sh",
        "github.com/containerd/containerd/v2@v2.4.2",
        "go-shim-2.4.2",
        (f"cmd/{GO_SHIM}",),
        GO_SHIM,
        Generation.V2_3,
        "Go",
    ),
    measures.RUST: _Built(
        "cargo-tool.sh",
        "containerd-runc-shim@0.2.0",
        "rust-shim-0.2.0",
        (),
        "containerd-shim-runc-v2-rs",
        Generation.V2_0,
        "Rust",
    ),
}
PEERS: Final = (*_RELEASES, *_BUILT)


class NoPeer(Exception):
    """A shim to compare with is not available on this machine; the text has the reason."""


@dataclass(slots=True)
class Peer:
    """One shim binary, and the generation of daemon that uses it."""

    name: str
    label: str  # with the version that it prints
    path: str
    generation: Generation
    containerd: str = ""  # the folder of the daemon that comes with it
    env: Mapping[str, str] = field(default_factory=dict)  # variables that its daemon adds
    has_zygote: bool = True  # with a launcher: whether a zygote may still appear

    @property
    def launcher(self) -> Path | None:
        """Return the launcher, which uses a zygote; None if the shim has no launcher."""
        program = Path(os.path.realpath(self.path))
        return program if program.with_name(f"{program.name}.conf").exists() else None

    @property
    def interpreter(self) -> str:
        """Return the Python in our launcher's conf file; without a launcher, that of the bench."""
        if self.launcher is None:
            return sys.executable
        conf = self.launcher.with_name(f"{self.launcher.name}.conf")
        return conf.read_text(encoding="utf-8").splitlines()[0]

    def end_zygotes(self) -> None:
        """End the zygotes, so that the next `start` is like the first on a node."""
        if self.launcher:
            zygotes.end_zygotes(self.launcher)

    def settle(self) -> None:
        """Wait until the zygote has its spare.  From then on it does nothing until a `start`.

        If no zygote appears within the limit, later calls do not wait again.
        """
        end = time.monotonic() + _ZYGOTE_LIMIT_S
        while self.launcher and self.has_zygote and len(self.helpers()) < _PAIR:
            self.has_zygote = time.monotonic() < end
            time.sleep(_STEP_S)

    def helpers(self) -> list[int]:
        """Return the pids that all shims of this peer share: zygotes and spares."""
        return zygotes.zygotes(self.launcher) if self.launcher else []


def install_ours(prefix: Path, python: str = "") -> Peer:
    """Install the tree as `make install` does, into a folder of the bench.

    Raises:
        NoPeer: it cannot be installed, for example because the Python is too old.
    """
    chosen = [f"PYTHON={python}"] if python else []
    done = subprocess.run(
        ["make", "--no-print-directory", "install", f"PREFIX={prefix}", "DESTDIR=", *chosen],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        timeout=_INSTALL_LIMIT_S,
    )
    if done.returncode != 0:
        raise NoPeer(f"make install: {done.stdout}{done.stderr}")
    return given(measures.OURS, str(prefix / "bin" / NAME), Generation.V2_0, label="pyrunc")


def for_python(prefix: Path, wanted: str) -> Peer:
    """Install ours for another interpreter, named by path or version (downloaded if missing).

    Raises:
        NoPeer: there is no such interpreter, or ours cannot be installed for it.
    """
    python = find_python(wanted)
    version = _output([python, "-c", "import platform; print(platform.python_version())"]).strip()
    name = f"{measures.OURS}-{'.'.join(version.split('.')[:2])}"
    return replace(install_ours(prefix, python), name=name, label=f"Python {version}")


def find_python(wanted: str) -> str:
    """Return the path of an interpreter; `wanted` is its version or its path.

    Raises:
        NoPeer: it is not available.
    """
    try:
        return tool("python.sh", wanted).splitlines()[-1]
    except ReleaseMissing as error:
        raise NoPeer(str(error)) from None


def unshared(ours: Peer, folder: Path) -> Peer:
    """Return a variant of ours that shares no memory, with a launcher and a zygote of its own.

    Raises:
        NoPeer: ours has no launcher, so it shares no memory anyway.
    """
    launcher = ours.launcher
    if launcher is None:
        raise NoPeer(f"{ours.path} has no launcher: it shares no memory")
    folder.mkdir()
    copy = folder / NAME
    shutil.copy(launcher, copy)
    shutil.copy(launcher.with_name(f"{launcher.name}.conf"), copy.with_name(f"{NAME}.conf"))
    return replace(
        ours,
        name=measures.UNSHARED,
        label="shares no memory",
        path=str(copy),
        env={"PYRUNC_SHARE_MEMORY": "off"},
    )


def find_peer(name: str) -> Peer:
    """Find one of PEERS; a missing one is downloaded or built.

    Raises:
        NoPeer: it is not available; the text has the reason.
    """
    try:
        if name in _RELEASES:
            number, generation = _RELEASES[name]
            release = find_release(number)
            return given(name, release.shim, generation, containerd=release.binaries)
        if name in _BUILT:
            made = _BUILT[name]
            folder = os.path.join(CACHE, made.folder)
            tool(made.script, made.source, folder, *made.packages)
            path = os.path.join(folder, made.program)
            return given(name, path, made.generation, label=made.label)
    except ReleaseMissing as error:
        raise NoPeer(str(error)) from None
    raise NoPeer(f"there is no peer {name}, only {', '.join(PEERS)}")


def given(
    name: str, path: str, generation: Generation, *, label: str = "Go", containerd: str = ""
) -> Peer:
    """Return a peer for the shim at `path`, with the version that it prints.

    Raises:
        NoPeer: it does not run.
    """
    found = re.search(r"Version:\s*v?([\d.]+)", _output([path, "-v"]))
    version = found[1] if found else "?"
    return Peer(name, f"{label} {version}", path, generation, containerd)


def _output(command: Sequence[str]) -> str:
    """Return the output of a program.

    Raises:
        NoPeer: it does not run.
    """
    try:
        asked = subprocess.run(
            command, check=True, capture_output=True, text=True, timeout=_VERSION_LIMIT_S
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise NoPeer(f"{command[0]}: {error}") from None
    return asked.stdout
