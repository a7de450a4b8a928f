"""Strict mode: in CI a test that skips itself is a failure."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.outcome import allowed_skips

TESTS = Path(__file__).parents[1]
SKIPPING = """
import pytest

def test_skips():
    pytest.skip("no such hardware")

def test_may_skip():
    pytest.skip("no such kernel")

@pytest.mark.xfail(reason="known", strict=True)
def test_expected_to_fail():
    assert False
"""
ALLOWED = """
[[skip]]
test = "tests/test_it.py::test_may_*"
fact = "the kernel here has no such part"
"""


def run_pytest(folder: Path, *, strict: bool) -> "subprocess.CompletedProcess[str]":
    """Run tests that skip, with a copy of our conftest, in a process of its own."""
    tests = folder / "tests"
    shutil.copytree(TESTS / "support", tests / "support")
    shutil.copy(TESTS / "conftest.py", tests)
    (tests / "allowed_skips.toml").write_text(ALLOWED)
    (tests / "test_it.py").write_text(SKIPPING)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_it.py"]
    env = {
        **os.environ,
        "SHIM_TEST_STRICT": "1" if strict else "",
        "PYTHONPATH": str(folder),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }
    return subprocess.run(
        command, check=False, cwd=folder, env=env, capture_output=True, text=True, timeout=60
    )


def test_skip_is_a_failure_in_strict_mode_unless_it_is_listed(tmp_path: Path) -> None:
    """The failure has the reason of the skip; an expected failure is no skip."""
    done = run_pytest(tmp_path, strict=True)

    assert done.returncode == 1
    assert "a skip that allowed_skips.toml does not allow: Skipped: no such hardware" in done.stdout
    assert "no such kernel" not in done.stdout
    assert "1 failed, 1 skipped, 1 xfailed" in done.stdout


def test_skip_is_a_skip_otherwise(tmp_path: Path) -> None:
    """Without strict mode a skip is no failure."""
    done = run_pytest(tmp_path, strict=False)

    assert done.returncode == 0
    assert "2 skipped, 1 xfailed" in done.stdout


@pytest.mark.parametrize("entry", ['test = "a"', 'test = "a"\nfact = ""', 'fact = "b"'])
def test_allowed_skip_without_its_fact_is_refused(tmp_path: Path, entry: str) -> None:
    """No entry without a reason."""
    path = tmp_path / "allowed_skips.toml"
    path.write_text(f"[[skip]]\n{entry}\n")

    with pytest.raises(ValueError, match="needs `test` and `fact`"):
        allowed_skips(path)


def test_list_in_the_tree_is_well_formed() -> None:
    """An invalid list would only be noticed when a test skips."""
    assert isinstance(allowed_skips(TESTS / "allowed_skips.toml"), list)
