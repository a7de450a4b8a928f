"""dockerd and containerd are killed and started again; containers do not notice."""

from pathlib import Path

import pytest

from tests.daemons.docker import every_pair
from tests.support.dockerd import IMAGE, Dockerd
from tests.support.leaks import alive
from tests.support.until import until

pytestmark = [pytest.mark.root, every_pair]

# Writes line N as soon as there is a file of that name, and ends when there is one called stop.
COUNTING = """
n=0
until [ -e /go/stop ]; do
  if [ -e /go/$n ]; then echo line $n; n=$((n+1)); else sleep 0.05; fi
done
exit 7
"""


@pytest.mark.parametrize(
    "also", [pytest.param("dockerd", marks=pytest.mark.matrix), "dockerd-and-containerd"]
)
def test_containers_live_through_a_crash_of_their_daemons(own_docker: Dockerd, also: str) -> None:
    """The same process, every line once, a status told that came while nobody listened."""
    docker = own_docker
    go = _folders(docker, "c1", "c2")
    for name in go:
        docker.run("-d", f"--name={name}", f"-v={go[name]}:/go", IMAGE, "sh", "-c", COUNTING)
    pids = {name: docker.state(name)["Pid"] for name in go}
    _lines(go["c1"], 0, 10)
    docker.wait_logs("c1", _text(10))

    docker.kill()
    if also != "dockerd":
        docker.containerd.kill()
    _lines(go["c1"], 10, 20)
    (go["c2"] / "stop").touch()
    until(lambda: not Path(f"/proc/{pids['c2']}").exists(), "c2 to end", limit_s=30)
    if also != "dockerd":
        docker.containerd.start()
    docker.start()

    assert docker.state("c1")["Pid"] == pids["c1"]
    ended = docker.wait_state("c2", "exited")
    assert ended["ExitCode"] == 7
    _lines(go["c1"], 20, 30)
    docker.wait_logs("c1", _text(30))
    assert docker.said("exec", "c1", "echo", "here") == "here"
    docker.docker("stop", "-t", "0", "c1")
    assert docker.state("c1")["ExitCode"] == 137
    docker.docker("rm", "c1", "c2")


@pytest.mark.matrix
def test_containers_end_with_their_daemon_and_start_with_it_again(own_docker: Dockerd) -> None:
    """Without live restore dockerd stops them as it ends, and starts some as it starts."""
    docker = own_docker
    docker.stop()
    docker.configure({**docker.config, "live-restore": False})
    docker.start()
    script = "trap 'echo term; exit 3' TERM; echo up; sleep 1000 & wait"
    for name, policy in (("c1", "always"), ("c2", "no")):
        docker.run("-d", f"--name={name}", f"--restart={policy}", IMAGE, "sh", "-c", script)
        docker.wait_logs(name, "up")
    pids = [docker.state(name)["Pid"] for name in ("c1", "c2")]

    docker.stop()
    assert not any(map(alive, pids))
    docker.start()

    docker.wait_logs("c1", "up\nterm\nup")
    assert docker.state("c1")["Status"] == "running"
    assert (docker.state("c2")["Status"], docker.state("c2")["ExitCode"]) == ("exited", 3)
    docker.docker("rm", "--force", "c1", "c2")


def _folders(docker: Dockerd, *names: str) -> dict[str, Path]:
    folders = {name: Path(docker.folder, f"go-{name}") for name in names}
    for folder in folders.values():
        folder.mkdir()
    return folders


def _lines(folder: Path, begin: int, end: int) -> None:
    for number in range(begin, end):
        (folder / str(number)).touch()


def _text(count: int) -> str:
    return "\n".join(f"line {number}" for number in range(count))
