"""Divides the tests among the machines, in shares of about the same duration.

durations.toml holds the seconds of each file in a machine.  The values need not be exact.  A file
that is missing there counts as the mean of the others.
"""

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import fmean
from typing import Final

MEASURED: Final = Path(__file__).with_name("durations.toml")


def deal(tests: Iterable[str], durations_s: Mapping[str, float], machines: int) -> list[list[str]]:
    """Assign `tests`, the longest first, each to the machine with the least; no machine gets none.

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
    """Read durations; for a file that is in several, the last one counts."""
    found: dict[str, float] = {}
    for path in paths:
        found |= tomllib.loads(path.read_text(encoding="utf-8"))
    return found


def write(path: Path, durations_s: Mapping[str, float]) -> None:
    lines = [f'"{test}" = {took:.1f}\n' for test, took in sorted(durations_s.items())]
    path.write_text("".join(lines), encoding="utf-8")
