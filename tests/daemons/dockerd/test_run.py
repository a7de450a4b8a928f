"""docker run: output, input, statuses and texts, and the options of a container."""

import os
from contextlib import ExitStack

import pytest

from tests.daemons.docker import every_pair
from tests.daemons.pairs import Pair
from tests.support.dockerd import IMAGE, Dockerd

pytestmark = [pytest.mark.root, every_pair]

MIB = 1 << 20


def test_run_shows_both_streams_and_the_status(docker: Dockerd) -> None:
    """The foreground client prints the output of the container and exits with its status."""
    done = docker.run("--rm", IMAGE, "sh", "-c", "echo out; echo err >&2; exit 3", check=False)

    assert (done.stdout, done.stderr, done.returncode) == (b"out\n", b"err\n", 3)


def test_one_mebibyte_goes_in_and_comes_out_unchanged(docker: Dockerd) -> None:
    """`docker run -i`: all of stdin arrives, its end too, and all of it comes back."""
    data = os.urandom(MIB)

    done = docker.run("-i", "--rm", IMAGE, "cat", stdin=data)

    assert done.stdout == data


@pytest.mark.parametrize(
    ("program", "status"), [("nosuchprogram", 127), ("/no/such/path", 127), ("/etc/passwd", 126)]
)
def test_program_that_cannot_be_run_is_reported_by_the_status(
    docker: Dockerd, pair: Pair, program: str, status: int
) -> None:
    """dockerd and its client derive it from the runtime's text, which the shim passes on.

    The client knows only runc's texts, and takes others for a failure of the daemon.  dockerd does
    not know the text of newer crun for a file that is not executable: 128.
    """
    done = docker.run("--name=c1", IMAGE, program, check=False)

    assert b"OCI runtime create failed" in done.stderr
    assert done.returncode == (status if pair.runtime.startswith("runc") else 125)
    unknown = (pair.runtime, status) == ("crun-sid", 126)
    assert docker.state("c1")["ExitCode"] == (128 if unknown else status)
    docker.docker("rm", "c1")


@pytest.mark.matrix
def test_ten_containers_at_once_all_answer(docker: Dockerd) -> None:
    """Parallel creates, runs and removals of one daemon do not disturb each other."""
    with ExitStack() as stack:
        clients = [
            stack.enter_context(
                docker.running(
                    *("run", "--rm", "--network=none", IMAGE, "sh", "-c"),
                    f"echo I am {number}; exit {number}",
                )
            )
            for number in range(10)
        ]
        outputs = [client.communicate(timeout=100)[0] for client in clients]

    assert outputs == [f"I am {number}\n".encode() for number in range(10)]
    assert [client.returncode for client in clients] == list(range(10))


@pytest.mark.matrix
def test_unknown_runtime_is_refused(docker: Dockerd) -> None:
    """dockerd itself refuses it, with its status for an invalid request: 125."""
    done = docker.run("--rm", "--runtime=nosuch", IMAGE, "true", check=False)

    assert done.returncode == 125
    assert b"nosuch" in done.stderr


def test_container_has_the_user_limits_and_folders_asked_for(docker: Dockerd) -> None:
    """--user, --ulimit, --env, --workdir, --hostname, --read-only reach the process."""
    flags = (
        "--user=65534:65533",
        "--ulimit=nofile=123:456",
        "--env=WORD=a b",
        "--workdir=/var/log",
        "--hostname=box",
        "--read-only",
    )
    script = 'id -u; id -g; ulimit -Sn; ulimit -Hn; echo "$WORD"; pwd; hostname; touch /tmp/x'

    done = docker.run("--rm", *flags, IMAGE, "sh", "-c", script, check=False)

    assert done.stdout.decode().splitlines() == [
        *("65534", "65533", "123", "456", "a b", "/var/log", "box")
    ]
    assert b"Read-only file system" in done.stderr


@pytest.mark.matrix
def test_init_is_the_first_process_and_passes_signals_on(docker: Dockerd) -> None:
    """--init: docker's own small init around the program."""
    docker.run("-d", "--name=c1", "--init", IMAGE, "sleep", "1000")
    first = docker.output("exec", "c1", "cat", "/proc/1/cmdline").split("\0")
    docker.docker("stop", "c1")

    assert first[0].endswith("docker-init")
    assert docker.state("c1")["ExitCode"] == 143
    docker.docker("rm", "c1")


def test_process_killed_for_memory_is_shown_as_that(docker: Dockerd) -> None:
    """OOMKilled, 137, and an oom event before the die event."""
    limits = ("--memory=32m", "--memory-swap=32m")
    done = docker.run("--name=c1", *limits, IMAGE, "tail", "/dev/zero", check=False)

    state = docker.state("c1")
    assert (done.returncode, state["ExitCode"], state["OOMKilled"]) == (137, 137, True)
    actions = [action for action, _ in docker.events(docker.id("c1"))]
    assert actions.index("oom") < actions.index("die")
    docker.docker("rm", "c1")
