"""`make test-pythons`: the tests with each CPython that this machine has or can download.

The arguments are pytest's.  PYTHONS names the interpreters, PARTS what each of them runs.
"""

import glob
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from xml.etree import ElementTree

from tests.pythons.environment import TREE, Environment, Missing, find, make, oldest, pip_install

PYTHONS: Final = "3.11 3.12 3.13 3.14 3.14t"
_E2E: Final = "answers exit_output life order pause pods reclaim restart rootless stdin terminal"
PARTS: Final = {
    "unit": ("tests/unit", "tests/wire"),
    "memory": ("tests/e2e/test_reclaim.py",),
    "e2e": tuple(f"tests/e2e/test_{name}.py" for name in _E2E.split()),
    # With the oldest protobuf; the other parts have the newest.
    "protobuf": (
        "tests/unit/test_protos_*.py",
        "tests/unit/test_ttrpc_*.py",
        "tests/wire/test_ttrpc_*.py",
    ),
}
_DEFAULT_PARTS: Final = "unit e2e protobuf"
_CHOSEN: Final = "not soak and not criu and not differential and not matrix"
_USAGE: Final = 2


@dataclass(frozen=True, slots=True)
class Row:
    """The result of one part with one interpreter; without counts if it could not begin."""

    python: str
    part: str
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    seconds: float = 0.0
    missing: str = ""


def main(args: Sequence[str]) -> int:
    named = os.environ.get("PYTHONS", "").split()
    parts = (os.environ.get("PARTS") or _DEFAULT_PARTS).split()
    if unknown := sorted(set(parts) - set(PARTS)):
        print(f"pythons: PARTS has no {', '.join(unknown)}: {', '.join(PARTS)}", file=sys.stderr)
        return _USAGE
    rows: list[Row] = []
    for name in named or PYTHONS.split():
        rows += _rows(name, parts, args)
    print(table(rows))
    return has_failed(rows, all_wanted=bool(named))


def has_failed(rows: Sequence[Row], *, all_wanted: bool) -> bool:
    """Whether a test failed, nothing was tested, or an interpreter in PYTHONS is missing."""
    tested = any(row.passed for row in rows)
    return not tested or any(row.failed or (row.missing and all_wanted) for row in rows)


def table(rows: Sequence[Row]) -> str:
    lines = [f"\n{'interpreter':<14}{'part':<20}{'passed':>7}{'failed':>7}{'skipped':>8}{'s':>6}"]
    for row in rows:
        counts = f"{row.passed:>7}{row.failed:>7}{row.skipped:>8}{row.seconds:>6.0f}"
        result = f"missing: {row.missing}" if row.missing else counts
        lines.append(f"{row.python:<14}{row.part:<20}{result}")
    return "\n".join(lines)


def _rows(name: str, parts: Sequence[str], args: Sequence[str]) -> list[Row]:
    try:
        made = make(name, find(name))
    except Missing as error:
        return [Row(name, "", missing=str(error))]
    return [_row(made, part, args) for part in parts]


def _row(made: Environment, part: str, args: Sequence[str]) -> Row:
    label, variables = part, {}
    if part == "protobuf":
        version = oldest(part, made.release)
        label = f"protobuf {version}"
        try:
            variables["PYTHONPATH"] = str(_protobuf(made, version))
        except Missing as error:
            return Row(made.release, label, missing=str(error))
    print(f"\n=== {made.release}: {label}", flush=True)
    return _test(made, part, label, args, variables)


def _protobuf(made: Environment, version: str) -> Path:
    folder = made.folder / f"protobuf-{version}"
    if not folder.exists():
        pip_install(made.python, f"protobuf=={version}.*", target=folder)
    return folder


def _test(
    made: Environment, part: str, label: str, args: Sequence[str], variables: dict[str, str]
) -> Row:
    named = [arg for arg in args if arg.startswith("tests/")]
    tests = named or [path for each in PARTS[part] for path in sorted(glob.glob(each))]
    report = made.folder / f"{part}.xml"
    report.unlink(missing_ok=True)
    command = [str(made.python), "-X", "dev", "-bb", "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    command += ["-m", _CHOSEN, f"--junitxml={report}", *(a for a in args if a not in named), *tests]
    began = time.monotonic()
    # Warnings are errors also in programs that the tests start with this interpreter.  There is no
    # strict mode: some tests are for one release of Python, and the table has a column for skips.
    env = {**os.environ, "PYTHONWARNINGS": "error", "SHIM_TEST_STRICT": "", **variables}
    status = subprocess.run(command, check=False, cwd=TREE, env=env).returncode
    return _count(made.release, label, report, status, time.monotonic() - began)


def _count(python: str, part: str, report: Path, status: int, seconds: float) -> Row:
    if not report.exists():
        return Row(python, part, failed=1, missing=f"pytest ended with {status}, no test was run")
    suites = ElementTree.parse(report).getroot().iter("testsuite")
    counts = {"tests": 0, "failures": 0, "errors": 0, "skipped": 0}
    for suite in suites:
        for key in counts:
            counts[key] += int(suite.get(key, "0"))
    failed = counts["failures"] + counts["errors"]
    passed = counts["tests"] - failed - counts["skipped"]
    # A run that did not finish has failed, whatever its counts.
    return Row(python, part, passed, failed or int(status != 0), counts["skipped"], seconds)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
