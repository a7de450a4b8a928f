"""The experiments that a name selects, and the figures of the bars."""

import pytest

from bench import suite
from bench.__main__ import _GUARD_OPTIONS, _GUARD_PAIRS
from bench.experiments import Options
from bench.measures import BARS, GUARD

KNOWN = suite.experiments([], Options())
OF_GUARD = suite.experiments([], _GUARD_OPTIONS)


def test_no_name_stands_for_all() -> None:
    """`make bench` without arguments runs all experiments."""
    assert [experiment for experiment, _ in suite.chosen(KNOWN, ())] == KNOWN


def test_experiment_selects_all_its_figures_and_a_figure_only_itself() -> None:
    """`--only delete` makes the container that it needs, and reports only the `delete`."""
    [(state, both), (steps, one)] = sorted(
        suite.chosen(KNOWN, {"state", "delete"}), key=lambda pair: pair[0].name
    )

    assert (state.name, [measure.name for measure in both]) == ("state", ["state_p50", "state_p99"])
    assert (steps.name, [measure.name for measure in one]) == ("steps", ["delete"])


def test_unknown_name_is_reported_with_those_there_are() -> None:
    """A typing error must not lead to a run that measures nothing."""
    with pytest.raises(suite.NoSuchFigure, match=r"strat: there are .*start"):
        suite.chosen(KNOWN, {"strat", "delete"})


def test_every_bar_is_about_a_figure_of_its_run() -> None:
    """A bar on a renamed figure would never be judged again."""
    names = {measure.name for experiment in KNOWN for measure in experiment.measures}
    of_guard = {
        measure.name
        for _, measures in suite.chosen(OF_GUARD, set(_GUARD_PAIRS))
        for measure in measures
    }

    assert {bar.measure for bar in BARS} <= names
    assert {bar.measure for bar in GUARD} <= of_guard


def test_names_of_figures_are_unique() -> None:
    """The names are the keys of the samples."""
    names = [measure.name for experiment in KNOWN for measure in experiment.measures]

    assert len(names) == len(set(names))


@pytest.mark.parametrize(("pairs", "rounds"), [(None, 2), (1, 1), (20, 1), (21, 2)])
def test_pairs_are_turned_into_rounds(pairs: int | None, rounds: int) -> None:
    """A round with twenty shims gives twenty samples."""
    [(memory, _)] = suite.chosen(KNOWN, {"pss_20"})

    assert memory.rounds(pairs) == rounds
