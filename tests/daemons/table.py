"""The outcome of a run as tables: one for each daemon, a row for each scenario, a column for each
runtime.

A scenario is a test with a parameter `pair`, and has its name.  Its other parameters are combined.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

import pytest
from _pytest.terminal import TerminalReporter

from tests.daemons.pairs import Pair
from tests.daemons.runtimes import RUNTIMES

_PASS: Final = "pass"
_NOT_RUN: Final = "-"
_KEY: Final = "pair"


@dataclass(slots=True)
class Cell:
    """The outcome of one scenario with one pair, over all other parameters and phases."""

    daemon: str
    runtime: str
    scenario: str
    outcome: str = _NOT_RUN
    reason: str = ""

    def add(self, report: pytest.TestReport) -> None:
        """Add the outcome of another phase; a failure and the first reason are kept."""
        if report.failed:
            self.outcome, self.reason = "FAIL", self.reason or _last_line(report)
        elif report.skipped and self.outcome != "FAIL":
            self.outcome, self.reason = "skipped", _last_line(report)
        elif report.when == "call" and self.outcome == _NOT_RUN:
            self.outcome = _PASS


@dataclass(slots=True, eq=False)  # pytest keeps its plugins in sets
class Recorder:
    """A pytest plugin: collects the outcomes, prints them at the end and writes them to
    `folder`."""

    folder: Path
    titles: dict[str, str] = field(default_factory=dict)  # runtime -> with its version
    _cells: dict[str, Cell] = field(default_factory=dict)  # by the test's id

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for item in session.items:
            if not isinstance(item, pytest.Function) or not hasattr(item, "callspec"):
                continue
            pair = item.callspec.params.get(_KEY)
            if isinstance(pair, Pair):
                name = item.originalname.removeprefix("test_").replace("_", " ")
                self._cells[item.nodeid] = Cell(pair.daemon, pair.runtime, name)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if (cell := self._cells.get(report.nodeid)) is not None:
            cell.add(report)

    def pytest_terminal_summary(self, terminalreporter: TerminalReporter) -> None:
        if all(cell.outcome == _NOT_RUN for cell in self._cells.values()):
            return
        lines = tables(self._cells.values(), self.titles)
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "table.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
        found = json.dumps([asdict(cell) for cell in self._cells.values()], indent=1)
        (self.folder / "results.json").write_text(found + "\n", encoding="utf-8")
        terminalreporter.section("daemons and runtimes")
        for line in lines:
            terminalreporter.write_line(line)


def tables(cells: Iterable[Cell], titles: Mapping[str, str]) -> list[str]:
    """Return the tables in Markdown, with the reason below each for every cell that is no pass."""
    lines: list[str] = []
    by_daemon: dict[str, list[Cell]] = {}
    for cell in cells:
        by_daemon.setdefault(cell.daemon, []).append(cell)
    for daemon, found in sorted(by_daemon.items()):
        lines += [*_table(daemon, found, titles), ""]
    return lines[:-1]


def _table(daemon: str, cells: Sequence[Cell], titles: Mapping[str, str]) -> list[str]:
    together: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        together.setdefault((cell.scenario, cell.runtime), []).append(cell)
    names = [titles.get(runtime, runtime) for runtime in RUNTIMES]
    rows = [[daemon, *names]]
    for scenario in sorted({cell.scenario for cell in cells}):
        outcomes = [_outcome(together.get((scenario, runtime), ())) for runtime in RUNTIMES]
        rows.append([scenario, *outcomes])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    rows.insert(1, ["-" * width for width in widths])
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    unfit = [(runtime, Pair(daemon, runtime).unfit) for runtime in RUNTIMES]
    notes = [f"* {titles.get(runtime, runtime)}: not run: {why}" for runtime, why in unfit if why]
    notes += sorted(
        {
            f"* {cell.scenario}, {titles.get(cell.runtime, cell.runtime)}: {cell.outcome}:"
            f" {cell.reason}"
            for cell in cells
            if cell.reason
        }
    )
    return [*lines, *([""] if notes else []), *notes]


def _outcome(cells: Sequence[Cell]) -> str:
    """Return the worst outcome over the parameters of a scenario."""
    outcomes = {cell.outcome for cell in cells}
    return next((one for one in ("FAIL", "skipped", _PASS) if one in outcomes), _NOT_RUN)


def _last_line(report: pytest.TestReport) -> str:
    """Return one line: the text of the exception, or the reason of a skip."""
    if isinstance(report.longrepr, tuple):
        return str(report.longrepr[2])
    crash = getattr(report.longrepr, "reprcrash", None)
    text = crash.message if crash else str(report.longrepr)
    return (text.strip().splitlines() or [""])[0]
