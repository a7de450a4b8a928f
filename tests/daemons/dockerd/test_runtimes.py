"""The shim and runtimes in dockerd's configuration, as in docs/daemons.md; and invalid ones."""

import json
import os
import sys
from pathlib import Path

import pytest

from shimv2.shimctl.testbed.releases import GO_SHIM
from shimv2.shimctl.testbed.runtimes import crun
from tests.daemons.docker import docker_20, docker_28, every_release
from tests.daemons.page import box
from tests.daemons.pairs import unfit_pairs
from tests.daemons.runtimes import find_runtime
from tests.support.dockerd import IMAGE, Dockerd
from tests.support.host import NAME, OTHER_SHIM, RUNTIME

pytestmark = pytest.mark.root


@docker_28
@pytest.mark.ours("the Go shim does not read a file of options")
def test_shim_is_configured_by_name_by_path_and_with_options(own_docker: Dockerd) -> None:
    """dockerd 28: the default runtime, a named one, another OCI runtime, and the full name without
    an entry."""
    docker = own_docker
    options, shim = Path(docker.folder, "crun.toml"), f"{docker.folder}/bin/{NAME}"
    runtime = find_runtime("crun-sid", docker.folder)
    options.write_text(box("crun.toml", instead={"/usr/bin/crun": runtime}))
    places = {f"/usr/local/bin/{NAME}": shim, "/etc/containerd/crun.toml": str(options)}
    docker.stop()
    docker.configure(json.loads(box("docker.json", instead=places)))
    docker.start()

    assert docker.shell(box("docker-run")).split() == ["default", "crun", "path", "name"]
    for name in ("pyrunc", "pyrunc-crun", "pyrunc-by-path", RUNTIME):
        assert _shim(docker, name) == (shim, os.path.realpath(sys.executable)), name


@docker_20
def test_shim_takes_the_place_of_containerds_own(own_docker: Dockerd) -> None:
    """dockerd 20.10: under the name of that shim, with runtimes by path in daemon.json and by a
    flag."""
    docker = own_docker
    place = f"{docker.folder}/bin"
    os.unlink(f"{place}/{GO_SHIM}")
    docker.shell(box("docker-drop-in", instead={"/usr/local/bin": place}))
    config = box("docker-20.10.json", instead={"/usr/bin/crun": crun(docker.folder)})
    docker.stop()
    docker.configure(json.loads(config), *box("docker-20.10-start").split()[1:])
    docker.start()

    assert docker.shell(box("docker-20.10-run")).split() == ["default", "crun", "flag"]
    program = os.path.realpath(OTHER_SHIM or sys.executable)
    for name in ("runc", "crun", "runc-too"):
        assert _shim(docker, name)[1] == program, name


@every_release
def test_runtime_that_cannot_be_called_fails_the_run(own_docker: Dockerd) -> None:
    """The client gets the reason, nothing is left, and a good runtime works as before."""
    docker = own_docker
    bad = {name: f"{docker.folder}/{name}" for name in ("missing", "plain", "broken")}
    for name in ("plain", "broken"):
        Path(bad[name]).write_text("#!/bin/sh\nexit 3\n")
    os.chmod(bad["broken"], 0o755)
    docker.stop()
    docker.configure({"runtimes": {name: {"path": path} for name, path in bad.items()}})
    docker.start()

    results = {}
    for name in bad:
        done = docker.run("--name=c1", f"--runtime={name}", IMAGE, "true", check=False)
        results[name] = (done.returncode, docker.state("c1")["ExitCode"], done.stderr.decode())
        docker.docker("rm", "c1")
    why = {
        "missing": (127, 127, f"fork/exec {bad['missing']}: no such file or directory"),
        "plain": (127, 126, f"fork/exec {bad['plain']}: permission denied"),
        "broken": (127, 127, f"{bad['broken']} did not terminate successfully: exit status 3"),
    }
    for name, (shown, kept, text) in why.items():
        assert results[name][:2] == (shown, kept)
        assert "OCI runtime create failed: unable to retrieve OCI runtime error" in results[name][2]
        assert text in results[name][2]
    assert docker.run("--rm", "--runtime=runc", IMAGE, "echo", "on").stdout == b"on\n"


@docker_28
@pytest.mark.ours("the Go shim does not read a file of options")
def test_options_that_are_not_there_fail_the_run(own_docker: Dockerd) -> None:
    """A file of options that is missing is named; nothing runs with a default instead."""
    docker = own_docker
    options = {"ConfigPath": f"{docker.folder}/missing.toml"}
    docker.stop()
    docker.configure({"runtimes": {"bad": {"runtimeType": RUNTIME, "options": options}}})
    docker.start()

    done = docker.run("--rm", "--runtime=bad", IMAGE, "true", check=False)

    assert done.returncode != 0
    assert f"runtime options: open {options['ConfigPath']}: no such file" in done.stderr.decode()


@pytest.mark.parametrize("pair", unfit_pairs("dockerd 20.10", "dockerd 28"), indirect=True)
def test_invalid_pair_reports_why(docker: Dockerd) -> None:
    """Debian 12's crun refuses newer specs; the client gets its error text."""
    done = docker.run("--rm", IMAGE, "true", check=False)

    assert done.returncode == 125
    assert b"unknown version specified" in done.stderr


def _shim(docker: Dockerd, runtime: str) -> tuple[str, str]:
    """Return the name and the program of a container's shim."""
    docker.run("-d", "--name=c1", f"--runtime={runtime}", IMAGE, "sleep", "1000")
    pid = docker.containerd.shim_pid(docker.id("c1"))
    name = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").split()[0]
    program = os.readlink(f"/proc/{pid}/exe")
    docker.docker("rm", "--force", "c1")
    return name, program
