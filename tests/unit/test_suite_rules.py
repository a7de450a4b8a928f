"""Rules for all files of the suite."""

import ast
import re
import tomllib
from pathlib import Path
from typing import Final

from tests.support.host import ROOT

_ROOT: Final = Path(ROOT)
_SUITE: Final = sorted(
    path for path in _ROOT.glob("tests/**/*.py") if path.name != Path(__file__).name
)
_CODE: Final = sorted(
    path for folder in ("shimv2", "ttrpc", "bench") for path in _ROOT.glob(f"{folder}/**/*.py")
)
# Citations of texts outside of the repository.  CVE numbers, "CRI 1.6" and UTF-8 are allowed.
_DANGLING: Final = re.compile(
    r"""\b(?:O|T|CLI|IO|EV|E)-\d+\b
      | \b(?:CLI|IO|EV|[Tt]ask[ -]API|[Dd]esign|[Oo]ptions|[Pp]rotos|[Ee]vents)\ §?\d+\.\d
      | \b[Dd]esign\ \d | \b[Pp]itfalls?\ \d | \b[Ff]aults?\ (?:rows?\ )?\d+[,:)]
      | §\ ?\d | "{3}\d\d[:,]\ | \(\d\.\d\)"{3}""",
    re.VERBOSE,
)


def _numbered(paths: list[Path]) -> list[tuple[str, str]]:
    return [
        (f"{path.relative_to(_ROOT)}:{number}", line)
        for path in paths
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
    ]


def test_no_text_cites_a_document_that_is_not_in_the_repository() -> None:
    """Rules are cited by their ids in tests/rules.toml."""
    found = [
        f"{place}: {line}" for place, line in _numbered(_SUITE + _CODE) if _DANGLING.search(line)
    ]

    assert found == []


def test_every_sleep_has_its_reason_on_its_line() -> None:
    """A test waits for a condition (`until`, `eventually`, `stays`); a sleep needs a reason.

    A sleep of no time only lets other tasks run.
    """
    found = [f"{path.relative_to(_ROOT)}:{line}" for path in _SUITE for line in _bare_sleeps(path)]

    assert found == []


def _bare_sleeps(path: Path) -> list[int]:
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    nodes = list(ast.walk(ast.parse(text)))
    # The coroutine of a sleep that is passed on, as a slow task, delays nothing itself.
    awaited: list[ast.AST] = [node.value for node in nodes if isinstance(node, ast.Await)]
    calls = [node for node in awaited if _is_call(node, "asyncio.sleep")]
    calls += [node for node in nodes if _is_call(node, "time.sleep")]
    return [
        call.lineno
        for call in calls
        if isinstance(call, ast.Call)
        and ast.unparse(call.args[0]) != "0"
        and not re.search(r"#(?! noqa: \S+$) ?\w", lines[call.lineno - 1])
    ]


def _is_call(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func) == name


def test_index_names_every_folder_helper_and_mark() -> None:
    """And none that does not exist."""
    text = (_ROOT / "tests" / "README.md").read_text(encoding="utf-8")
    rows = {
        heading: set(re.findall(r"^\| `([^`…]+)` \|", section, re.MULTILINE))
        for heading, _, section in (part.partition("\n") for part in text.split("\n## "))
    }
    tests = _ROOT / "tests"
    settings = tomllib.loads((_ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    folders = {str(path.relative_to(tests)) for path in _folders(tests)}
    depth_of_data = {name for name in folders if name.count("/") > 1}

    assert rows["Folders"] == folders - depth_of_data
    assert rows["Helpers"] == {
        path.stem for path in (tests / "support").glob("*.py") if path.stem != "__init__"
    }
    markers = settings["tool"]["pytest"]["ini_options"]["markers"]
    assert rows["Marks"] == {marker.partition(":")[0] for marker in markers}


def _folders(top: Path) -> list[Path]:
    """List the folders with files of the repository; others may have an interpreter's caches."""
    return [
        path
        for path in top.rglob("*")
        if path.is_dir() and path.name != "__pycache__" and any(map(_is_source, path.rglob("*")))
    ]


def _is_source(path: Path) -> bool:
    return path.is_file() and path.suffix != ".pyc"
