"""The exit status of make test-pythons, and the lowest versions that it uses."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pythons.__main__ import Row, has_failed, table
from tests.pythons.environment import TREE, oldest

PASSED = Row("3.13.5", "unit", passed=2, seconds=1.4)
MISSING = Row("3.14t", "", missing="there is none")


@pytest.mark.parametrize(
    ("rows", "all_wanted", "failed"),
    [
        ([PASSED], True, False),
        ([PASSED, Row("3.14.0", "unit", passed=1, failed=1)], False, True),
        ([PASSED, MISSING], False, False),  # not named in PYTHONS
        ([PASSED, MISSING], True, True),
        ([MISSING], False, True),  # no test was run at all
        ([], False, True),
    ],
)
def test_run_fails_unless_all_that_was_asked_for_passed(
    rows: list[Row], all_wanted: bool, failed: bool
) -> None:
    assert has_failed(rows, all_wanted=all_wanted) is failed


def test_table_shows_what_is_missing() -> None:
    lines = table([PASSED, MISSING]).split("\n")

    assert lines[-2].split() == ["3.13.5", "unit", "2", "0", "0", "1"]
    assert lines[-1].split() == ["3.14t", "missing:", "there", "is", "none"]


def test_lowest_protobuf_depends_on_the_release() -> None:
    """As in pyproject.toml."""
    assert oldest("protobuf", "3.11.2") == "4.25"
    assert oldest("protobuf", "3.14.0rc1") == "5.27"
    with pytest.raises(ValueError, match="no nothing"):
        oldest("nothing", "3.11.2")


def tool(*args: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    command = [os.path.join(TREE, "tools/python.sh"), *args]
    env = {**os.environ, **variables}
    return subprocess.run(command, check=False, capture_output=True, text=True, env=env)


def test_interpreter_is_found_by_its_path() -> None:
    done = tool(sys.executable)

    assert (done.returncode, done.stdout) == (0, f"{sys.executable}\n")


def test_interpreter_is_searched_on_path_and_in_a_pyenv(tmp_path: Path) -> None:
    """An interpreter of another version is skipped; without any the reason is reported."""
    wrong = tmp_path / "bin" / "python3.99"
    wrong.parent.mkdir()
    wrong.write_text("#!/bin/sh\necho 3.98\n")
    right = tmp_path / "pyenv/versions/3.99.1/bin/python3.99"
    right.parent.mkdir(parents=True)
    right.write_text("#!/bin/sh\necho 3.99\n")
    wrong.chmod(0o755)
    variables = {"PATH": f"{wrong.parent}:{os.environ['PATH']}", "PYENV_ROOT": f"{tmp_path}/pyenv"}

    none = tool("3.99", **variables)
    right.chmod(0o755)
    found = tool("3.99", **variables)

    assert none.returncode == 3
    assert "no CPython 3.99 among the packages of Debian" in none.stderr
    assert (found.returncode, found.stdout) == (0, f"{right}\n")
