"""containerd is upgraded, twice, on the same folders and under running containers."""

import functools
import os
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest

from shimv2.shimctl.image import IMAGE
from shimv2.shimctl.testbed.containerd import Containerd, parse_events
from shimv2.shimctl.testbed.releases import find_release
from shimv2.shimctl.testbed.until import until
from tests.daemons.pairs import pairs
from tests.support.writers import NAMES, Writers

pytestmark = [pytest.mark.root, pytest.mark.matrix]
THEN = ("1.7", "2.1")
soak = functools.partial(pytest.param, marks=pytest.mark.soak)


@pytest.mark.parametrize("pair", pairs("containerd 1.6"), indirect=True)
def test_upgraded_to_1_7_and_2_1_under_five_running_containers(
    containerd: Containerd, run: Sequence[str]
) -> None:
    """They continue to run, accept execs, report statuses and events, and are deleted
    completely."""
    _upgraded_twice(containerd, run, one_ends=False)


@pytest.mark.ours("its answer to Pids makes containerd 1.7 and later forget a task that has ended")
@pytest.mark.timeout(600)
@pytest.mark.parametrize("attempt", [0, *(soak(attempt) for attempt in range(1, 10))])
@pytest.mark.parametrize("pair", pairs("containerd 1.6", runtimes=("runc",)), indirect=True)
def test_upgraded_while_a_container_ends(
    containerd: Containerd, run: Sequence[str], attempt: int
) -> None:
    """One of them exits while neither daemon runs; ten times in make soak."""
    _upgraded_twice(containerd, run, one_ends=True)


def _upgraded_twice(containerd: Containerd, run: Sequence[str], *, one_ends: bool) -> None:
    path = os.path.join(containerd.folder, "events")
    with Writers(containerd, containerd.folder, run) as writers:
        for release in THEN:
            ends = one_ends and release == THEN[-1]
            binaries = find_release(release).binaries
            writers.restart(signal.SIGTERM, one_ends=ends, binaries=binaries)
            for name in writers.running:
                in_it = ("--exec-id", "e", name, "sh", "-c", "echo in; exit 3")
                done = containerd.ctr("task", "exec", *in_it, check=False)
                assert (done.returncode, done.stdout) == (3, b"in\n"), (release, name)
        watching = containerd.events(path)
        try:
            running = writers.running
            writers.end()
            for name in running:
                _wait_for_events(path, name)
        finally:
            watching.terminate()
            watching.wait(timeout=10)
    assert containerd.tasks() == {}
    state = f"{containerd.state}/io.containerd.runtime.v2.task/{containerd.namespace}"
    assert [name for name in os.listdir(state) if name in NAMES] == []
    # And a container of the newest daemon, with a shim that it has started.
    assert containerd.ctr("run", *run[1:3], "--rm", IMAGE, "new", "echo", "new").stdout == b"new\n"


def _wait_for_events(path: str, name: str) -> None:
    """Check that a shim of an older daemon sends the exit event to the newer one."""
    until(lambda: _topics(path, name)[-1:] == ["delete"], f"the last event of {name}")
    assert _topics(path, name) == ["exit", "delete"], name


def _topics(path: str, name: str) -> list[str]:
    return [topic for topic, _ in parse_events(Path(path).read_text(), name)]
