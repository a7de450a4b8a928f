"""dockerd and containerd are killed and started again; containers are not affected."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from shimv2.shimctl.testbed.leaks import alive
from shimv2.shimctl.testbed.until import until
from tests.daemons.docker import every_pair
from tests.support.dockerd import IMAGE, Dockerd

pytestmark = [pytest.mark.root, every_pair]

LAST = 200_000  # 1.3 MB of lines
# Writes line N as soon as a file of that name exists; ends if a file `stop` exists instead.
COUNTING = """
n=0
while :; do
  if [ -e /go/$n ]; then echo line $n; n=$((n+1))
  elif [ -e /go/stop ]; then exit 7
  else sleep 0.05
  fi
done
"""


crashes = pytest.mark.parametrize(
    "crash", [pytest.param(("dockerd",), marks=pytest.mark.matrix), ("dockerd", "containerd")]
)


@crashes
def test_containers_survive_a_crash_of_their_daemons(
    own_docker: Dockerd, crash: Sequence[str]
) -> None:
    """The same process, each line once; exec, stop and exit status work."""
    docker = own_docker
    go = _counting(docker)
    pid = docker.state("c1")["Pid"]
    _lines(go, 0, 10)
    docker.wait_logs("c1", _text(10))

    with _down(docker, crash):
        _lines(go, 10, 20)

    assert docker.state("c1")["Pid"] == pid
    _lines(go, 20, 30)
    docker.wait_logs("c1", _text(30))
    assert docker.output("exec", "c1", "echo", "here") == "here"
    docker.docker("stop", "-t", "0", "c1")
    assert docker.state("c1")["ExitCode"] == 137
    docker.docker("rm", "c1")


@pytest.mark.ours(
    "the Go shim lists no pids for a stopped task: newer containerd forgets its status, 255"
)
@crashes
def test_status_of_a_time_without_daemons_is_reported(
    own_docker: Dockerd, crash: Sequence[str]
) -> None:
    """A container that exits while no daemon runs: its last line and its status."""
    docker = own_docker
    go = _counting(docker)
    pid = docker.state("c1")["Pid"]

    with _down(docker, crash):
        _lines(go, 0, 10)
        (go / "stop").touch()
        until(lambda: not alive(pid), "the container to end", limit_s=60)

    assert docker.wait_state("c1", "exited")["ExitCode"] == 7
    # dockerd opens the FIFOs, and cancels that when it calls Delete: a FIFO that is not open yet is
    # not read.
    if not docker.logged("stream copy error: reading from a closed fifo"):
        docker.wait_logs("c1", _text(10))
    docker.docker("rm", "c1")


@pytest.mark.matrix
def test_output_of_a_time_without_daemons_is_all_there(own_docker: Dockerd) -> None:
    """More than fits into pipes: the container waits for a reader, and continues where it
    stopped."""
    docker = own_docker
    script = f"until [ -e /go/go ]; do sleep 0.05; done; seq {LAST}; echo over >&2"
    go = _folder(docker)
    docker.run("-d", "--name=c1", f"-v={go}:/go", IMAGE, "sh", "-c", script)
    pid = docker.state("c1")["Pid"]

    with _down(docker, ("dockerd", "containerd")):
        (go / "go").touch()
        until(lambda: _sleeps_in_a_write(pid), "the container to wait for a reader", limit_s=60)
    docker.wait_state("c1", "exited", limit_s=60)

    logs = docker.docker("logs", "c1")
    assert logs.stdout.split() == [b"%d" % number for number in range(1, LAST + 1)]
    assert logs.stderr == b"over\n"
    docker.docker("rm", "c1")


@pytest.mark.matrix
def test_containers_end_with_their_daemon_and_start_with_it_again(own_docker: Dockerd) -> None:
    """Without live restore dockerd stops them when it stops, and starts some when it starts."""
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


@contextmanager
def _down(docker: Dockerd, daemons: Sequence[str]) -> Iterator[None]:
    """Kill dockerd, and containerd if it is named; start them again at the end."""
    docker.kill()
    if "containerd" in daemons:
        docker.containerd.kill()
    yield
    if "containerd" in daemons:
        docker.containerd.start()
    docker.start()


def _counting(docker: Dockerd) -> Path:
    """Start the container c1, which prints numbers; return the folder that it watches."""
    go = _folder(docker)
    docker.run("-d", "--name=c1", f"-v={go}:/go", IMAGE, "sh", "-c", COUNTING)
    return go


def _folder(docker: Dockerd) -> Path:
    folder = Path(docker.folder, "go")
    folder.mkdir()
    return folder


def _sleeps_in_a_write(pid: int) -> bool:
    """Whether the last process that was started in a container has a full pipe."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return bool(children) and "pipe_write" in Path(f"/proc/{children[-1]}/wchan").read_text()


def _lines(folder: Path, begin: int, end: int) -> None:
    for number in range(begin, end):
        (folder / str(number)).touch()


def _text(count: int) -> str:
    return "\n".join(f"line {number}" for number in range(count))
