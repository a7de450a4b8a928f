"""Decides which outcomes are equal, which may differ, and which must not.

Our shim has to behave like the newest Go shim that answers.  If it does, an older one that behaves
otherwise is no difference of ours.  Every other difference needs a rule with the scenario, the
step, our outcome, and the row of docs/differences.md.
"""

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Final

NO_STEP: Final = "(no such step)"
_SILENT: Final = {"closed", "no reply", NO_STEP}  # outcomes that are no answer


class Kind(Enum):
    EQUAL = "equal"
    GO = "Go"  # a difference between Go shims: ours equals the newest that answers
    ALLOWED = "allowed"
    DIFFERENT = "DIFFERENT"


@dataclass(slots=True)
class Rule:
    """Allows one kind of difference.  `*` stands for any text, also in `ours`."""

    scenario: str
    step: str
    ours: str
    row: str
    tried: bool = field(default=False, compare=False)  # its scenario was run
    needed: bool = field(default=False, compare=False)

    def covers(self, scenario: str, step: str, ours: str) -> bool:
        return all(
            matches(pattern, text)
            for pattern, text in (
                (self.scenario, scenario),
                (self.step, step),
                (self.ours, ours),
            )
        )

    def __str__(self) -> str:
        return f"{self.scenario}, step {self.step!r}, ours {self.ours!r}: {self.row!r}"


@dataclass(frozen=True, slots=True)
class Judged:
    """One step with one peer."""

    step: str
    kind: Kind
    ours: str
    theirs: str
    row: str = ""


def judge(
    scenario: str,
    ours: Mapping[str, str],
    theirs: Sequence[Mapping[str, str]],
    rules: Sequence[Rule],
) -> list[list[Judged]]:
    """Compare a replay of ours with that of each peer, the oldest first; return the steps by
    peer."""
    for rule in rules:
        rule.tried = rule.tried or matches(rule.scenario, scenario)
    found: list[list[Judged]] = [[] for _ in theirs]
    steps = list(dict.fromkeys([*ours, *(step for steps in theirs for step in steps)]))
    for step in steps:
        our = ours.get(step, NO_STEP)
        answers = [steps.get(step, NO_STEP) for steps in theirs]
        reference = next((a for a in reversed(answers) if a not in _SILENT), answers[-1])
        row = "" if our == reference else _allowed(scenario, step, our, rules)
        for judged, answer in zip(found, answers, strict=True):
            if answer == our:
                kind = Kind.EQUAL
            elif our == reference:
                kind = Kind.GO
            else:
                kind = Kind.ALLOWED if row else Kind.DIFFERENT
            judged.append(Judged(step, kind, our, answer, row if kind is Kind.ALLOWED else ""))
    return found


def _allowed(scenario: str, step: str, ours: str, rules: Sequence[Rule]) -> str:
    for rule in rules:
        if rule.covers(scenario, step, ours):
            rule.needed = True
            return rule.row
    return ""


def matches(pattern: str, text: str) -> bool:
    parts = (re.escape(part) for part in pattern.split("*"))
    return re.fullmatch(".*".join(parts), text, re.DOTALL) is not None


def load_rules(path: Path) -> list[Rule]:
    """Read the rules.

    Raises:
        ValueError: a rule lacks a key, or has an unknown one.
    """
    rules = []
    for entry in tomllib.loads(path.read_text(encoding="utf-8"))["allow"]:
        if set(entry) != {"scenario", "step", "ours", "row"}:
            raise ValueError(f"{path.name}: a rule needs scenario, step, ours and row: {entry}")
        steps = [entry["step"]] if isinstance(entry["step"], str) else entry["step"]
        rules += [Rule(entry["scenario"], step, entry["ours"], entry["row"]) for step in steps]
    return rules


def rows(differences: str) -> set[str]:
    """Return the cases of the table in docs/differences.md."""
    cells = (line.split("|") for line in differences.splitlines() if line.startswith("| "))
    return {row[1].strip() for row in cells} - {"Case"}


def without_row(rules: Sequence[Rule], differences: str) -> list[Rule]:
    known = rows(differences)
    return [rule for rule in rules if rule.row not in known]


def idle(rules: Sequence[Rule], *, complete: bool) -> list[Rule]:
    """Return the rules whose scenario was run and that no difference needed.

    Rules for several scenarios are judged only in a `complete` run.
    """
    judged = [rule for rule in rules if rule.tried and (complete or "*" not in rule.scenario)]
    return [rule for rule in judged if not rule.needed]
