"""Command line of the benches; `make bench`, `bench-guard`, `density` and `performance` call it."""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from bench import density, machine, page, report, suite
from bench.experiments import Options
from bench.measures import BARS, GO_1_6, GO_1_7, GO_2_1, GUARD, Bar
from bench.peers import ROOT, NoPeer, Peer, given, go_peer
from bench.place import Place
from bench.results import Results
from shimv2.shimctl.reply import Generation

_LAST: Final = ROOT / ".cache" / "bench" / "last.json"
_PEERS: Final = (GO_2_1, GO_1_7, GO_1_6)
_GUARD_OPTIONS: Final = Options(shims=(10,), execs=0, idle_s=5.0)
# A minute and a half for what has to be seen: experiment or figure, pairs.
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
    run.add_argument("--ours", default="", metavar="PATH", help="do not install ours: it is there")
    run.add_argument("--only", default="", metavar="NAME,...", help="experiments or figures")
    run.add_argument("--pairs", type=int, help="how many samples of each shim")
    run.add_argument("--peers", default=",".join(_PEERS), metavar="NAME,...")
    run.add_argument("--peer", action="append", default=[], metavar="NAME=PATH", help="any other")
    run.add_argument("--shims", default="1,20", metavar="N,...", help="how many, for memory")
    run.add_argument("--execs", type=int, default=20, help="in each, before memory is measured")
    run.add_argument("--idle", type=float, default=60.0, metavar="SECONDS")
    run.add_argument("--json", type=Path, default=_LAST)
    run.set_defaults(main=_run)

    guard = commands.add_parser("guard", help="fail if a mechanism is lost: for CI")
    guard.add_argument("--ours", default="", metavar="PATH", help="the same")
    guard.set_defaults(main=_guard)

    many = commands.add_parser("density", help="many containers at a time")
    many.add_argument("count", type=int)
    many.add_argument("--shim", default="", metavar="PATH", help="another shim than ours")
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
    others = [go_peer(name) for name in arguments.peers.split(",") if name]
    for word in arguments.peer:
        name, _, path = word.partition("=")
        others.append(given(name, os.path.abspath(path), Generation.V2_0, label=name))
    names = {name for name in arguments.only.split(",") if name}
    with Place() as place:
        peers = _with_ours(place, arguments.ours, others)
        wanted = suite.chosen(suite.experiments(others, options), names)
        results = _results(peers, BARS)

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
        peers = _with_ours(place, arguments.ours, [go_peer(GO_1_6)])
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
        print(f"bench guard: beyond any doubt worse than it has to be: {', '.join(broken)}")
        return 1
    if doubtful := [row.measure.name for row in rows if not row.is_met]:
        print(f"bench guard: worse than it has to be, or noise: {', '.join(doubtful)}")
    print(f"bench guard: nothing is lost for certain ({time.monotonic() - began:.0f} s)")
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
    print(f"\n{density.told(peer, found)}")
    return 0 if found.is_good else 1


def _page(arguments: argparse.Namespace) -> int:
    results = Results.from_json(arguments.json.read_text(encoding="utf-8"))
    for path in page.write(results, arguments.target):
        print(f"performance: {path}")
    return 0


def _with_ours(place: Place, path: str, others: Sequence[Peer]) -> list[Peer]:
    if not path:
        suite.show("installing ours")
    ours = place.ours(path)
    for peer in others:
        place.admit(peer)
    return [ours, *others]


def _results(peers: Sequence[Peer], bars: Sequence[Bar]) -> Results:
    return Results(machine.described(), {peer.name: peer.label for peer in peers}, bars)


if __name__ == "__main__":
    with suppress(BrokenPipeError):
        sys.exit(main())
