"""What is done to each shim to get the figures.

An experiment is run once a round, for all shims one right after the other in random order, so that
whatever slows the machine down slows all of them.  It returns samples by shim and measure.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.measures import Measure, Round, Samples
from bench.peers import Peer
from bench.place import Place


@dataclass(frozen=True, slots=True)
class Options:
    """How much of it; the defaults are those of a full run."""

    shims: Sequence[int] = (1, 5, 20)  # how many at a time, for memory
    execs: int = 20  # in each, before memory is measured again
    idle_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Experiment:
    name: str
    measures: Sequence[Measure]
    pairs: int  # of a full run
    run: Callable[[Place, Sequence[Peer], Options], Round]
    per_round: int = 1  # how many samples of each shim a round gives
    of_variants: bool = False  # it is about variants of ours, too

    def rounds(self, pairs: int | None) -> int:
        """Return how many rounds give `pairs` samples, or those of a full run."""
        return math.ceil((pairs or self.pairs) / self.per_round)


def one_by_one(
    sample: Callable[[Place, Peer], Samples],
) -> Callable[[Place, Sequence[Peer], Options], Round]:
    """Make a round of something that is done to one shim."""

    def run(place: Place, peers: Sequence[Peer], _options: Options) -> Round:
        return {peer.name: sample(place, peer) for peer in peers}

    return run
