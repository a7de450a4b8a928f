"""Beside a running container: exec, top, stats, update, pause, cp."""

import re
from pathlib import Path

import pytest

from shimv2.shimctl.testbed.until import until
from tests.daemons.docker import every_pair
from tests.daemons.pairs import Pair
from tests.support.cgroups import folder_of, unified
from tests.support.dockerd import IMAGE, Dockerd

pytestmark = [pytest.mark.root, every_pair]

MIB = 1 << 20


@pytest.fixture
def sleeper(docker: Dockerd) -> str:
    """A running container that the test has to remove."""
    docker.run("-d", "--name=c1", IMAGE, "sh", "-c", "sleep 1000 & wait")
    return "c1"


def test_exec_has_its_input_user_folder_and_status(docker: Dockerd, sleeper: str) -> None:
    """docker exec -i: a process of its own in the container, and its status."""
    flags = ("-i", "--user=65534", "--workdir=/var/log", "--env=WORD=here")
    script = 'id -u; pwd; echo "$WORD"; echo err >&2; cat; exit 3'

    done = docker.docker("exec", *flags, sleeper, "sh", "-c", script, check=False, stdin=b"typed\n")

    assert done.stdout.decode().splitlines() == ["65534", "/var/log", "here", "typed"]
    assert (done.stderr, done.returncode) == (b"err\n", 3)
    docker.docker("rm", "--force", sleeper)


@pytest.mark.parametrize(("program", "status"), [("nosuchprogram", 127), ("/etc/passwd", 126)])
def test_exec_of_what_cannot_be_run_is_reported_by_the_status(
    docker: Dockerd, pair: Pair, sleeper: str, program: str, status: int
) -> None:
    """dockerd derives it from the runtime's text, as for run; the container continues.  20.10 has
    126 for all."""
    if pair.release == "20.10":
        status = 126
    elif (pair.runtime, status) == ("crun-sid", 126):
        status = 128  # dockerd does not know the text
    done = docker.docker("exec", sleeper, program, check=False)

    assert b"OCI runtime exec failed" in done.stdout + done.stderr
    assert done.returncode == status
    assert docker.state(sleeper)["Status"] == "running"
    docker.docker("rm", "--force", sleeper)


def test_processes_and_figures_are_those_of_the_container(docker: Dockerd, sleeper: str) -> None:
    """top lists its processes, a background exec too; stats counts them and their memory."""
    docker.docker("exec", "--detach", sleeper, "sleep", "2000")

    def commands() -> list[str]:
        listed = docker.output("top", sleeper, "-eo", "pid,args").splitlines()[1:]
        return sorted(line.split(maxsplit=1)[1] for line in listed)

    expected = ["sh -c sleep 1000 & wait", "sleep 1000", "sleep 2000"]
    until(lambda: commands() == expected, "the shell's child to have become sleep")
    shown = docker.output("stats", "--no-stream", "--format", "{{.PIDs}} {{.MemUsage}}", sleeper)

    assert docker.state(sleeper)["Pid"] in docker.pids(sleeper)
    assert re.fullmatch(r"3 [\d.]+[KM]iB / .*", shown)
    assert not re.match(r"3 0[A-Z]", shown)
    docker.docker("rm", "--force", sleeper)


def test_limits_of_a_running_container_are_changed(docker: Dockerd, sleeper: str) -> None:
    """docker update reaches the cgroup."""
    limits = ("--memory=64m", "--memory-swap=64m", "--pids-limit=50")
    docker.docker("update", *limits, sleeper)

    pid = docker.state(sleeper)["Pid"]
    memory = "memory.max" if unified() else "memory.limit_in_bytes"
    assert int((folder_of(pid, "memory") / memory).read_text()) == 64 * MIB
    assert int((folder_of(pid, "pids") / "pids.max").read_text()) == 50
    docker.docker("rm", "--force", sleeper)


def test_container_is_paused_and_resumed(docker: Dockerd, sleeper: str) -> None:
    """Its state is shown; no exec is possible meanwhile."""
    docker.docker("pause", sleeper)
    paused = docker.state(sleeper)["Status"]
    refused = docker.docker("exec", sleeper, "true", check=False)
    again = docker.docker("pause", sleeper, check=False)
    docker.docker("unpause", sleeper)

    assert (paused, docker.state(sleeper)["Status"]) == ("paused", "running")
    assert refused.returncode != 0
    assert again.returncode != 0
    assert docker.output("exec", sleeper, "echo", "on") == "on"
    docker.docker("rm", "--force", sleeper)


@pytest.mark.matrix
def test_files_are_copied_both_ways(docker: Dockerd, sleeper: str, tmp_path: Path) -> None:
    """docker cp, with the container running and stopped."""
    there, back = tmp_path / "there", tmp_path / "back"
    there.write_bytes(b"x" * MIB)
    docker.docker("cp", str(there), f"{sleeper}:/tmp/copy")
    seen = docker.output("exec", sleeper, "wc", "-c", "/tmp/copy")
    docker.docker("kill", sleeper)
    docker.wait_state(sleeper, "exited")
    docker.docker("cp", f"{sleeper}:/tmp/copy", str(back))

    assert seen.split() == [str(MIB), "/tmp/copy"]
    assert back.read_bytes() == there.read_bytes()
    docker.docker("rm", sleeper)
