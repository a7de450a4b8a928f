"""Medians, their ratio, and its confidence interval.  Pure."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

_RESAMPLES: Final = 2000
_TAIL: Final = 0.025  # on each side: 95 % are between
_SEED: Final = 1  # equal samples give equal intervals


@dataclass(frozen=True, slots=True)
class Ratio:
    """A ratio of medians and the bounds of its 95 % interval."""

    value: float
    low: float
    high: float


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
    """Compare samples that were taken in pairs, right after each other.

    The interval is that of the percentile bootstrap over pairs.  Another load on the machine slows
    down both samples of a pair, and the bootstrap keeps pairs together.

    Raises:
        ValueError: there are no pairs.
    """
    pairs = list(zip(ours, theirs, strict=True))
    if not pairs:
        raise ValueError("no pairs to compare")
    rng = random.Random(_SEED)  # not used for security
    resampled = sorted(_of_medians(rng.choices(pairs, k=len(pairs))) for _ in range(_RESAMPLES))
    cut = int(_RESAMPLES * _TAIL)
    return Ratio(_of_medians(pairs), resampled[cut], resampled[-1 - cut])


def spread(samples: Sequence[float]) -> Ratio:
    """Return a median and its interval, by the same method."""
    return ratio(samples, [1.0] * len(samples))


def percentile(samples: Sequence[float], share: float) -> float:
    """Return the smallest sample that is not below `share` of all."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)]


def _of_medians(pairs: Sequence[tuple[float, float]]) -> float:
    ours = median(pair[0] for pair in pairs)
    theirs = median(pair[1] for pair in pairs)
    if theirs == 0:
        return 1.0 if ours == 0 else math.inf
    return ours / theirs
