"""The shims that are compared: ours as it is installed, the Go shims of three Debian releases."""

import os
import re
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench import measures
from shimv2.shimctl.reply import Generation
from tests.support import launched
from tests.support.releases import ReleaseMissing, find_release

ROOT: Final = Path(__file__).resolve().parent.parent
NAME: Final = "containerd-shim-pyrunc-v2"
_INSTALL_LIMIT_S: Final = 300.0
_VERSION_LIMIT_S: Final = 10.0
_ZYGOTE_LIMIT_S: Final = 10.0
_STEP_S: Final = 0.002
_PAIR: Final = 2  # a zygote and its spare

# Name of the peer: the release of containerd that has it, and how that containerd talks.
_RELEASES: Final = {
    measures.GO_2_1: ("2.1", Generation.V2_0),
    measures.GO_1_7: ("1.7", Generation.V1_7),
    measures.GO_1_6: ("1.6", Generation.V1_6),
}


class NoPeer(Exception):
    """A shim to compare with is not to be had here; the text says why."""


@dataclass(slots=True)
class Peer:
    """One shim binary, and the generation of daemon that uses it."""

    name: str
    label: str  # with its version, as it tells it
    path: str
    generation: Generation
    containerd: str = ""  # the folder of the daemon that comes with it
    leaves_zygote: bool = True  # as far as is known, if it has a launcher

    @property
    def launcher(self) -> Path | None:
        """Return the program whose zygote takes the work over; None when there is no such thing."""
        program = Path(os.path.realpath(self.path))
        return program if program.with_name(f"{program.name}.conf").exists() else None

    def end_zygotes(self) -> None:
        """Have the next `start` be the first on a node."""
        if self.launcher:
            launched.end_zygotes(self.launcher)

    def settle(self) -> None:
        """Wait until a zygote has its spare; from then on it does nothing of its own accord.

        One that does not come is waited for once: the figures will tell.
        """
        end = time.monotonic() + _ZYGOTE_LIMIT_S
        while self.launcher and self.leaves_zygote and len(self.helpers()) < _PAIR:
            self.leaves_zygote = time.monotonic() < end
            time.sleep(_STEP_S)

    def helpers(self) -> list[int]:
        """Return the processes that all shims of this kind share: zygotes and spares."""
        return launched.zygotes(self.launcher) if self.launcher else []


def install_ours(prefix: Path) -> Peer:
    """Install the tree as `make install` does, into a folder of our own."""
    done = subprocess.run(
        ["make", "--no-print-directory", "install", f"PREFIX={prefix}", "DESTDIR="],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        timeout=_INSTALL_LIMIT_S,
    )
    if done.returncode != 0:
        raise NoPeer(f"make install: {done.stdout}{done.stderr}")
    return given(measures.OURS, str(prefix / "bin" / NAME), Generation.V2_0, label="pyrunc")


def go_peer(name: str) -> Peer:
    """Find a Go shim, downloading its Debian package if need be.

    Raises:
        NoPeer: there is none.
    """
    number, generation = _RELEASES[name]
    try:
        release = find_release(number)
    except ReleaseMissing as error:
        raise NoPeer(str(error)) from None
    return given(name, release.shim, generation, containerd=release.binaries)


def given(
    name: str, path: str, generation: Generation, *, label: str = "Go", containerd: str = ""
) -> Peer:
    """Take a shim by its path; its version is asked for.

    Raises:
        NoPeer: it does not run.
    """
    try:
        asked = subprocess.run(
            [path, "-v"], check=True, capture_output=True, text=True, timeout=_VERSION_LIMIT_S
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise NoPeer(f"{path}: {error}") from None
    found = re.search(r"Version:\s*v?([\d.]+)", asked.stdout)
    version = found[1] if found else "?"
    return Peer(name, f"{label} {version}", path, generation, containerd)
