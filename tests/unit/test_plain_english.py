"""Comments, docstrings and pages name things, not people: see CONTRIBUTING.md, Code."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
CODE: Final = ("shimv2", "ttrpc", "protos/generate.py", "bench", "tests")
PAGES: Final = (
    *("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "tests/README.md", "tests/vm/README.md"),
    *("docs/design.md", "docs/glossary.md", "docs/daemons.md", "docs/conformance.md"),
    *("docs/differences.md", "docs/protocol.md", "docs/performance.md", "docs/threat-model.md"),
    *("Makefile", "setup.py", "tests/rules.toml"),
    *sorted(
        str(page.relative_to(ROOT))
        for names in ("docs/adr/*.md", "shimv2/*/*.[ch]", "tools/*.sh")
        for page in ROOT.glob(names)
    ),
)
PEOPLE: Final = re.compile(
    r"\b(whoever|whom|nobody|somebody|anybody|told|said|anew|come what may)\b", re.IGNORECASE
)

IN_NAMES: Final = re.compile(
    r"(?:^|_)(whoever|whom|nobody|somebody|anybody|told|tells?|telling|said|says?|anew)(?:_|$)"
)


def python_files() -> Iterator[Path]:
    for name in CODE:
        path = ROOT / name
        yield from sorted(path.rglob("*.py")) if path.is_dir() else [path]


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the comments and docstrings of a Python file, with their first lines."""
    source = path.read_text(encoding="utf-8")
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        is_docstring = token.type == tokenize.STRING and token.string.startswith('"""')
        if token.type == tokenize.COMMENT or is_docstring:
            yield token.start[0], token.string


def test_texts_of_the_code_name_no_people() -> None:
    """A process, a client or the kernel does something: an indefinite pronoun hides which."""
    files = list(python_files())
    found = [
        f"{path.relative_to(ROOT)}:{line}: {match[0]}"
        for path in files
        for line, text in texts(path)
        for match in PEOPLE.finditer(text)
    ]

    assert len(files) > 400
    assert found == []


def test_pages_name_no_people() -> None:
    found = [
        f"{page}:{number}: {match[0]}"
        for page in PAGES
        for number, line in enumerate(ROOT.joinpath(page).read_text("utf-8").splitlines(), start=1)
        for match in PEOPLE.finditer(line)
    ]

    assert found == []


def test_names_of_the_code_name_no_people() -> None:
    """Functions and classes are named for what they do to what: `publish_exit`, not `tell_exit`."""
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {node.name}"
        for path in python_files()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        if IN_NAMES.search(node.name)
    ]

    assert found == []
