"""containerd 1.6 and ctr: pause, resume, metrics and OOM events through a real daemon."""

import json
import os
from pathlib import Path

import pytest

from shimv2.shimctl.image import IMAGE
from shimv2.shimctl.testbed.containerd import Containerd, parse_events
from shimv2.shimctl.testbed.until import until
from tests.support.cgroups import folder_of, unified
from tests.support.host import RUNTIME, Host

pytestmark = [pytest.mark.root, pytest.mark.vm]

RUN = ("run", "--runtime", RUNTIME, "-d", "--null-io")
LIMIT = 32 << 20


def end(containerd: Containerd, name: str) -> None:
    containerd.ctr("task", "kill", "-s", "SIGKILL", name)
    containerd.wait_status(name, "STOPPED")
    containerd.remove_task(name)


@pytest.mark.runc("crun does not thaw a frozen container that it kills on cgroup v1")
def test_task_is_paused_and_resumed(containerd: Containerd, host: Host) -> None:
    """ctr shows the states, the refusals and the events of both verbs."""
    path = os.path.join(host.folder, "events")
    watching = containerd.events(path)
    try:
        containerd.ctr(*RUN, IMAGE, "c1", "sleep", "1000")
        containerd.ctr("task", "pause", "c1")
        paused = containerd.tasks()["c1"].status
        again = containerd.ctr("task", "pause", "c1", check=False)
        containerd.ctr("task", "resume", "c1")
        resumed = containerd.tasks()["c1"].status
        too_often = containerd.ctr("task", "resume", "c1", check=False)
        containerd.ctr("task", "pause", "c1")
        end(containerd, "c1")  # a paused one is killed as well
        until(lambda: ("delete", "c1") in events_in(path), "the last event")
    finally:
        watching.terminate()
        watching.wait(timeout=10)

    assert (paused, resumed) == ("PAUSED", "RUNNING")
    assert b"cannot pause a paused container" in again.stderr
    assert b"cannot resume a running process" in too_often.stderr
    topics = [topic for topic, _ in events_in(path)]
    assert topics == ["create", "start", "paused", "resumed", "paused", "exit", "delete"]


def test_metrics_are_those_of_the_cgroup(containerd: Containerd) -> None:
    """ctr decodes the reply to Stats: it prints the limit and the usage."""
    containerd.ctr(*RUN, "--memory-limit", str(LIMIT), IMAGE, "c1", "sleep", "1000")
    memory = folder_of(containerd.tasks()["c1"].pid, "memory")
    containerd.ctr("task", "pause", "c1")

    found = json.loads(containerd.ctr("task", "metrics", "--format", "json", "c1").stdout)
    table = containerd.ctr("task", "metrics", "c1").stdout.decode()

    usage = "memory.current" if unified() else "memory.usage_in_bytes"
    used = int((memory / usage).read_text())
    if unified():
        assert (found["memory"]["usage_limit"], found["memory"]["usage"]) == (LIMIT, used)
    else:
        assert (found["memory"]["usage"]["limit"], found["memory"]["usage"]["usage"]) == (
            LIMIT,
            used,
        )
        assert "memory.usage_in_bytes" in table
    assert str(used) in table.split()
    assert found["pids"]["current"] == 1
    containerd.ctr("task", "resume", "c1")
    end(containerd, "c1")


def test_oom_is_published_to_the_daemon_before_the_exit(containerd: Containerd, host: Host) -> None:
    """CRI and dockerd derive OOMKilled from this order."""
    path = os.path.join(host.folder, "events")
    watching = containerd.events(path)
    try:
        containerd.ctr(*RUN, "--memory-limit", str(LIMIT), IMAGE, "c1", "tail", "/dev/zero")
        containerd.wait_status("c1", "STOPPED")
        metrics = containerd.ctr("task", "metrics", "--format", "json", "c1").stdout
        status = containerd.remove_task("c1")
        until(lambda: ("delete", "c1") in events_in(path), "the last event")
    finally:
        watching.terminate()
        watching.wait(timeout=10)

    assert status == 137
    assert [topic for topic, _ in events_in(path)] == ["create", "start", "oom", "exit", "delete"]
    found = json.loads(metrics)
    assert found["memory_events" if unified() else "memory_oom_control"]["oom_kill"] >= 1


def events_in(path: str) -> list[tuple[str, str]]:
    return parse_events(Path(path).read_text(), "c1")
