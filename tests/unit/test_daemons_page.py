"""The tests run the commands of the pages."""

from pathlib import Path

import pytest

from tests.daemons.page import DAEMONS, box, boxes
from tests.support.host import ROOT


@pytest.mark.parametrize("page", [DAEMONS, "README.md"])
def test_every_box_that_has_a_name_is_used_by_a_test(page: str) -> None:
    """A box that no test reads would not be tested."""
    tests = [path.read_text() for path in Path(ROOT, "tests/daemons").rglob("*.py")]

    unused = [name for name in boxes(page) if not any(f'"{name}"' in text for text in tests)]

    assert unused == []


def test_every_box_for_daemons_has_a_name() -> None:
    """The page claims that all of them are tested."""
    lines = Path(ROOT, DAEMONS).read_text().splitlines()

    assert sum(line.startswith("```") for line in lines) == 2 * len(boxes(DAEMONS))


def test_what_is_not_printed_cannot_be_replaced(tmp_path: Path) -> None:
    """Otherwise a test could use the real path instead of its own."""
    page = tmp_path / "page.md"
    page.write_text("text\n\n```sh run\nctr run A\n```\n\n```\nno name\n```\n")

    assert box("run", page=str(page), instead={"A": "B"}) == "ctr run B\n"
    with pytest.raises(LookupError):
        box("run", page=str(page), instead={"/no/such/path": "/tmp"})


def test_name_stands_for_one_box(tmp_path: Path) -> None:
    """Otherwise one of the two would not be tested."""
    page = tmp_path / "page.md"
    page.write_text("```sh run\nctr\n```\n```toml run\nx = 1\n```\n")

    with pytest.raises(ValueError, match="same name"):
        boxes(str(page))
