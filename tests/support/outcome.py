"""Tells fixtures whether their test failed, and reads which skips are allowed."""

import tomllib
from pathlib import Path
from typing import Final

import pytest

FAILED: Final = pytest.StashKey[bool]()
"""Set on a test's item once one of its phases failed: its leftovers are then no failure."""


def allowed_skips(path: Path) -> list[str]:
    """Return the patterns of tests that may be skipped in strict mode.

    Raises:
        ValueError: an entry does not name the fact about the machine that forces the skip.
    """
    entries = tomllib.loads(path.read_text(encoding="utf-8")).get("skip", [])
    for entry in entries:
        if set(entry) != {"test", "fact"} or not entry["fact"]:
            msg = f"{path.name}: an entry needs `test` and `fact`: {entry}"
            raise ValueError(msg)
    return [entry["test"] for entry in entries]
