"""From markers to the page: the records of a run, and the page made from them."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.conformance import FAIL, HOLE, NOT_APPLICABLE, NOT_RUN, PASS, judge, main, page
from tests.support.results import LEFT_OUT, Result, Run
from tests.support.rules import Rule, load

TESTS = Path(__file__).parents[1]
RULES = """
[parts]
task = "Tasks"

[[section]]
id = "task.delete"
title = "Delete"

[[section.rule]]
id = "task.delete.1"
says = "It goes."
source = "OCI"

[[section.rule]]
id = "task.delete.2"
says = "It goes | once."
source = "containerd"
runtime = false

[[section.rule]]
id = "task.delete.3"
says = "It stays."
source = "runc"
crun = "n/a: nothing stays there"
"""
MARKED = """
import pytest

@pytest.fixture
def host():
    yield

@pytest.mark.rule("task.delete.1", "task.delete.2")
def test_goes(host):
    pass

@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.rule("task.delete.2")
def test_some(number):
    if number == 2:
        pytest.skip("no")

@pytest.mark.rule("task.delete.3")
@pytest.mark.parametrize("number", [1, 2])
def test_fails(number, host):
    assert number == 2

@pytest.mark.rule("task.delete.3")
def test_unwanted():
    pass

def test_proves_nothing():
    pass
