"""A pytest plugin that writes how long the tests of each file took to the machine's /results."""

import os
from collections import Counter
from pathlib import Path
from typing import Final

import pytest

from tests.vm import deal

NAME: Final = "durations"  # of the file; a number and .toml follow

_took_s: Counter[str] = Counter()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _took_s[report.nodeid.partition("::")[0]] += report.duration  # type: ignore[assignment]


def pytest_sessionfinish() -> None:
    deal.write(Path(f"/results/{NAME}-{os.environ['VM_MACHINE']}.toml"), _took_s)
