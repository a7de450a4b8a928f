"""Which experiments there are, and running them in turns."""

import random
import sys
import time
from collections.abc import Callable, Collection, Sequence
from typing import Final

from bench.experiments import (
    Experiment,
    Options,
    calls,
    daemons,
    echoes,
    execs,
    lives,
    memory,
    streams,
)
from bench.measures import OURS, Measure, is_ours
from bench.peers import Peer
from bench.place import Place
from bench.results import Results

_ERASE: Final = "\r\x1b[K"  # the line on a terminal


class NoSuchFigure(Exception):
    """What was asked for is neither an experiment nor a figure of one."""


def experiments(peers: Sequence[Peer], options: Options) -> list[Experiment]:
    """List all, in the order of a full run."""
    return [
        *lives.EXPERIMENTS,
        *calls.EXPERIMENTS,
        *execs.EXPERIMENTS,
        *echoes.EXPERIMENTS,
        *streams.EXPERIMENTS,
        *memory.experiments(options),
        *(daemons.experiment(peer) for peer in peers if peer.containerd),
    ]


def chosen(
    known: Sequence[Experiment], names: Collection[str]
) -> list[tuple[Experiment, Sequence[Measure]]]:
    """Find what the names - of figures, or of experiments with all their figures - stand for.

    Raises:
        NoSuchFigure: one stands for nothing.
    """
    left = set(names)
    found: list[tuple[Experiment, Sequence[Measure]]] = []
    for experiment in known:
        measures = [
            measure
            for measure in experiment.measures
            if not names or experiment.name in names or measure.name in names
        ]
        left -= {experiment.name, *(measure.name for measure in experiment.measures)}
        if measures:
            found.append((experiment, measures))
    if left:
        words = {experiment.name for experiment in known}
        words |= {measure.name for experiment in known for measure in experiment.measures}
        raise NoSuchFigure(f"{', '.join(sorted(left))}: there are {', '.join(sorted(words))}")
    return found


def warm_up(place: Place, peers: Sequence[Peer]) -> None:
    """Live a life with each: what it needs is in memory then, and its zygote is there."""
    for peer in peers:
        lives.whole(place, peer, runtime="runc", name="")
        peer.settle()


def run(
    place: Place,
    peers: Sequence[Peer],
    wanted: Sequence[tuple[Experiment, Sequence[Measure]]],
    options: Options,
    results: Results,
    *,
    pairs: int | None,
    done: Callable[[], None],
) -> None:
    """Run experiments; `done` is called after each, with the results up to then."""
    for experiment, measures in wanted:
        began = time.monotonic()
        rounds = experiment.rounds(pairs)
        shims = [
            peer
            for peer in peers
            if peer.name == OURS or experiment.of_variants or not is_ours(peer.name)
        ]
        for number in range(rounds):
            show(f"{experiment.name}: {number + 1} of {rounds}", passing=True)
            random.shuffle(shims)  # none always follows the same one
            results.add(measures, experiment.run(place, shims, options))
        show(f"{experiment.name}: {time.monotonic() - began:.0f} s")
        done()


def show(text: str, *, passing: bool = False) -> None:
    """Tell how far it is; what passes is for a terminal only."""
    if sys.stderr.isatty():
        print(f"{_ERASE}{text}", end="" if passing else "\n", file=sys.stderr, flush=True)
    elif not passing:
        print(text, file=sys.stderr, flush=True)
