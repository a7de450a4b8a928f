"""The peers, the rules and the report of a run; checks of the whole run are made at its end."""

from pathlib import Path
from typing import Final

import pytest
from _pytest.terminal import TerminalReporter

from shimv2.shimctl.rootfs import make_rootfs
from shimv2.shimctl.testbed.releases import ReleaseMissing
from tests.differential.peers import Peer, find_peers
from tests.differential.report import Report
from tests.differential.scenarios import scenarios
from tests.differential.verdict import Rule, idle, load_rules, without_row
from tests.support.host import ROOT, runs_as_root

_RULES: Final = pytest.StashKey[list[Rule]]()
_REPORT: Final = pytest.StashKey[Report]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_RULES] = load_rules(Path(__file__).with_name("allowed.toml"))
    config.stash[_REPORT] = Report()


@pytest.fixture(scope="session")
def peers(request: pytest.FixtureRequest) -> list[Peer]:
    if not runs_as_root():
        pytest.exit("differential: containers need root and runc", returncode=2)
    try:
        found = find_peers()
    except ReleaseMissing as error:
        pytest.exit(f"differential: {error}", returncode=2)
    request.config.stash[_REPORT].peers = found
    return found


@pytest.fixture(scope="session")
def rules(request: pytest.FixtureRequest) -> list[Rule]:
    return request.config.stash[_RULES]


@pytest.fixture(scope="session")
def report(request: pytest.FixtureRequest) -> Report:
    return request.config.stash[_REPORT]


@pytest.fixture(scope="session")
def rootfs(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("rootfs") / "root"
    make_rootfs(str(path))
    return str(path)


def _complaints(config: pytest.Config) -> list[str]:
    differences = Path(ROOT, "docs/differences.md").read_text(encoding="utf-8")
    rules = config.stash[_RULES]
    complete = config.stash[_REPORT].scenarios.keys() == scenarios().keys()
    return [
        *(f"a rule without a row: {rule}" for rule in without_row(rules, differences)),
        *(f"a needless rule: {rule}" for rule in idle(rules, complete=complete)),
    ]


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    played = session.config.stash[_REPORT].scenarios
    if played and exitstatus == pytest.ExitCode.OK and _complaints(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: TerminalReporter) -> None:
    config = terminalreporter.config
    report = config.stash[_REPORT]
    if report.scenarios:
        terminalreporter.section("differential")
        for line in [*report.lines(), *_complaints(config)]:
            terminalreporter.write_line(line)
