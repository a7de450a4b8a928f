"""The output of the benches: the table, the JSON and the page."""

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from bench import page, plots, report
from bench.measures import BARS, GO_1_6, GO_2_1, GUARD, OURS, UNSHARED, Bar, Measure
from bench.results import Results

START = Measure("start", "`start`", "ms")
STDOUT = Measure("stdout", "stdout & more", "MiB/s", more_is_better=True)
WAKEUPS = Measure("wakeups", "wake-ups", "")
MEMORY = Measure("pss_used_20", "PSS, 20 shims", "KiB")


@pytest.fixture
def results() -> Results:
    bars = (
        Bar("start", GO_2_1, 0.7),
        Bar("stdout", GO_2_1, 1.3, at_least=True),
        Bar("wakeups", "", 0.0),
    )
    made = Results(
        {"kernel": "6.0"}, {OURS: "ours 1", GO_2_1: "Go 2.1.9", GO_1_6: "Go 1.6.20"}, bars
    )
    for _ in range(3):
        made.add(
            [START, STDOUT, WAKEUPS, MEMORY],
            {
                OURS: {
                    "start": [3.0],
                    "stdout": [1000.0],
                    "wakeups": [0.0],
                    "pss_used_20": [2000.0],
                    "left out": [1.0],
                },
                GO_2_1: {
                    "start": [6.0],
                    "stdout": [1000.0],
                    "wakeups": [60.0],
                    "pss_used_20": [5000.0],
                },
                GO_1_6: {"start": [6.0]},
            },
        )
    return made


def test_rows_compare_ours_with_each_peer_that_has_the_figure(results: Results) -> None:
    """A peer without a figure (of another daemon) is left out."""
    rows = [(row.measure.name, row.peer, row.ratio.value, row.is_met) for row in results.rows()]

    assert rows == [
        ("start", "Go 2.1.9", 0.5, True),
        ("start", "Go 1.6.20", 0.5, None),
        ("stdout", "Go 2.1.9", 1.0, False),
        ("wakeups", "Go 2.1.9", 0.0, None),
        ("wakeups", "", 0.0, True),
        ("pss_used_20", "Go 2.1.9", 0.4, None),
    ]


def test_variant_of_ours_has_rows_and_bars_of_its_own(results: Results) -> None:
    """A variant is compared with the peers, and is no peer itself."""
    results.peers = {**results.peers, UNSHARED: "shares no memory"}
    results.bars = [*results.bars, Bar("pss_used_20", GO_2_1, 1.0, ours=UNSHARED)]
    results.samples["pss_used_20"][UNSHARED] = [6000.0] * 3

    rows = [row for row in results.rows() if row.measure is MEMORY]

    assert [(row.variant, row.peer, row.ratio.value, row.is_met) for row in rows] == [
        ("", "Go 2.1.9", 0.4, None),
        ("shares no memory", "Go 2.1.9", 1.2, False),
    ]
    assert "PSS, 20 shims, shares no memory" in report.table(rows)
    assert report.summary(rows) == (
        "0 of 1 bars are met; missed: pss_used_20, shares no memory, against Go 2.1.9"
    )


def test_goal_is_shown_beside_the_bar() -> None:
    """The bar decides, not the goal."""
    bar = Bar("exec", GO_2_1, 1.0, goal=0.95)

    assert str(bar) == "≤ 1 (0.95)"
    assert bar.is_met(0.9, 0.99)


def test_table_shows_which_bars_are_met_and_which_missed(results: Results) -> None:
    """There is one line for each comparison, and each number has its unit."""
    lines = report.table(results.rows()).splitlines()

    assert len(lines) == 1 + 6
    assert lines[1].split() == [
        "`start`", "3", "3", "ms", "Go", "2.1.9", "6", "ms", "0.50", "0.50-0.50", "≤", "0.7", "met",
    ]  # fmt: skip
    assert lines[2].endswith("0.50-0.50         better")
    assert lines[3].endswith("≥ 1.3  MISSED")
    assert report.summary(list(results.rows())) == (
        "2 of 3 bars are met; missed: stdout against Go 2.1.9"
    )


def test_json_has_all_that_is_needed_to_print_the_report_again(results: Results) -> None:
    """The page can be written later, and on another machine."""
    again = Results.from_json(results.to_json())

    assert list(again.rows()) == list(results.rows())
    assert again.machine == results.machine
    assert again.samples == results.samples


@pytest.mark.parametrize(
    ("value", "wanted"),
    [(0.0, "0"), (0.01234, "0.0123"), (3.14159, "3.14"), (42.0, "42"), (1234.5, "1,234")],
)
def test_numbers_are_written_with_three_digits_that_count(value: float, wanted: str) -> None:
    """More digits would suggest a precision that no figure has."""
    assert report.figure(value) == wanted


def test_page_keeps_what_was_written_by_hand(results: Results, tmp_path: Path) -> None:
    """A second run replaces only the figures between the marks."""
    target = tmp_path / "performance.md"
    page.write(results, target)
    target.write_text(f"by hand, above\n{target.read_text()}by hand, below\n")
    first = target.read_text()

    written = page.write(results, target)

    assert target.read_text() == first
    assert first.startswith("by hand, above\n")
    assert first.endswith("by hand, below\n")
    assert "| `start` | 3 | 3 ms | Go 2.1.9 | 6 ms | 0.50 |" in first
    assert {path.name for path in written} == {"performance.md", "ratios.svg", "memory.svg"}
    for path in written[1:]:
        assert f"performance/{path.name}" in first


def test_page_without_the_marks_is_not_touched(results: Results, tmp_path: Path) -> None:
    """A hand-written text is never overwritten."""
    target = tmp_path / "performance.md"
    target.write_text("all by hand\n")

    with pytest.raises(ValueError, match="no lines"):
        page.write(results, target)

    assert target.read_text() == "all by hand\n"


def test_plots_are_well_formed_and_show_each_judged_ratio(results: Results) -> None:
    """Titles may have any character; a bar on our own figure is no ratio."""
    drawn = plots.plots(results, [20])
    texts = [
        element.text
        for element in ET.fromstring(drawn["ratios.svg"][1]).iter(
            "{http://www.w3.org/2000/svg}text"
        )
    ]

    assert "stdout & more / Go 2.1.9" in texts
    assert "start / Go 2.1.9" in texts
    assert not any("wake-ups" in str(text) for text in texts)
    assert ET.fromstring(drawn["memory.svg"][1]).tag.endswith("svg")


@pytest.mark.parametrize("bars", [BARS, GUARD])
def test_no_figure_has_two_bars_against_the_same_shim(bars: tuple[Bar, ...]) -> None:
    """Two bounds on one figure could contradict each other."""
    keys = [(bar.measure, bar.ours, bar.peer) for bar in bars]

    assert len(keys) == len(set(keys))
