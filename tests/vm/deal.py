"""Which machine runs which tests: shares of about the same length, by what was measured before.

durations.toml holds the seconds of each file in a machine.  It need not be true to the second: it
is data about speed only, and a file that is not in it counts as the mean of the others.
"""

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import fmean
from typing import Final

MEASURED: Final = Path(__file__).with_name("durations.toml")


def deal(tests: Iterable[str], durations_s: Mapping[str, float], machines: int) -> list[list[str]]:
    """Deal out `tests`, the longest first, each to the machine that has least; none gets nothing.

    Every test is in exactly one share, whatever their order.
    """
    known = [durations_s[test] for test in tests if test in durations_s]
    mean = fmean(known) if known else 1.0
    shares: list[tuple[float, list[str]]] = [(0.0, []) for _ in range(machines)]
    for test in sorted(tests, key=lambda test: (-durations_s.get(test, mean), test)):
        least = min(range(machines), key=lambda number: shares[number][0])
        load, share = shares[least]
        shares[least] = (load + durations_s.get(test, mean), [*share, test])
    return [sorted(share) for _, share in shares if share]


def read(paths: Iterable[Path]) -> dict[str, float]:
    """Read what was measured; of a file that is in several, the last."""
    found: dict[str, float] = {}
    for path in paths:
        found |= tomllib.loads(path.read_text(encoding="utf-8"))
    return found


def write(path: Path, durations_s: Mapping[str, float]) -> None:
    lines = [f'"{test}" = {took:.1f}\n' for test, took in sorted(durations_s.items())]
    path.write_text("".join(lines), encoding="utf-8")
