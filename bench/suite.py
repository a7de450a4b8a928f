"""Lists the experiments, and runs them with all shims in turn."""

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

_ERASE: Final = "\r\x1b[K"  # erases the current line of a terminal


class NoSuchFigure(Exception):
    """A name is neither that of an experiment nor that of a figure."""


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
    """Find the figures with these names; the name of an experiment stands for all its figures.

    Raises:
        NoSuchFigure: a name is unknown.
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
    """Run a container with each peer, to fill the page cache and to start its zygote."""
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
            random.shuffle(shims)  # so that no shim always follows the same other one
            results.add(measures, experiment.run(place, shims, options))
        show(f"{experiment.name}: {time.monotonic() - began:.0f} s")
        done()


def show(text: str, *, passing: bool = False) -> None:
    """Print the progress; a `passing` line is shown on a terminal only, and overwritten."""
    if sys.stderr.isatty():
        print(f"{_ERASE}{text}", end="" if passing else "\n", file=sys.stderr, flush=True)
    elif not passing:
        print(text, file=sys.stderr, flush=True)