"""


def suite(folder: Path, text: str) -> "subprocess.CompletedProcess[str]":
    """Run the tests in `text` with a copy of our conftest, in a process of its own; record the
    results."""
    tests = folder / "tests"
    shutil.copytree(TESTS / "support", tests / "support")
    shutil.copy(TESTS / "conftest.py", tests)
    (tests / "rules.toml").write_text(RULES)
    (tests / "test_it.py").write_text(text)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "tests/test_it.py",
        "-k",
        "not unwanted",
    ]
    env = {
        **os.environ,
        "SHIM_TEST_RULES": str(folder / "results"),
        "SHIM_TEST_RUNTIME": "crun",
        "SHIM_TEST_STRICT": "",
        "PYTHONPATH": str(folder),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTHONWARNINGS": "",  # no pyproject.toml there registers the mark
    }
    return subprocess.run(
        command, check=False, cwd=folder, env=env, capture_output=True, text=True, timeout=60
    )


def test_run_leaves_the_outcomes_of_tests_that_name_rules(tmp_path: Path) -> None:
    """Parameters are combined; a test has a runtime only if it uses the fixture `host`."""
    suite(tmp_path, MARKED)

    (path,) = (tmp_path / "results").glob("crun-*.json")
    assert Run.read(path).results == (
        Result("tests/test_it.py::test_fails", ("task.delete.3",), "crun", "failed"),
        Result("tests/test_it.py::test_goes", ("task.delete.1", "task.delete.2"), "crun", "passed"),
        Result("tests/test_it.py::test_some", ("task.delete.2",), "", "skipped"),
        Result("tests/test_it.py::test_unwanted", ("task.delete.3",), "", LEFT_OUT),
    )
    assert "cgroup v" in json.loads(path.read_text())["machine"]


@pytest.mark.parametrize(
    ("marker", "error"),
    [
        ('"task.delete.4"', "there is no rule 'task.delete.4' in rules.toml"),
        ("", "takes the ids of rules"),
        ('"task.delete.1", why="x"', "takes the ids of rules"),
    ],
)
def test_marker_that_names_no_rule_ends_the_run_before_any_test(
    tmp_path: Path, marker: str, error: str
) -> None:
    """Otherwise a test would prove a rule that is not in the list."""
    text = f"import pytest\n\n@pytest.mark.rule({marker})\ndef test_it():\n    print('ran')\n"

    done = suite(tmp_path, text)

    assert done.returncode == 4
    assert error in done.stderr
    assert "ran" not in done.stdout


# --- the page -------------------------------------------------------------------------

RULE = Rule("task.delete.1", "It goes.", "OCI")


def result(outcome: str, runtime: str = "runc", *, rule: str = RULE.id) -> Result:
    return Result(f"tests/e2e/test_x.py::test_{outcome}", (rule,), runtime, outcome)


@pytest.mark.parametrize(
    ("results", "outcomes"),
    [
        ([], (HOLE, HOLE)),
        ([result("passed", rule="task.delete.2")], (HOLE, HOLE)),
        ([result("passed")], (PASS, NOT_RUN)),
        ([result("passed"), result("passed", "crun")], (PASS, PASS)),
        ([result("passed"), result("failed", "crun")], (PASS, FAIL)),
        ([result("passed"), result("failed"), result("skipped")], (FAIL, NOT_RUN)),
        ([result("skipped")], (NOT_RUN, NOT_RUN)),
        ([result(LEFT_OUT)], (NOT_RUN, NOT_RUN)),
        ([result(LEFT_OUT), result("passed"), result("passed", "crun")], (PASS, PASS)),
        ([result("skipped"), result("passed")], (PASS, NOT_RUN)),
        ([result("passed", "")], (NOT_RUN, NOT_RUN)),
        ([result("passed"), result("passed", "crun"), result("failed", "")], (FAIL, FAIL)),
    ],
)
def test_rule_is_proven_by_what_ran_with_each_runtime(
    results: list[Result], outcomes: tuple[str, ...]
) -> None:
    """Results of several runs are combined; a failure in one run counts."""
    assert judge(RULE, results).outcomes == outcomes


@pytest.mark.parametrize(
    ("outcome", "shown"), [("passed", PASS), ("failed", FAIL), ("skipped", NOT_RUN)]
)
def test_rule_without_a_runtime_has_one_result(outcome: str, shown: str) -> None:
    rule = Rule(RULE.id, RULE.says, RULE.source, runtime=False)

    assert judge(rule, [result(outcome, "")]).outcomes == (shown,)
    assert judge(rule, []).outcomes == (HOLE,)


def test_rule_that_does_not_apply_to_a_runtime_needs_no_run_with_it() -> None:
    rule = Rule(RULE.id, RULE.says, RULE.source, not_applicable={"crun": "it has none"})

    line = judge(rule, [result("passed")])

    assert line.outcomes == (PASS, NOT_APPLICABLE)
    assert line.proven


def test_page_shows_every_rule_its_tests_and_the_totals(tmp_path: Path) -> None:
    (tmp_path / "rules.toml").write_text(RULES)
    rules = load(tmp_path / "rules.toml")
    first = Run("runc 9, cgroup v2, Linux 9", (result("passed"), result("passed", "", rule="x")))

    text, proven = page(rules, [first])

    assert not proven
    assert "* runc 9, cgroup v2, Linux 9\n" in text
    assert "| [Tasks](#tasks) | 3 | 0 | 2 | 1 | 0 |" in text
    row = "| `task.delete.1` | It goes. | OCI | pass | **not run** | "
    assert f"{row}[passed](../tests/e2e/test_x.py) |" in text
    assert "| `task.delete.2` | It goes \\| once. | containerd | **HOLE** | · | none |" in text
    assert "`task.delete.3` does not apply to crun: nothing stays there." in text


def test_exit_status_shows_whether_all_is_proven(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rules.toml").write_text(RULES)
    monkeypatch.setattr("tests.support.conformance.load", lambda: load(tmp_path / "rules.toml"))
    one, two, target = tmp_path / "one", tmp_path / "two", tmp_path / "page.md"
    ids = tuple(f"task.delete.{number}" for number in (1, 2, 3))

    Run("m", (Result("t::test_a", ids, "runc", "passed"),)).write(one)
    assert main([str(target), str(one)]) == 1
    assert "task.delete.1" in capsys.readouterr().out

    Run("m", (Result("t::test_a", ids[:1], "crun", "passed"),)).write(two)
    assert main([str(target), str(one), str(two)]) == 0
    assert capsys.readouterr().out == ""
    assert "**" not in target.read_text().replace("**together**", "")
