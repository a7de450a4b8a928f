"""Detached containers: logs, signals, stop, restarts, wait, names, events."""

import os
import signal

import pytest

from shimv2.shimctl.testbed.leaks import alive
from shimv2.shimctl.testbed.until import until
from tests.daemons.docker import every_pair
from tests.support.dockerd import IMAGE, Dockerd

pytestmark = [pytest.mark.root, every_pair]

# Ends with status 4 or 42, one for each signal.  The shell answers one while it waits.
WAITING = "trap 'echo usr; exit 4' USR1; trap 'exit 42' TERM; echo up; sleep 1000 & wait"


def test_logs_are_followed_to_the_end_and_the_status_is_waited_for(docker: Dockerd) -> None:
    """logs -f, kill -s, wait, inspect, logs of a stopped container."""
    docker.run("-d", "--name=c1", IMAGE, "sh", "-c", WAITING)
    with (
        docker.running("logs", "--follow", "c1") as following,
        docker.running("wait", "c1") as waiting,
    ):
        assert following.stdout is not None
        assert following.stdout.readline() == b"up\n"
        docker.docker("kill", "--signal=USR1", "c1")
        rest, _ = following.communicate(timeout=60)
        status, _ = waiting.communicate(timeout=60)

    assert (rest, status) == (b"usr\n", b"4\n")
    assert docker.state("c1")["ExitCode"] == 4
    assert docker.output("logs", "c1") == "up\nusr"
    docker.docker("rm", "c1")


@pytest.mark.parametrize(
    ("script", "status"), [(WAITING, 42), ("trap '' TERM; echo up; sleep 1000", 137)]
)
def test_stop_asks_and_then_kills(docker: Dockerd, script: str, status: int) -> None:
    """SIGTERM, and SIGKILL after the timeout."""
    docker.run("-d", "--name=c1", IMAGE, "sh", "-c", script)
    docker.wait_logs("c1", "up")
    limit = "60" if status == 42 else "1"

    docker.docker("stop", "-t", limit, "c1")

    assert docker.state("c1")["ExitCode"] == status
    docker.docker("rm", "c1")


def test_detached_container_with_rm_goes_by_itself(docker: Dockerd) -> None:
    """-d --rm: dockerd removes it once the shim has published the exit."""
    docker.run("-d", "--rm", "--name=c1", IMAGE, "sleep", "1000")
    docker.docker("kill", "c1")

    until(lambda: docker.containers() == [], "the container to go", limit_s=30)


@pytest.mark.matrix
def test_container_is_renamed_and_restarted(docker: Dockerd) -> None:
    """A restart is another task of the same container: a new process, and the logs continue."""
    docker.run("-d", "--name=c1", IMAGE, "sh", "-c", WAITING)
    docker.wait_logs("c1", "up")
    first = docker.state("c1")["Pid"]
    docker.docker("rename", "c1", "c2")
    docker.docker("restart", "c2")
    second = docker.state("c2")["Pid"]

    docker.wait_logs("c2", "up\nup")
    assert not alive(first)
    with open(f"/proc/{second}/cmdline", encoding="utf-8") as file:
        assert file.read().split("\0")[:2] == ["sh", "-c"]
    docker.docker("rm", "--force", "c2")
    assert not alive(second)


@pytest.mark.matrix
def test_container_that_fails_is_started_again_as_often_as_configured(docker: Dockerd) -> None:
    """--restart=on-failure:2: three runs, and the status of the last one."""
    docker.run("-d", "--name=c1", "--restart=on-failure:2", IMAGE, "sh", "-c", "echo up; exit 5")
    docker.wait_logs("c1", "up\nup\nup")
    state = docker.wait_state("c1", "exited")

    assert state["ExitCode"] == 5
    assert docker.output("inspect", "-f", "{{.RestartCount}}", "c1") == "2"
    docker.docker("rm", "c1")


@pytest.mark.matrix
def test_container_that_dies_is_started_again_until_it_is_stopped(docker: Dockerd) -> None:
    """--restart=always, after a kill by another process; `docker stop` ends it finally."""
    docker.run("-d", "--name=c1", "--restart=always", IMAGE, "sleep", "1000")
    first = docker.state("c1")["Pid"]
    os.kill(first, signal.SIGKILL)
    until(lambda: docker.state("c1")["Pid"] not in {0, first}, "the second start", limit_s=30)
    docker.wait_state("c1", "running")
    docker.docker("stop", "-t", "0", "c1")

    assert docker.state("c1")["Status"] == "exited"
    assert docker.state("c1")["ExitCode"] == 137
    docker.docker("rm", "c1")


