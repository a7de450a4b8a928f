"""docs/glossary.md and docs/design.md: every place in the code that they name exists."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAMED = re.compile(r"`([\w/]+\.(?:py|c|md|toml))(?::([\w.]+))?`")


def definitions(path: Path) -> set[str]:
    """Return the names a Python file defines: functions, classes, `Class.method`, variables."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        for name, inner in _named(node):
            found.add(name)
            found |= {f"{name}.{below}" for child in inner for below, _ in _named(child)}
    return found


def _named(node: ast.stmt) -> Iterator[tuple[str, list[ast.stmt]]]:
    match node:
        case ast.ClassDef():
            yield node.name, node.body
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            yield node.name, []
        case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
            yield name, []


@pytest.mark.parametrize("page", ["docs/design.md", "docs/glossary.md"])
def test_every_place_that_a_page_names_exists(page: str) -> None:
    """A place is written `package/module.py:Class.method`, below shimv2 or the root."""
    places = NAMED.findall(ROOT.joinpath(page).read_text(encoding="utf-8"))
    assert len(places) > 20
    missing = []
    for name, symbol in places:
        path = next((p for p in (ROOT / "shimv2" / name, ROOT / name) if p.exists()), None)
        if path is None or (symbol and symbol not in definitions(path)):
            missing.append(f"{name}:{symbol}")
    assert missing == []


def test_each_term_has_one_line_with_its_place() -> None:
    """The terms are in alphabetical order, so that readers find them."""
    page = ROOT.joinpath("docs/glossary.md").read_text(encoding="utf-8")
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| ")][1:]
    terms = [row[0].removeprefix("| ") for row in rows]
    assert terms == sorted(set(terms), key=str.lower)
    assert [term for term, _, place in rows if not NAMED.match(place)] == []
