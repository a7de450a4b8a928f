"""What sees writes to files."""

from pathlib import Path

import pytest

from tests.support.writes import Writes


def test_files_that_were_written_are_named_once(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.touch()
    other.touch()
    with Writes(one, other) as writes:
        assert writes.seen() == set()
        one.read_text()
        assert writes.seen() == set()
        one.write_text("x")
        assert writes.seen() == {"one"}
        assert writes.seen() == set()
        one.write_text("y")
        other.write_text("y")
        assert writes.seen() == {"one", "other"}


def test_file_that_is_not_there_is_reported(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nosuch"):
        Writes(tmp_path / "nosuch")
