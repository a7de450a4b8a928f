"""Kubernetes' interface: output and input of containers, their logs, and the ports of pods."""

import re
import subprocess

import pytest

from shimv2.shimctl.testbed.until import until
from tests.daemons.pairs import pairs
from tests.daemons.pods import Pods
from tests.support.terminal import Terminal

PAIRS = [*pairs("CRI 1.6"), *pairs("CRI 1.7"), *pairs("CRI 2.1")]
pytestmark = [pytest.mark.root, pytest.mark.parametrize("pair", PAIRS, indirect=True)]

SLEEP = ("sleep", "1000")
LINES = 5000


def test_log_has_every_line_of_each_stream_in_order(pods: Pods) -> None:
    """Nothing is lost or mixed up, whether the container or its output ends first."""
    pod = pods.run()
    script = f"i=0; while [ $i -lt {LINES} ]; do echo out $i; echo err $i >&2; i=$((i+1)); done"
    container = pods.start(pod, "c", "sh", "-c", script)
    assert pods.exited(container)["exitCode"] == 0

    done = pods.log(container)

    for name, output in (("out", done.stdout), ("err", done.stderr)):
        assert output.decode().splitlines() == [f"{name} {number}" for number in range(LINES)]
    pods.remove(pod)


def test_exec_through_the_served_streams(pods: Pods) -> None:
    """Both outputs, the input and the exit status come through."""
    pod = pods.run()
    container = pods.start(pod, "c", *SLEEP)

    done = pods.exec(container, "sh", "-c", "echo out; echo err >&2; exit 3")
    echoed = pods.daemon.crictl("exec", "-i", container, "cat", stdin=b"x" * 300_000)

    assert done.stdout == b"out\n"
    # crictl's own exit status shows only that it failed.
    assert re.match(rb"err\n.*command terminated with exit code 3", done.stderr, re.DOTALL)
    assert echoed.stdout == b"x" * 300_000
    pods.remove(pod)


def test_exec_sync_returns_outputs_and_status(pods: Pods) -> None:
    """Probes use this call, whose answer has all of it."""
    pod = pods.run()
    container = pods.start(pod, "c", *SLEEP)

    good = pods.daemon.crictl("exec", "--sync", container, "sh", "-c", "echo out; echo err >&2")
    bad = pods.daemon.crictl("exec", "--sync", container, "sh", "-c", "exit 4", check=False)
    none = pods.daemon.crictl("exec", "--sync", container, "/no/such", check=False)

    assert good.stdout == b"out\n\nerr\n\n"  # crictl prints one after the other, and a newline
    assert b"exited with 4" in bad.stderr
    assert b"no such file or directory" in none.stderr.lower()
    pods.remove(pod)


def test_exec_sync_whose_time_is_over_is_killed(pods: Pods) -> None:
    """A probe that hangs is reported and killed; the container continues."""
    pod = pods.run()
    container = pods.start(pod, "c", *SLEEP)

    done = pods.daemon.crictl(
        "exec", "--sync", "--timeout", "1", container, "sleep", "4321", check=False
    )

    assert done.returncode != 0
    assert b"DeadlineExceeded" in done.stderr
    assert b"4321" not in pods.exec(container, "ps").stdout
    assert pods.status(container)["state"] == "CONTAINER_RUNNING"
    pods.remove(pod)


def test_exec_in_a_terminal(pods: Pods) -> None:
    """`crictl exec -it`: a shell at a terminal, whose size follows the user's."""
    pod = pods.run()
    container = pods.start(pod, "c", *SLEEP)

    with Terminal(
        pods.daemon.crictl_command("exec", "-it", container, "sh"), columns=91, rows=31
    ) as user:
        user.type(b"until stty size | grep '31 91'; do :; done; echo sized $((6*7))\n")
        user.expect(rb"sized 42\r\n")
        user.resize(101, 33)
        user.type(b"until stty size | grep '33 101'; do :; done; echo sized $((7*7))\n")
        user.expect(rb"sized 49\r\n")
        user.type(b"exit 6\n")
        user.expect(rb"command terminated with exit code 6")
        assert user.wait() == 1
    pods.remove(pod)


