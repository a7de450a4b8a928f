"""Every containerd with every runtime: exits that no client requested."""

import json
import os
import re
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from shimv2.shimctl.image import IMAGE
from shimv2.shimctl.testbed.containerd import Containerd
from shimv2.shimctl.testbed.leaks import alive
from shimv2.shimctl.testbed.until import until
from tests.daemons.pairs import every_containerd

pytestmark = [pytest.mark.root, every_containerd]
LIMIT = 32 << 20


class Watch:
    """The task events of the container c1, as `ctr events` shows them."""

    def __init__(self, path: str) -> None:
        self._path = path

    def seen(self) -> list[tuple[str, int]]:
        """Return topics and exit statuses (if any), in order."""
        text = Path(self._path).read_text(encoding="utf-8")
        found = [
            (topic, json.loads(body))
            for topic, body in re.findall(r" /tasks/(\S+) (\{.*\})$", text, re.MULTILINE)
        ]
        return [
            (topic, body.get("exit_status", 0))
            for topic, body in found
            if body.get("container_id") == "c1"
        ]

    def wait(self, topic: str, count: int = 1) -> None:
        until(lambda: [each for each, _ in self.seen()].count(topic) >= count, f"{count} {topic}")


@pytest.fixture
def watch(containerd: Containerd) -> Iterator[Watch]:
    path = os.path.join(containerd.folder, "events")
    watching = containerd.events(path)
    yield Watch(path)
    watching.terminate()
    watching.wait(timeout=10)


def test_oom_is_published_before_the_exit(
    containerd: Containerd, run: Sequence[str], watch: Watch
) -> None:
    """CRI and dockerd derive OOMKilled from this order."""
    detached = ("-d", "--null-io", "--memory-limit", str(LIMIT))
    containerd.ctr(*run, *detached, IMAGE, "c1", "tail", "/dev/zero")
    containerd.wait_status("c1", "STOPPED")
    status = containerd.remove_task("c1")
    watch.wait("delete")

    assert status == 137
    expected = ["create", "start", "oom", "exit", "delete"]
    assert [topic for topic, _ in watch.seen()] == expected


@pytest.mark.ours("`delete` of the Go shim leaves the stale socket")
def test_daemon_reports_the_exit_of_the_container_of_a_killed_shim(
    containerd: Containerd, run: Sequence[str], watch: Watch
) -> None:
    """The daemon runs `delete` and reports its reply: 137."""
    containerd.ctr(*run, "-d", "--null-io", IMAGE, "c1", "sleep", "1000")
    init = containerd.tasks()["c1"].pid

    os.kill(containerd.shim_pid("c1"), signal.SIGKILL)

    until(lambda: not alive(init), "the container to be dead")
    watch.wait("delete")
    assert watch.seen() == [("create", 0), ("start", 0), ("exit", 137), ("delete", 137)]
    assert containerd.tasks() == {}


@pytest.mark.ours("the Go shim reports 137 for every container of a dead shim")
def test_exit_status_outlives_the_shim(
    containerd: Containerd, run: Sequence[str], watch: Watch
) -> None:
    """A container that exited before its shim was killed keeps its exit status."""
    containerd.ctr(*run, "-d", "--null-io", IMAGE, "c1", "sh", "-c", "exit 7")
    watch.wait("exit")

    os.kill(containerd.shim_pid("c1"), signal.SIGKILL)

    watch.wait("delete")
    expected = [("create", 0), ("start", 0), ("exit", 7), ("exit", 7), ("delete", 7)]
    assert watch.seen() == expected
    assert containerd.tasks() == {}
