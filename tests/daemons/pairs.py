"""Lists the pairs of daemons and runtimes to test, and those that cannot work together.

A test has its pair as the parameter `pair`, which is also shown in the table at the end of a run:

    @pytest.mark.parametrize("pair", pairs("containerd 1.7"), indirect=True)
"""

from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Final

import pytest
from _pytest.mark import ParameterSet

from tests.daemons.runtimes import INSTALLED, RUNTIMES

_OLD_CRUN: Final = "crun 1.8 refuses a container of newer daemons: unknown version specified"
# Those whose specs Debian 12's crun accepts.
_OLD_DAEMONS: Final = ("containerd 1.6", "CRI 1.6", "CRI-O", "dockerd 20.10", "nerdctl 1.6")


@dataclass(frozen=True, slots=True)
class Pair:
    daemon: str  # its kind and release, as "containerd 1.6", "CRI 2.1", "dockerd 28"
    runtime: str  # one of RUNTIMES

    def __str__(self) -> str:
        return f"{self.daemon}+{self.runtime}".replace(" ", "-")

    @property
    def release(self) -> str:
        return self.daemon.partition(" ")[2]

    @property
    def unfit(self) -> str:
        """Return why the two cannot work together, or "" if they can."""
        return _OLD_CRUN if self.runtime == "crun" and self.daemon not in _OLD_DAEMONS else ""


def pairs(
    daemon: str, *, quick: Container[str] = (), runtimes: Sequence[str] = RUNTIMES
) -> list[ParameterSet]:
    """Return the pairs of a daemon with all runtimes that work; all but `quick` are marked
    `matrix`."""
    every = [Pair(daemon, runtime) for runtime in runtimes]
    return [_param(pair, pair.runtime in quick) for pair in every if not pair.unfit]


def unfit_pairs(*daemons: str) -> list[ParameterSet]:
    """Return the pairs that cannot work, for a test that proves it; they are in the matrix."""
    every = [Pair(daemon, runtime) for daemon in daemons for runtime in RUNTIMES]
    return [_param(pair, quick=False) for pair in every if pair.unfit]


def _param(pair: Pair, quick: bool) -> ParameterSet:
    return pytest.param(pair, id=str(pair), marks=() if quick else (pytest.mark.matrix,))


every_containerd = pytest.mark.parametrize(
    "pair",
    [
        *pairs("containerd 1.6", quick=INSTALLED),
        *pairs("containerd 1.7"),
        *pairs("containerd 2.1"),
    ],
    indirect=True,
)
