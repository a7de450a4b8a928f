"""dockerd and containerd are killed and started again; containers do not notice."""

from pathlib import Path

import pytest

from tests.daemons.docker import every_pair
from tests.support.dockerd import IMAGE, Dockerd
from tests.support.leaks import alive
from tests.support.until import until

pytestmark = [pytest.mark.root, every_pair]

LAST = 200_000  # 1.3 MB of lines
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
def test_output_of_a_time_without_daemons_is_all_there(own_docker: Dockerd) -> None:
    """More than pipes hold: the container waits for a reader, and goes on where it stopped."""
    docker = own_docker
    script = f"until [ -e /go/go ]; do sleep 0.05; done; seq {LAST}; echo over >&2"
    go = _folders(docker, "c1")["c1"]
    docker.run("-d", "--name=c1", f"-v={go}:/go", IMAGE, "sh", "-c", script)
    pid = docker.state("c1")["Pid"]

    docker.kill()
    docker.containerd.kill()
    (go / "go").touch()
    until(lambda: _sleeps_in_a_write(pid), "the container to wait for a reader", limit_s=60)
    docker.containerd.start()
    docker.start()
    docker.wait_state("c1", "exited", limit_s=60)

    logs = docker.docker("logs", "c1")
    assert logs.stdout.split() == [b"%d" % number for number in range(1, LAST + 1)]
    assert logs.stderr == b"over\n"
    docker.docker("rm", "c1")


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


def _sleeps_in_a_write(pid: int) -> bool:
    """Tell whether the last process that was started in a container has a full pipe."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return bool(children) and "pipe_write" in Path(f"/proc/{children[-1]}/wchan").read_text()


def _lines(folder: Path, begin: int, end: int) -> None:
    for number in range(begin, end):
        (folder / str(number)).touch()


def _text(count: int) -> str:
    return "\n".join(f"line {number}" for number in range(count))
