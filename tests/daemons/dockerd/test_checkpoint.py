"""docker checkpoint: a container is written to disk and restored from there."""

import os

import pytest

from shimv2.shimctl.testbed.until import until
from tests.daemons.docker import docker_20
from tests.support.criu import working_criu
from tests.support.dockerd import IMAGE, Dockerd

pytestmark = [pytest.mark.root, pytest.mark.criu]

COUNTING = "i=0; while :; do i=$((i+1)); echo tick $i; sleep 0.1; done"


@docker_20
def test_container_is_restored_from_its_checkpoint(own_docker: Dockerd) -> None:
    """It continues to count where it stopped, in its logs too; before, a checkpoint leaves it
    running.

    Not with dockerd 28, which needs the namespace of a process that is not restored yet.
    """
    docker = own_docker
    found = working_criu()
    if found is None:
        pytest.skip("no criu works on this machine: make criu")
    os.symlink(found, f"{docker.folder}/bin/criu")
    docker.stop()
    docker.configure({**docker.config, "experimental": True})
    docker.start()
    docker.run("-d", "--name=c1", IMAGE, "sh", "-c", COUNTING)
    first = docker.state("c1")["Pid"]
    until(lambda: _ticks(docker) > 2, "it to count", limit_s=30)

    docker.docker("checkpoint", "create", "--leave-running", "c1", "alive")
    assert docker.state("c1")["Pid"] == first
    docker.docker("checkpoint", "create", "c1", "dead")
    docker.wait_state("c1", "exited")
    before = _ticks(docker)
    docker.docker("start", "--checkpoint=dead", "c1")
    until(lambda: _ticks(docker) > before + 2, "it to count on", limit_s=30)

    assert docker.state("c1")["Status"] == "running"
    lines = docker.output("logs", "c1").splitlines()
    assert lines == [f"tick {number + 1}" for number in range(len(lines))]
    docker.docker("rm", "--force", "c1")


def _ticks(docker: Dockerd) -> int:
    return len(docker.output("logs", "c1").splitlines())
