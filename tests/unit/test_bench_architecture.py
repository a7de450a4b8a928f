"""Which modules of the bench and of the testbed may import which."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
TESTBED: Final = "shimv2.shimctl.testbed"


def modules(package: str) -> dict[str, Path]:
    """Return the files of a package by dotted name."""
    found = {}
    for path in ROOT.joinpath(*package.split(".")).rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(part for part in parts if part != "__init__")] = path
    return found


def imported(path: Path) -> Iterator[str]:
    """Yield the full names a file imports; of `from a import b`, both a and a.b."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def strangers(package: str, allowed: tuple[str, ...]) -> list[str]:
    """List imports from this tree that are not allowed."""
    own = ("shimv2", "ttrpc", "protos", "tests", "bench")

    def fits(other: str) -> bool:
        # `from shimv2 import values` names shimv2, which has no code, as well.
        pairs = ((f"{other}.", f"{each}.") for each in allowed)
        return any(one.startswith(two) or two.startswith(one) for one, two in pairs)

    return [
        f"{name} imports {other}"
        for name, path in modules(package).items()
        for other in imported(path)
        if other.split(".")[0] in own and not fits(other)
    ]


def test_bench_imports_only_the_loop_of_the_shim() -> None:
    """It measures the installed shim; of the shim itself only the loop is imported and measured."""
    allowed = ("bench", "ttrpc", "protos", "shimv2.values", "shimv2.shimctl", "shimv2.aio.loop")

    assert strangers("bench", allowed) == []


def test_testbed_knows_neither_tests_nor_bench() -> None:
    """Both use it, and others could."""
    assert modules(TESTBED)
    assert strangers(TESTBED, (TESTBED,)) == []


def test_only_tests_and_bench_use_the_testbed() -> None:
    """It is not installed with the shim."""
    users = [
        name
        for name, path in modules("shimv2").items()
        if not name.startswith(TESTBED)
        and any(other.startswith(TESTBED) for other in imported(path))
    ]
    assert users == []


def test_no_import_in_the_bench_leads_back() -> None:
    """Each module can be read with only those below it, also under `if TYPE_CHECKING`."""
    known = modules("bench")
    needs = {
        name: {other for other in imported(path) if other in known} - {name, "bench"}
        for name, path in known.items()
    }
    order = list(TopologicalSorter(needs).static_order())

    assert set(order) == set(known)
