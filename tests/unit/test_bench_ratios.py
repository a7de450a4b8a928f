"""The statistics of the benches: medians, ratios, intervals, bars."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.measures import Bar
from bench.ratios import percentile, ratio, spread

SAMPLES = st.lists(st.floats(0.1, 1000.0), min_size=1, max_size=40)


def test_ratio_is_that_of_the_medians() -> None:
    """One outlier on either side does not change it."""
    assert ratio([1.0, 2.0, 900.0], [4.0, 800.0, 3.0]).value == 0.5


def test_equal_samples_leave_no_doubt() -> None:
    """Without any spread the interval is the ratio itself."""
    found = ratio([3.0] * 30, [2.0] * 30)

    assert (found.low, found.value, found.high) == (1.5, 1.5, 1.5)


def test_interval_narrows_with_more_pairs() -> None:
    """More of the same samples give a narrower interval."""
    ours, theirs = [1.0, 2.0, 3.0, 4.0, 5.0], [2.0, 2.5, 3.0, 3.5, 4.0]
    few, many = ratio(ours, theirs), ratio(ours * 20, theirs * 20)

    assert few.value == many.value
    assert many.high - many.low < few.high - few.low


def test_a_slow_moment_that_hits_both_of_a_pair_stays_together() -> None:
    """Pairs are resampled as pairs: the ratio is exact even if half of the run has half the
    speed."""
    found = ratio([1.0] * 15 + [2.0] * 15, [2.0] * 15 + [4.0] * 15)

    assert (found.low, found.high) == (0.5, 0.5)


@given(SAMPLES)
def test_interval_holds_the_ratio(ours: list[float]) -> None:
    """For any samples the ratio is within its interval."""
    found = ratio(ours, list(reversed(ours)))

    assert found.low <= found.value <= found.high


def test_same_samples_give_the_same_interval() -> None:
    """A report made twice from the same results does not change."""
    ours, theirs = [1.0, 5.0, 2.0, 8.0], [3.0, 1.0, 4.0, 1.0]

    assert ratio(ours, theirs) == ratio(ours, theirs)


def test_samples_that_are_no_pairs_are_refused() -> None:
    """A shim that failed half way must not be compared with complete runs."""
    with pytest.raises(ValueError, match="argument 2"):
        ratio([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="no pairs"):
        ratio([], [])


def test_nothing_against_nothing_is_even() -> None:
    """Zero is a valid figure: there may be no wake-ups on either side."""
    assert ratio([0.0], [0.0]).value == 1.0
    assert ratio([1.0], [0.0]).value == math.inf
    assert ratio([0.0], [9.0]).value == 0.0


def test_spread_is_about_the_samples_alone() -> None:
    """The interval of the median decides about a bar on our own figure."""
    assert spread([0.0, 0.0, 0.0]).high == 0.0
    assert spread([4.0, 6.0, 5.0]).value == 5.0


@pytest.mark.parametrize(("share", "wanted"), [(0.5, 2.0), (0.99, 4.0), (0.01, 1.0), (1.0, 4.0)])
def test_percentile_is_one_of_the_samples(share: float, wanted: float) -> None:
    """There is no interpolation between samples."""
    assert percentile([4.0, 1.0, 3.0, 2.0], share) == wanted


@pytest.mark.parametrize(
    ("at_least", "low", "high", "met", "broken"),
    [
        (False, 0.5, 0.9, True, False),
        (False, 0.5, 1.0, True, False),
        (False, 0.5, 1.1, False, False),
        (False, 1.1, 1.5, False, True),
        (True, 1.0, 2.0, True, False),
        (True, 0.9, 2.0, False, False),
        (True, 0.5, 0.9, False, True),
    ],
)
def test_bar_is_met_and_broken_by_the_whole_interval(
    at_least: bool, low: float, high: float, met: bool, broken: bool
) -> None:
    """If the interval contains the bound, a bar is neither met nor broken."""
    bar = Bar("start", "go", 1.0, at_least=at_least)

    assert (bar.is_met(low, high), bar.is_broken(low, high)) == (met, broken)
