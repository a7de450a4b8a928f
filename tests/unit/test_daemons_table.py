"""The table of daemons and runtimes, from the outcomes of tests."""

import pytest

from tests.daemons.pairs import Pair
from tests.daemons.table import Cell, tables


def cell(scenario: str, runtime: str, outcome: str, reason: str = "") -> Cell:
    return Cell("containerd 2.1", runtime, scenario, outcome, reason)


def report(when: str, outcome: str, longrepr: object = None) -> pytest.TestReport:
    given = {"when": when, "outcome": outcome, "longrepr": longrepr}
    return pytest.TestReport("t", ("t", 0, "t"), {}, **given)  # type: ignore[arg-type] # one dict


def test_table_has_a_row_for_each_scenario_and_a_column_for_each_runtime() -> None:
    """A test that did not run is no pass; of several parameters the worst counts."""
    found = [
        cell("exec", "runc", "pass"),
        cell("exec", "runc", "FAIL", "it broke"),
        cell("exec", "crun-sid", "pass"),
        cell("attach", "runc", "pass"),
    ]

    assert tables(found, {"runc": "runc 1.1.5", "crun": "crun 1.8.1"}) == [
        "| containerd 2.1 | runc 1.1.5 | crun 1.8.1 | runc-sid | crun-sid |",
        "| -------------- | ---------- | ---------- | -------- | -------- |",
        "| attach         | pass       | -          | -        | -        |",
        "| exec           | FAIL       | -          | -        | pass     |",
        "",
        f"* crun 1.8.1: not run: {Pair('containerd 2.1', 'crun').unfit}",
        "* exec, runc 1.1.5: FAIL: it broke",
    ]


@pytest.mark.parametrize(
    ("phases", "outcome"),
    [
        ([("setup", "passed"), ("call", "passed"), ("teardown", "passed")], "pass"),
        ([("setup", "passed"), ("call", "passed"), ("teardown", "failed")], "FAIL"),
        ([("setup", "passed"), ("call", "failed"), ("teardown", "passed")], "FAIL"),
        ([("setup", "failed"), ("teardown", "passed")], "FAIL"),
        ([("setup", "skipped"), ("teardown", "passed")], "skipped"),
    ],
)
def test_cell_passes_only_if_all_phases_do(phases: list[tuple[str, str]], outcome: str) -> None:
    """A failure of a fixture at the end counts, and a test that never ran is no pass."""
    made = cell("exec", "runc", "-")
    for when, ended in phases:
        made.add(report(when, ended, ("file", 1, "why") if ended == "skipped" else "why"))

    assert made.outcome == outcome
    assert made.reason == ("" if outcome == "pass" else "why")