@pytest.mark.matrix
def test_health_follows_the_statuses_of_the_checks(docker: Dockerd) -> None:
    """Each check is an exec, whose status and output are shown."""
    check = ("--health-cmd=echo seen; test -e /well", "--health-interval=1s", "--health-retries=1")
    docker.run("-d", "--name=c1", *check, IMAGE, "sleep", "1000")

    def health(status: str) -> bool:
        return bool(docker.state("c1")["Health"]["Status"] == status)

    until(lambda: health("unhealthy"), "the container to be ill", limit_s=60)
    docker.docker("exec", "c1", "touch", "/well")
    until(lambda: health("healthy"), "the container to be well", limit_s=60)
    results = {(each["ExitCode"], each["Output"]) for each in docker.state("c1")["Health"]["Log"]}
    assert results == {(1, "seen\n"), (0, "seen\n")}
    docker.docker("rm", "--force", "c1")


def test_events_are_published_in_order(docker: Dockerd) -> None:
    """The exit of an exec before that of its container, each with its status."""
    docker.run("-d", "--name=c1", IMAGE, "sh", "-c", WAITING)
    id_ = docker.id("c1")
    docker.wait_logs("c1", "up")
    docker.docker("exec", "c1", "sh", "-c", "exit 3", check=False)
    docker.docker("stop", "c1")
    docker.docker("restart", "c1")
    docker.wait_logs("c1", "up\nup")
    with docker.running("exec", "c1", "sleep", "1000") as left:
        until(lambda: len(docker.pids("c1")) == 3, "the exec to run", limit_s=30)
        docker.docker("rm", "--force", "c1")
        assert left.wait(timeout=60) == 137

    # Events of dockerd's own requests may come in between.
    topics = {"create", "start", "exec_start", "exec_die", "die", "destroy"}
    assert [event for event in docker.events(id_) if event[0] in topics] == [
        *(("create", ""), ("start", "")),
        *(("exec_start", ""), ("exec_die", "3"), ("die", "42")),
        ("start", ""),
        *(("exec_start", ""), ("exec_die", "137"), ("die", "137"), ("destroy", "")),
    ]


def test_container_whose_shim_is_killed_is_dead_and_can_be_started_again(docker: Dockerd) -> None:
    """containerd runs `delete` and publishes the exit; the container can be started again."""
    docker.run("-d", "--name=c1", IMAGE, "sh", "-c", WAITING)
    docker.wait_logs("c1", "up")
    first = docker.state("c1")["Pid"]
    os.kill(docker.containerd.shim_pid(docker.id("c1")), signal.SIGKILL)
    ended = docker.wait_state("c1", "exited")
    docker.docker("start", "c1")

    assert ended["ExitCode"] == 137
    assert not alive(first)
    docker.wait_logs("c1", "up\nup")
    docker.docker("stop", "c1")
    assert docker.state("c1")["ExitCode"] == 42
    docker.docker("rm", "c1")


def test_all_processes_of_a_container_in_the_hosts_pid_namespace_are_killed(
    docker: Dockerd,
) -> None:
    """--pid=host: when the init exits, the shim kills the other processes, because the kernel does
    not."""
    script = "sleep 1000 & sleep 1000 & wait"
    docker.run("-d", "--name=c1", "--pid=host", IMAGE, "sh", "-c", script)
    init = docker.state("c1")["Pid"]
    assert os.readlink(f"/proc/{init}/ns/pid") == os.readlink("/proc/self/ns/pid")
    until(lambda: len(docker.pids("c1")) == 3, "three processes", limit_s=30)
    pids = docker.pids("c1")

    docker.docker("kill", "c1")

    assert docker.wait_state("c1", "exited")["ExitCode"] == 137
    until(lambda: not any(map(alive, pids)), "all of them to be dead", limit_s=30)
    docker.docker("rm", "c1")


@pytest.mark.matrix
def test_container_in_anothers_pid_namespace_ends_alone(docker: Dockerd) -> None:
    """--pid=container:NAME: two containers, two shims, one namespace."""
    docker.run("-d", "--name=c1", IMAGE, "sleep", "1000")
    docker.run("-d", "--name=c2", "--pid=container:c1", IMAGE, "sh", "-c", "sleep 1000 & wait")
    pids = {name: docker.state(name)["Pid"] for name in ("c1", "c2")}
    spaces = {os.readlink(f"/proc/{pid}/ns/pid") for pid in pids.values()}
    until(lambda: len(docker.pids("c2")) == 2, "two processes", limit_s=30)
    second = docker.pids("c2")
    docker.docker("kill", "c2")
    ended = docker.wait_state("c2", "exited")

    assert len(spaces) == 1
    assert ended["ExitCode"] == 137
    until(lambda: not any(map(alive, second)), "the second to be dead", limit_s=30)
    assert docker.pids("c1") == [pids["c1"]]
    docker.docker("rm", "--force", "c1", "c2")
