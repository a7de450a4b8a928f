"""Records the results of tests that name rules, with the runtime that they called.

With `SHIM_TEST_RULES=FOLDER` each run writes one file to the folder.  The files of several runs,
with another runtime or on another machine, are combined.
"""

import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support import rules
from tests.support.host import RUNTIME_UNDER_TEST

FOLDER: Final = os.environ.get("SHIM_TEST_RULES", "")
MARKER: Final = "rule"
LEFT_OUT: Final = "left out"  # a test that this run did not select
_V2_ROOT: Final = Path("/sys/fs/cgroup/cgroup.controllers")


@dataclass(frozen=True, slots=True)
class Result:
    """The outcome of one test over all its parameters and phases."""

    test: str  # path::name, without parameters
    rules: tuple[str, ...]
    runtime: str  # "": it calls no runtime
    outcome: str  # passed, failed, skipped or LEFT_OUT


@dataclass(frozen=True, slots=True)
class Run:
    """One file: a run on one machine with one runtime."""

    machine: str
    results: tuple[Result, ...]

    @classmethod
    def read(cls, path: Path) -> "Run":
        table = json.loads(path.read_text(encoding="utf-8"))
        found = (Result(**{**each, "rules": tuple(each["rules"])}) for each in table["results"])
        return cls(table["machine"], tuple(found))

    def write(self, folder: Path) -> None:
        """Write a file whose name no other run uses."""
        folder.mkdir(parents=True, exist_ok=True)
        runtime = RUNTIME_UNDER_TEST
        path = folder / f"{runtime}-{platform.node()}-{os.getpid()}-{time.time_ns()}.json"
        path.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")


def named(item: pytest.Item) -> tuple[str, ...]:
    """Return the rules that a test names."""
    ids: list[str] = []
    for mark in item.iter_markers(MARKER):
        ids += [id_ for id_ in mark.args if id_ not in ids]
    return tuple(ids)


def check_names(items: Iterable[pytest.Item], path: Path) -> None:
    """Check that all rules that tests name exist.

    Raises:
        pytest.UsageError: a rule does not exist, or a marker has no rule; no test runs then.
    """
    marked = [item for item in items if item.get_closest_marker(MARKER)]
    if not marked:
        return
    known = rules.load(path).ids
    for item in marked:
        if not named(item) or any(mark.kwargs for mark in item.iter_markers(MARKER)):
            msg = f"{item.nodeid}: the marker `{MARKER}` takes the ids of rules"
            raise pytest.UsageError(msg)
        for id_ in named(item):
            if id_ not in known:
                msg = f"{item.nodeid}: there is no rule {id_!r} in {path.name}"
                raise pytest.UsageError(msg)


class Recorder:
    """A pytest plugin: keeps the outcome of each test that names rules, writes them at the end."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._tests: dict[str, dict[str, Any]] = {}

    def pytest_deselected(self, items: Sequence[pytest.Item]) -> None:
        self._take_up(items)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self._take_up(session.items)

    def _take_up(self, items: Iterable[pytest.Item]) -> None:
        for item in items:
            ids = named(item)
            test = item.nodeid.partition("[")[0]
            # Tests with the fixture `host` call the runtime under test; others call no runtime.
            runtime = RUNTIME_UNDER_TEST if "host" in getattr(item, "fixturenames", ()) else ""
            if ids:
                known = self._tests.setdefault(
                    test, {"rules": [], "runtime": runtime, "outcomes": {}}
                )
                known["rules"] += [id_ for id_ in ids if id_ not in known["rules"]]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        known = self._tests.get(report.nodeid.partition("[")[0])
        if known is not None:
            before = known["outcomes"].get(report.nodeid, "passed")
            known["outcomes"][report.nodeid] = worst([before, report.outcome])

    def pytest_sessionfinish(self) -> None:
        found = [
            Result(test, tuple(known["rules"]), known["runtime"], together(known["outcomes"]))
            for test, known in sorted(self._tests.items())
        ]
        Run(machine(), tuple(found)).write(self._folder)


def worst(outcomes: Iterable[str]) -> str:
    """Return the worst outcome of the phases of one test."""
    order = ("failed", "skipped", "passed")
    return min(outcomes, key=order.index)


def together(outcomes: dict[str, str]) -> str:
    """Return the outcome over all parameters of a test: skipped if one was skipped."""
    return worst(outcomes.values()) if outcomes else LEFT_OUT


def machine() -> str:
    """Describe the machine of a run and its runtime in one line."""
    cgroup = "cgroup v2" if _V2_ROOT.exists() else "cgroup v1"
    return f"{_version(RUNTIME_UNDER_TEST)}, {cgroup}, Linux {platform.release()}"


def _version(program: str) -> str:
    if shutil.which(program) is None:
        return f"no {program}"
    done = subprocess.run([program, "--version"], check=False, capture_output=True, text=True)
    return (done.stdout.splitlines() or [program])[0].replace(" version", "")
