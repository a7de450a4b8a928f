"""tools/script.sh: the console scripts of a tree at any path."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from shimv2.shimctl.testbed.programs import run_by
from tests.support.host import ROOT

_TOOL: Final = os.path.join(ROOT, "tools", "script.sh")
_PLACES: Final = ["plain", "with a blank", "with 'quotes' too", "long" * 50]


@pytest.fixture(params=_PLACES)
def python(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An interpreter in a folder of that name."""
    folder = tmp_path / request.param
    folder.mkdir()
    link = folder / "python"
    link.symlink_to(sys.executable)
    return str(link)


def test_script_runs_with_its_interpreter_wherever_that_is(python: str, tmp_path: Path) -> None:
    """The kernel ends the path at a blank, and reads a limited part of the line."""
    script = tmp_path / "script"
    subprocess.run([_TOOL, str(script), "json.tool"], env={**os.environ, "PY": python}, check=True)

    done = subprocess.run([script], input=b"[1]", capture_output=True, check=True)

    assert done.stdout.split() == [b"[", b"1", b"]"]


def test_scripts_of_the_tests_run_too(python: str, tmp_path: Path) -> None:
    """The shim of the tests is such a script."""
    script = tmp_path / "script"
    script.write_text(f"{run_by(python)}\nimport sys\nprint(sys.argv[1:])\n")
    script.chmod(0o755)

    done = subprocess.run([script, "a b", "c"], capture_output=True, text=True, check=True)

    assert done.stdout == "['a b', 'c']\n"