def test_attach_and_detach_and_attach_again(pods: Pods) -> None:
    """A container with an open input reads each client's input, and all its output is logged."""
    pod = pods.run()
    script = "while read -r line; do echo got $line; done; echo end"
    container = pods.start(pod, "c", "sh", "-c", script, stdin=True)

    for word in (b"one", b"two"):
        with subprocess.Popen(
            pods.daemon.crictl_command("attach", "-i", container),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as client:
            assert client.stdin is not None
            assert client.stdout is not None
            client.stdin.write(word + b"\n")
            client.stdin.flush()
            assert client.stdout.readline() == b"got " + word + b"\n"
            client.kill()

    assert pods.log(container).stdout == b"got one\ngot two\n"
    assert pods.status(container)["state"] == "CONTAINER_RUNNING"
    pods.remove(pod)


def test_input_that_is_given_once_ends_with_its_client(pods: Pods) -> None:
    """With stdinOnce the end of the first client's input is the container's end of file."""
    pod = pods.run()
    container = pods.start(
        pod, "c", "sh", "-c", "cat; echo end; exit 5", stdin=True, stdin_once=True
    )

    pods.daemon.crictl("attach", "-i", container, stdin=b"all of it\n")

    assert pods.exited(container)["exitCode"] == 5
    assert pods.log(container).stdout == b"all of it\nend\n"
    pods.remove(pod)


def test_container_with_a_terminal(pods: Pods) -> None:
    """`tty: true`: attached to as to a shell, and logged as one stream."""
    pod = pods.run()
    container = pods.start(pod, "c", "sh", stdin=True, tty=True)

    with Terminal(pods.daemon.crictl_command("attach", "-it", container)) as user:
        user.type(b"tty; echo $((6*7))\n")
        user.expect(rb"/dev/pts/0\r\n.*42\r\n")
        user.type(b"exit 8\n")
        user.wait()

    assert pods.exited(container)["exitCode"] == 8
    assert b"/dev/pts/0" in pods.log(container).stdout
    pods.remove(pod)


def test_port_forward_reaches_a_server_in_the_pod(pods: Pods) -> None:
    """A connection to the forwarded port ends at the pod's loopback address."""
    pod = pods.run()
    script = "echo 'from the pod' >/tmp/i; exec httpd -f -p 127.0.0.1:8000 -h /tmp"
    server = pods.start(pod, "c", "sh", "-c", script)
    # Free: the daemon's network namespace has no other process.
    fetch = pods.daemon.inside("busybox", "wget", "-qO-", "http://127.0.0.1:9000/i")
    until(
        lambda: pods.exec(server, "wget", "-qO-", "http://127.0.0.1:8000/i").returncode == 0,
        "the server to answer",
    )

    with subprocess.Popen(
        pods.daemon.crictl_command("port-forward", pod.id, "9000:8000"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as forward:
        until(
            lambda: (
                subprocess.run(fetch, check=False, capture_output=True).stdout == b"from the pod\n"
            ),
            "the page through the forwarded port",
        )
        forward.kill()
    pods.remove(pod)


def test_logs_of_short_lived_containers_that_run_at_the_same_time(pods: Pods) -> None:
    """Twelve at a time, four times: none of their logs is empty, however fast they end."""
    for round_ in range(4):
        pod = pods.run(f"pod{round_}")
        made = [pods.create(pod, f"c{number}", "echo", f"line {number}") for number in range(12)]
        starts = [
            subprocess.Popen(
                pods.daemon.crictl_command("start", container), stdout=subprocess.DEVNULL
            )
            for container in made
        ]
        assert [start.wait(timeout=60) for start in starts] == [0] * 12

        assert [pods.exited(container)["exitCode"] for container in made] == [0] * 12
        assert [pods.log(container).stdout.decode() for container in made] == [
            f"line {number}\n" for number in range(12)
        ]
        pods.remove(pod)
