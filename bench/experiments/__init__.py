"""The experiments, which produce the figures.

In each round an experiment runs for all shims, right after each other and in random order.  So
another load on the machine slows down all of them.  It returns samples by shim and measure.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.measures import Measure, Round, Samples
from bench.peers import Peer
from bench.place import Place


@dataclass(frozen=True, slots=True)
class Options:
    """The sizes of the experiments; the defaults are those of a full run."""

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
    of_variants: bool = False  # it measures the variants of ours too

    def rounds(self, pairs: int | None) -> int:
        """Return how many rounds give `pairs` samples, or those of a full run."""
        return math.ceil((pairs or self.pairs) / self.per_round)


def one_by_one(
    sample: Callable[[Place, Peer], Samples],
) -> Callable[[Place, Sequence[Peer], Options], Round]:
    """Make a round of a function that measures one shim."""

    def run(place: Place, peers: Sequence[Peer], _options: Options) -> Round:
        return {peer.name: sample(place, peer) for peer in peers}

    return run
