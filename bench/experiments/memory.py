"""The memory and the wake-ups of an idle shim."""

import contextlib
import math
import time
from collections.abc import Sequence
from functools import partial
from typing import Final

from bench import proc
from bench.experiments import Experiment, Options
from bench.experiments.execs import steps
from bench.measures import Measure, Round, Samples
from bench.peers import Peer
from bench.place import Place
from bench.running import Running
from shimv2.values.model import Stdio

_ONE_ROUND: Final = 1 << 30  # samples of a round: one count over a minute is enough
_FEWEST: Final = 5  # samples in a round, if the shim is alone
_ACKNOWLEDGE_S: Final = 3.0  # until the last events are acknowledged
_SETTLE_S: Final = 1.0  # until a Go runtime has released the memory of its start


def memory(place: Place, peers: Sequence[Peer], options: Options, *, count: int) -> Round:
    """Measure `count` running shims with a container each: fresh, and after execs in each."""
    return {peer.name: _memory(place, peer, peers, count, options.execs) for peer in peers}


def _memory(
    place: Place, peer: Peer, peers: Sequence[Peer], count: int, execs: int
) -> dict[str, list[float]]:
    samples: dict[str, list[float]] = {}
    _end_all_but(place, peer, peers)
    for _ in range(_groups(count)):
        for name, values in _group(place, peer, count, execs).items():
            samples.setdefault(name, []).extend(values)
    return samples


def _groups(count: int) -> int:
    """Return how often one round measures `count` shims."""
    return math.ceil(_FEWEST / count)


def _end_all_but(place: Place, peer: Peer, peers: Sequence[Peer]) -> None:
    """End other peers' zygotes, whose interpreter shares its pages; start that of `peer`."""
    others = [other for other in peers if other is not peer and other.helpers()]
    for other in others:
        other.end_zygotes()
    if peer.launcher and not peer.helpers():
        with place.container(peer) as shim:
            shim.up()
        peer.settle()


def _group(place: Place, peer: Peer, count: int, execs: int) -> Samples:
    with contextlib.ExitStack() as undo:
        shims = []
        for _ in range(count):
            shim = undo.enter_context(place.container(peer))
            shim.up()
            shims.append(shim)
        fresh = _measured(peer, shims, f"_{count}")
        if not execs:
            return fresh
        for shim in shims:
            for number in range(execs):
                for step in steps(shim, f"e{number}", Stdio()):
                    step()
        used = _measured(peer, shims, f"_used_{count}")
    return {**fresh, **used}


def _measured(peer: Peer, shims: Sequence[Running], suffix: str) -> Samples:
    """Measure all shims; the memory of their zygote is divided among them."""
    time.sleep(_SETTLE_S)
    peer.settle()
    found = [proc.memory(shim.pid) for shim in shims]
    helpers = [proc.memory(pid) for pid in peer.helpers()]
    share = {
        kind: sum(getattr(helper, kind) for helper in helpers) / len(shims)
        for kind in ("pss", "uss")
    }
    return {
        f"rss{suffix}": [each.rss for each in found],
        f"pss{suffix}": [each.pss + share["pss"] for each in found],
        f"uss{suffix}": [each.uss + share["uss"] for each in found],
    }


def idle(place: Place, peers: Sequence[Peer], options: Options) -> Round:
    """Count the wake-ups of shims with an idle container, of all shims at the same time."""
    with contextlib.ExitStack() as undo:
        shims = {}
        for peer in peers:
            shims[peer.name] = undo.enter_context(place.container(peer))
            shims[peer.name].up()
        time.sleep(_ACKNOWLEDGE_S)
        before = {name: proc.wakeups(shim.pid) for name, shim in shims.items()}
        time.sleep(options.idle_s)
        after = {name: proc.wakeups(shim.pid) for name, shim in shims.items()}
    return {name: {"wakeups": [float(after[name] - before[name])]} for name in shims}


def measures(options: Options, count: int) -> Sequence[Measure]:
    """List the measures of a run with `count` shims."""
    of = f"{count} shim{'s' if count > 1 else ''}"
    return [
        Measure(f"{kind}{suffix}_{count}", f"{kind.upper()}, {of}, {when}", "KiB")
        for suffix, when in (("", "fresh"), ("_used", f"after {options.execs} execs each"))
        for kind in ("pss", "rss", "uss")
    ]


def experiments(options: Options) -> Sequence[Experiment]:
    return (
        *(
            Experiment(
                "memory",
                measures(options, count),
                30,
                partial(memory, count=count),
                per_round=count * _groups(count),
                of_variants=True,
            )
            for count in options.shims
        ),
        Experiment(
            "idle",
            (Measure("wakeups", f"wake-ups of an idle shim in {options.idle_s:g} s", ""),),
            1,
            idle,
            per_round=_ONE_ROUND,
        ),
    )
