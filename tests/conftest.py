"""Fixtures for every test: leak counters, a mark and a folder, and in CI no silent skips."""

import fnmatch
import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Final

import pytest
from _pytest.terminal import TerminalReporter

from shimv2.shimctl.image import make_image
from shimv2.shimctl.rootfs import make_rootfs
from shimv2.shimctl.testbed.leaks import OwnState, own_leaks
from tests.support import results
from tests.support.cgroups import unified
from tests.support.host import Host, runs_as_root
from tests.support.isolation import default_signals, end_children
from tests.support.outcome import FAILED, allowed_skips

STRICT: Final = os.environ.get("SHIM_TEST_STRICT") == "1"
_ALLOWED: Final = Path(__file__).parent / "allowed_skips.toml"
_RULES: Final = Path(__file__).parent / "rules.toml"


def pytest_configure(config: pytest.Config) -> None:
    default_signals()
    if results.FOLDER:
        config.pluginmanager.register(results.Recorder(Path(results.FOLDER)))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    results.check_names(items, _RULES)
    if not unified():
        elsewhere = [item for item in items if item.get_closest_marker("unified")]
        items[:] = [item for item in items if item not in elsewhere]
        config.hook.pytest_deselected(items=elsewhere)


@pytest.fixture(autouse=True)
def _no_own_leaks(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves an fd, a child or a thread in the test process; end its children.

    Also after a failure: every later test would count a child that is left behind.
    """
    before = OwnState.now()
    yield
    failed = request.node.stash.get(FAILED, False)
    left = [] if failed else own_leaks(before)
    end_children(before.children)
    assert left == []


@pytest.fixture(scope="session")
def _machine() -> None:
    if not runs_as_root():
        pytest.skip("containers need root and runc")


@pytest.fixture(scope="session")
def rootfs(_machine: None, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A busybox root that all containers of the run share, read-only."""
    path = tmp_path_factory.mktemp("rootfs") / "root"
    make_rootfs(str(path))
    return str(path)


@pytest.fixture(scope="session")
def image(rootfs: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    archive = tmp_path_factory.mktemp("image") / "busybox.tar"
    make_image(str(archive), rootfs=rootfs)
    return archive


@pytest.fixture
def host(_machine: None, request: pytest.FixtureRequest) -> Iterator[Host]:
    """The test's mark and folder; anything that the test leaves behind is a failure."""
    host = Host.make()
    yield host
    failed = request.node.stash.get(FAILED, False)
    left = host.leaks.found() if failed else host.leaks.since_start()
    if left:
        host.leaks.remove()
    host.remove()
    assert failed or left == []


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        item.stash[FAILED] = True
    if STRICT and report.skipped and not hasattr(report, "wasxfail"):
        _refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if STRICT and report.skipped:
        _refuse_skip(report)
    return report


def pytest_terminal_summary(terminalreporter: TerminalReporter) -> None:
    seed = terminalreporter.config.getoption("randomly_seed", None)
    if seed not in {None, "default"} and terminalreporter.stats.get("failed"):
        terminalreporter.write_line(f"repeat with: make test SEED={seed}")


def _refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    if not any(fnmatch.fnmatch(report.nodeid, pattern) for pattern in allowed_skips(_ALLOWED)):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"a skip that {_ALLOWED.name} does not allow: {reason}"
