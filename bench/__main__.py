"""Command line of the benches; `make bench`, `bench-guard`, `density` and `performance` call it."""

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from bench import density, machine, page, report, suite
from bench.experiments import Options
from bench.measures import BARS, GO_1_6, GUARD, Bar
from bench.peers import PEERS, ROOT, NoPeer, Peer, find_peer, given
from bench.place import Place
from bench.results import Results
from bench.suite import show
from shimv2.shimctl.reply import Generation

_LAST: Final = ROOT / ".cache" / "bench" / "last.json"
_PYTHONS: Final = ("3.13", "3.14")  # the bars have memory figures for these too
_GUARD_OPTIONS: Final = Options(shims=(10,), execs=0, idle_s=5.0)
# Experiment or figure -> pairs, chosen so that the guard takes a minute and a half.
_GUARD_PAIRS: Final = {"start": 20, "delete": 6, "whole": 8, "stdout": 5, "pss_10": 10, "idle": 1}
_INTERRUPTED: Final = 130


def main() -> int:
    arguments = _parser().parse_args()
    try:
        status: int = arguments.main(arguments)
    except (NoPeer, suite.NoSuchFigure) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bench: interrupted; everything is removed", file=sys.stderr)
        return _INTERRUPTED
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    commands = parser.add_subparsers(required=True)

    run = commands.add_parser("run", help="compare our shim with others")
    run.add_argument("--ours", default="", metavar="PATH", help="our shim, installed already")
    run.add_argument("--only", default="", metavar="NAME,...", help="experiments or figures to run")
    run.add_argument("--pairs", type=int, help="how many samples of each shim")
    every = ",".join(PEERS)
    run.add_argument("--peers", metavar="NAME,...", help=f"default: those available of {every}")
    run.add_argument("--peer", action="append", default=[], metavar="NAME=PATH", help="one more")
    run.add_argument("--python", default="", metavar="VERSION", help="of our shim (or a path)")
    run.add_argument(
        "--pythons",
        metavar="VERSION,...",
        help=f"measure our memory with these too (default: those of {','.join(_PYTHONS)})",
    )
    run.add_argument("--shims", default="1,5,20", metavar="N,...", help="shims, for memory")
    run.add_argument("--execs", type=int, default=20, help="in each shim, for memory")
    run.add_argument("--idle", type=float, default=60.0, metavar="SECONDS")
    run.add_argument("--json", type=Path, default=_LAST)
    run.set_defaults(main=_run)

    guard = commands.add_parser("guard", help="fail if a mechanism is lost: for CI")
    guard.add_argument("--ours", default="", metavar="PATH", help="the same")
    guard.set_defaults(main=_guard)

    many = commands.add_parser("density", help="run many containers at a time")
    many.add_argument("count", type=int)
    many.add_argument("--shim", default="", metavar="PATH", help="the shim, instead of ours")
    many.set_defaults(main=_density)

    write = commands.add_parser("page", help="write docs/performance.md from a run's results")
    write.add_argument("target", type=Path)
    write.add_argument("--json", type=Path, default=_LAST)
    write.set_defaults(main=_page)
    return parser


def _run(arguments: argparse.Namespace) -> int:
    options = Options(
        shims=[int(number) for number in arguments.shims.split(",")],
        execs=arguments.execs,
        idle_s=arguments.idle,
    )
    left_out: list[str] = []
    others = _found(PEERS, arguments.peers, find_peer, left_out)
    for word in arguments.peer:
        name, _, path = word.partition("=")
        others.append(given(name, os.path.abspath(path), Generation.V2_0, label=name))
    names = {name for name in arguments.only.split(",") if name}
    wanted = suite.chosen(suite.experiments(others, options), names)
    with Place() as place:
        ours = _ours(place, arguments.ours, arguments.python)
        variants: list[Peer] = []
        if any(experiment.of_variants for experiment, _ in wanted):
            show("installing its variants")
            variants += _found(("",), None, lambda _: place.unshared(ours), left_out)
            variants += _found(_PYTHONS, arguments.pythons, place.for_python, left_out)
        for peer in others:
            place.admit(peer)
        peers = [ours, *variants, *others]
        results = _results(peers, BARS, left_out)

        def save() -> None:
            arguments.json.parent.mkdir(parents=True, exist_ok=True)
            arguments.json.write_text(results.to_json(), encoding="utf-8")

        suite.warm_up(place, peers)
        suite.run(place, peers, wanted, options, results, pairs=arguments.pairs or None, done=save)
    rows = list(results.rows())
    print(f"\n{report.table(rows)}\n\n{report.summary(rows)}; all samples: {arguments.json}")
    return 0


def _guard(arguments: argparse.Namespace) -> int:
    began = time.monotonic()
    options = _GUARD_OPTIONS
    with Place() as place:
        peers = [_ours(place, arguments.ours), find_peer(GO_1_6)]
        known = suite.experiments([], options)
        results = _results(peers, GUARD)
        suite.warm_up(place, peers)
        for name, pairs in _GUARD_PAIRS.items():
            wanted = suite.chosen(known, {name})
            suite.run(place, peers, wanted, options, results, pairs=pairs, done=lambda: None)
    rows = [row for row in results.rows() if row.bar is not None]
    broken = [row.measure.name for row in rows if row.is_broken]
    print(f"\n{report.table(rows)}\n")
    if broken:
        print(f"bench guard: certainly beyond the bound: {', '.join(broken)}")
        return 1
    if doubtful := [row.measure.name for row in rows if not row.is_met]:
        print(f"bench guard: beyond the bound, or noise: {', '.join(doubtful)}")
    print(
        f"bench guard: no figure is certainly beyond its bound ({time.monotonic() - began:.0f} s)"
    )
    return 0


def _density(arguments: argparse.Namespace) -> int:
    with Place() as place:
        if arguments.shim:
            path = os.path.abspath(arguments.shim)
            peer = given("shim", path, Generation.V2_0, label=os.path.basename(path))
        else:
            peer = place.ours()
        suite.warm_up(place, [peer])
        found = density.density(place, peer, arguments.count)
    print(f"\n{density.summary(peer, found)}")
    return 0 if found.is_good else 1


def _page(arguments: argparse.Namespace) -> int:
    results = Results.from_json(arguments.json.read_text(encoding="utf-8"))
    for path in page.write(results, arguments.target):
        print(f"performance: {path}")
    return 0


def _ours(place: Place, path: str, python: str = "") -> Peer:
    if not path:
        show("installing ours")
    return place.ours(path, python)


def _found(
    usual: Sequence[str],
    chosen: str | None,
    find: Callable[[str], Peer],
    left_out: list[str],
) -> list[Peer]:
    """Find the chosen peers, or those of the usual ones that are available on this machine.

    Raises:
        NoPeer: a chosen one is not available.
    """
    if chosen is not None:
        return [find(name) for name in chosen.split(",") if name]
    found = []
    for name in usual:
        try:
            found.append(find(name))
        except NoPeer as error:
            reason = str(error).strip().splitlines()[-1]
            left_out.append(f"{name}: {reason}" if name else reason)
            show(f"left out: {left_out[-1]}")
    return found


def _results(peers: Sequence[Peer], bars: Sequence[Bar], left_out: Sequence[str] = ()) -> Results:
    facts = machine.described(peers[0].interpreter)
    if left_out:
        facts["left out"] = "; ".join(left_out)
    return Results(facts, {peer.name: peer.label for peer in peers}, bars)


if __name__ == "__main__":
    with suppress(BrokenPipeError):
        sys.exit(main())
