"""docs/conformance.md: each rule of the contract, and whether the suite proves it.

    python -m tests.support.conformance PAGE FOLDER...

makes the page from the results (tests/support/results.py) in the folders.  The exit status is 1 if
a rule is not proven: no test names it, a test that names it failed, or did not run everywhere.
"""

import os
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.support.results import Result, Run
from tests.support.rules import RUNTIMES, Rule, Rules, load

PASS: Final = "pass"
FAIL: Final = "**FAIL**"
NOT_RUN: Final = "**not run**"
HOLE: Final = "**HOLE**"
NOT_APPLICABLE: Final = "n/a"
_BAD: Final = (FAIL, NOT_RUN, HOLE)
_HEAD: Final = """# Conformance

What a containerd shim has to do, rule by rule, and the tests that prove it for this shim.  Made by
`make conformance` from `tests/rules.toml` and the results of the suite: do not edit.  If a rule
needs no OCI runtime, it has one result, and the other column has a dot.
"""


@dataclass(frozen=True, slots=True)
class Line:
    """A rule, its outcomes, and the tests that name it."""

    rule: Rule
    outcomes: tuple[str, ...]  # one for each runtime, or one for both
    tests: tuple[str, ...]

    @property
    def proven(self) -> bool:
        return not any(outcome in _BAD for outcome in self.outcomes)

    @property
    def kind(self) -> str:
        """Return the outcome that counts in the totals: the worst one."""
        return next((bad for bad in (FAIL, HOLE, NOT_RUN) if bad in self.outcomes), PASS)


def judge(rule: Rule, results: Sequence[Result]) -> Line:
    """Return what the results of its tests prove of a rule."""
    naming = [result for result in results if rule.id in result.rules]
    tests = tuple(sorted({result.test for result in naming}))
    if not naming:
        return Line(rule, tuple(HOLE for _ in range(len(RUNTIMES) if rule.runtime else 1)), ())
    if not rule.runtime:
        return Line(rule, (_outcome(naming),), tests)
    return Line(rule, tuple(_of_runtime(rule, name, naming) for name in RUNTIMES), tests)


def _of_runtime(rule: Rule, runtime: str, naming: Iterable[Result]) -> str:
    if runtime in rule.not_applicable:
        return NOT_APPLICABLE
    # A test that calls no runtime proves nothing for one; but if it fails, the rule is broken.
    mine = [r for r in naming if r.runtime == runtime or (not r.runtime and r.outcome == "failed")]
    return _outcome(mine)


def _outcome(results: Iterable[Result]) -> str:
    outcomes = {result.outcome for result in results}
    if "failed" in outcomes:
        return FAIL
    return PASS if "passed" in outcomes else NOT_RUN


def page(rules: Rules, runs: Sequence[Run]) -> tuple[str, bool]:
    """Return the text of the page, and whether every rule is proven."""
    results = [result for run in runs for result in run.results]
    lines = {rule.id: judge(rule, results) for rule in rules}
    parts = [_HEAD, _totals(rules, lines), _machines(runs)]
    part = ""
    for section in rules.sections:
        if section.part != part:
            part = section.part
            parts.append(f"## {rules.parts[part]}\n")
        rows = [lines[rule.id] for rule in section.rules]
        parts.append(f"### {section.title}\n\n{_table(rows)}")
    return "\n".join(parts), all(line.proven for line in lines.values())


def _totals(rules: Rules, lines: Mapping[str, Line]) -> str:
    rows = ["| | Rules | Proven | Holes | Not run | Failures |", "|---|--:|--:|--:|--:|--:|"]
    total: Counter[str] = Counter()
    for part, title in rules.parts.items():
        kinds = Counter(line.kind for line in lines.values() if line.rule.part == part)
        if kinds:
            rows.append(_total(f"[{title}](#{_anchor(title)})", kinds))
        total += kinds
    return "\n".join([*rows, _total("**together**", total)]) + "\n"


def _total(title: str, kinds: Counter[str]) -> str:
    counts = [kinds.total(), *(kinds[kind] for kind in (PASS, HOLE, NOT_RUN, FAIL))]
    return f"| {title} | {' | '.join(map(str, counts))} |"


def _machines(runs: Sequence[Run]) -> str:
    machines = sorted({run.machine for run in runs})
    return "Run with:\n\n" + "".join(f"* {machine}\n" for machine in machines)


def _table(lines: Iterable[Line]) -> str:
    rows = [f"| Rule | | Source | {' | '.join(RUNTIMES)} | Tests |", "|---|---|---|---|---|---|"]
    reasons = []
    for line in lines:
        outcomes = line.outcomes if line.rule.runtime else (line.outcomes[0], "·")
        tests = "<br>".join(map(_link, line.tests)) or "none"
        cells = [f"`{line.rule.id}`", _cell(line.rule.says), line.rule.source, *outcomes, tests]
        rows.append(f"| {' | '.join(cells)} |")
        for runtime, why in line.rule.not_applicable.items():
            reasons.append(f"`{line.rule.id}` does not apply to {runtime}: {why}.  ")
    return (
        "\n".join(rows) + "\n" + "".join(f"\n{reason}" for reason in reasons) + "\n" * bool(reasons)
    )


def _link(test: str) -> str:
    path, _, name = test.rpartition("::")
    return f"[{name.removeprefix('test_')}](../{path})"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _anchor(title: str) -> str:
    kept = "".join(c for c in title.lower() if c.isalnum() or c in " -")
    return kept.replace(" ", "-")


def main(args: Sequence[str]) -> int:
    target, *folders = args
    runs = [Run.read(path) for folder in folders for path in sorted(Path(folder).glob("*.json"))]
    text, proven = page(load(), runs)
    unfinished = Path(f"{target}.new")
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, target)
    for row in text.splitlines():
        if any(bad in row for bad in _BAD):
            sys.stdout.write(f"{row}\n")
    return 0 if proven else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
