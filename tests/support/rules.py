"""The rules of the contract that the suite proves: tests/rules.toml, read and checked.

A rule says in one sentence what a shim does.  Tests name the rules that they prove with
`@pytest.mark.rule("task.delete.4")`; docs/conformance.md shows the rules with their tests.
"""

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

RULES: Final = Path(__file__).parents[1] / "rules.toml"
RUNTIMES: Final = ("runc", "crun")
SOURCES: Final = ("containerd", "runc", "kernel", "OCI")
_SECTION: Final = re.compile(r"[a-z0-9]+(\.[a-z0-9]+)+")
_NOT_APPLICABLE: Final = "n/a: "


class BadRules(ValueError):
    """The file of rules is not valid; the text has the place."""


@dataclass(frozen=True, slots=True)
class Rule:
    id: str
    says: str
    source: str
    runtime: bool = True  # False: no OCI runtime is called, so there is one result
    not_applicable: Mapping[str, str] = field(default_factory=dict)  # runtime -> why

    @property
    def part(self) -> str:
        return self.id.partition(".")[0]


@dataclass(frozen=True, slots=True)
class Section:
    id: str
    title: str
    rules: tuple[Rule, ...]

    @property
    def part(self) -> str:
        return self.id.partition(".")[0]


@dataclass(frozen=True, slots=True)
class Rules:
    parts: Mapping[str, str]  # id -> title, in the order of the page
    sections: tuple[Section, ...]

    def __iter__(self) -> Iterator[Rule]:
        return (rule for section in self.sections for rule in section.rules)

    @property
    def ids(self) -> set[str]:
        return {rule.id for rule in self}


def load(path: Path = RULES) -> Rules:
    """Read a file of rules.

    Raises:
        BadRules: a field is missing, unknown or invalid; an id is in the wrong place or not unique.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        msg = f"{path.name}: {error}"
        raise BadRules(msg) from None
    _fields(path.name, table, {"parts": dict, "section": list}, {})
    for part, title in table["parts"].items():
        if not isinstance(title, str) or not title:
            msg = f"part {part!r} has no title"
            raise BadRules(msg)
    sections = tuple(map(_section, table["section"]))
    rules = Rules(table["parts"], sections)
    _check_sections(rules)
    return rules


def _section(table: Any) -> Section:
    where = f"section {table.get('id', table)!r}"
    _fields(where, table, {"id": str, "title": str, "rule": list}, {})
    id_ = table["id"]
    if not _SECTION.fullmatch(id_):
        msg = f"{where}: an id is `part.name`, in small letters"
        raise BadRules(msg)
    rules = tuple(_rule(id_, each) for each in table["rule"])
    for before, after in pairwise(rules):
        if _number(before) >= _number(after):
            msg = f"{after.id} stands after {before.id}: ids rise within their section"
            raise BadRules(msg)
    return Section(id_, table["title"], rules)


def _rule(section: str, table: Any) -> Rule:
    where = f"rule {table.get('id', table)!r}"
    optional = {"runtime": bool, **dict.fromkeys(RUNTIMES, str)}
    _fields(where, table, {"id": str, "says": str, "source": str}, optional)
    reasons = {name: table[name] for name in RUNTIMES if name in table}
    takes_part = table.get("runtime", True)
    problem = ""
    if not re.fullmatch(re.escape(section) + r"\.[1-9][0-9]*", table["id"]):
        problem = f"its id is not `{section}.N`"
    elif table["source"] not in SOURCES:
        problem = f"its source is none of {', '.join(SOURCES)}"
    elif "\n" in table["says"] or table["says"] != table["says"].strip():
        problem = "it says more than one line"
    elif not all(reason.startswith(_NOT_APPLICABLE) for reason in reasons.values()):
        problem = f"the value of a runtime is a reason: `{_NOT_APPLICABLE}why`"
    elif reasons and not takes_part:
        problem = "it calls no runtime, so it needs no reason for one"
    elif len(reasons) == len(RUNTIMES):
        problem = "it applies to no runtime"
    if problem:
        msg = f"{where}: {problem}"
        raise BadRules(msg)
    return Rule(
        table["id"],
        table["says"],
        table["source"],
        takes_part,
        {name: reason.removeprefix(_NOT_APPLICABLE) for name, reason in reasons.items()},
    )


def _check_sections(rules: Rules) -> None:
    order = list(rules.parts)
    seen: set[str] = set()
    last = 0
    for section in rules.sections:
        if section.part not in order:
            msg = f"section {section.id!r} is of no part"
            raise BadRules(msg)
        if section.id in seen:
            msg = f"section {section.id!r} is there twice"
            raise BadRules(msg)
        if order.index(section.part) < last:
            msg = f"section {section.id!r} stands among those of another part"
            raise BadRules(msg)
        seen.add(section.id)
        last = order.index(section.part)


def _fields(
    where: str, table: Any, required: Mapping[str, type], optional: Mapping[str, type]
) -> None:
    """Check that a table has exactly the required and optional fields, none of them empty."""
    if not isinstance(table, dict):
        msg = f"{where}: not a table"
        raise BadRules(msg)
    known = {**required, **optional}
    for name in required:
        if name not in table:
            msg = f"{where}: `{name}` is missing"
            raise BadRules(msg)
    for name, value in table.items():
        if name not in known:
            msg = f"{where}: `{name}` is not known"
            raise BadRules(msg)
        if not isinstance(value, known[name]) or value in ("", [], {}):
            msg = f"{where}: `{name}` is empty or of the wrong type"
            raise BadRules(msg)


def _number(rule: Rule) -> int:
    return int(rule.id.rpartition(".")[2])
