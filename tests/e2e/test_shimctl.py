"""`shimctl` as an operator uses it: each command is a process."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest

from shimv2.shimctl.testbed.until import until
from tests.support.host import Host

pytestmark = pytest.mark.root

Shimctl = Callable[..., "subprocess.CompletedProcess[str]"]


def command(host: Host, *args: str) -> list[str]:
    mine = [sys.executable, "-m", "shimv2.shimctl", "--state", f"{host.folder}/s"]
    return [*mine, "--namespace", host.mark, *args]


@pytest.fixture
def shimctl(host: Host) -> Shimctl:
    def call(*args: str, stdin: str = "") -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            command(host, *args),
            check=False,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
        )

    return call


def test_run_passes_streams_environment_and_status_on(host: Host, shimctl: Shimctl) -> None:
    """Standard input, both outputs, variables, working directory, exit status."""
    script = "cat; echo $WORD in $PWD >&2; exit 3"
    flags = ("--shim", host.shim, "-i", "--env", "WORD=hello", "--cwd", "/tmp")
    done = shimctl("run", *flags, "--", "sh", "-c", script, stdin="typed\n")

    assert (done.returncode, done.stdout, done.stderr) == (3, "typed\n", "hello in /tmp\n")


def test_run_of_a_missing_program_fails_as_shimctl(host: Host, shimctl: Shimctl) -> None:
    """Its own failures have status 125 and one line, not a traceback."""
    done = shimctl("run", "--shim", host.shim, "--", "nosuch")

    assert (done.returncode, done.stdout) == (125, "")
    assert done.stderr.startswith("shimctl: OCI runtime create failed: ")
    assert done.stderr.count("\n") == 1


def test_run_with_a_root_of_the_users_own_leaves_it_unchanged(
    host: Host, shimctl: Shimctl, rootfs: str
) -> None:
    """The container writes to a layer of its own, which is removed with it."""
    script = "echo changed >/etc/passwd; echo new >/new"
    done = shimctl("run", "--shim", host.shim, "--rootfs", rootfs, "--", "sh", "-c", script)

    assert done.returncode == 0, done.stderr
    assert not os.path.exists(f"{rootfs}/new")
    with open(f"{rootfs}/etc/passwd", encoding="utf-8") as file:
        assert "changed" not in file.read()


def test_signal_to_run_reaches_the_container(host: Host) -> None:
    """The container handles it; its exit status is that of `shimctl`."""
    script = 'trap "echo told; exit 4" INT; echo up; while :; do sleep 0.05; done'
    client = subprocess.Popen(
        command(host, "run", "--shim", host.shim, "--", "sh", "-c", script),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert client.stdout is not None
    assert client.stdout.readline() == "up\n"
    client.send_signal(signal.SIGINT)
    output, _ = client.communicate(timeout=30)

    assert (client.returncode, output) == (4, "told\n")


def test_detached_container_works_with_all_commands(host: Host, shimctl: Shimctl) -> None:
    """run -d, list, exec, kill, attach: the output waits in the FIFO until a client attaches."""
    script = 'trap "exit 6" TERM; echo up; while :; do sleep 0.05; done'
    started = shimctl("run", "--shim", host.shim, "-d", "--id", "c1", "--", "sh", "-c", script)
    listed = shimctl("list").stdout
    executed = shimctl("exec", "c1", "-i", "--", "sh", "-c", "cat; exit 2", stdin="in\n")
    refused = shimctl("delete", "c1")
    client = subprocess.Popen(command(host, "attach", "c1"), stdout=subprocess.PIPE, text=True)
    assert client.stdout is not None
    first = client.stdout.readline()
    killed = shimctl("kill", "-s", "TERM", "c1")
    client.communicate(timeout=30)

    assert (started.returncode, started.stdout) == (0, "c1\n")
    assert [line.split()[2] for line in listed.splitlines()[1:]] == ["RUNNING"]
    assert (executed.returncode, executed.stdout) == (2, "in\n")
    assert (refused.returncode, refused.stderr) == (
        125,
        "shimctl: cannot delete a running process\n",
    )
    assert (first, killed.returncode, client.returncode) == ("up\n", 0, 6)
    assert shimctl("list").stdout.count("\n") == 1


def test_kept_container_is_deleted_with_its_status(host: Host, shimctl: Shimctl) -> None:
    """The stopped task stays until `delete`, which prints its status."""
    kept = shimctl("run", "--shim", host.shim, "--keep", "--id", "c1", "--", "sh", "-c", "exit 5")
    listed = shimctl("list").stdout.splitlines()[1].split()
    deleted = shimctl("delete", "c1")

    assert kept.returncode == 5
    assert listed[2:4] == ["STOPPED", "5"]
    assert (deleted.returncode, deleted.stdout) == (0, "5\n")
    assert shimctl("delete", "c1").stderr.startswith("shimctl: no container c1")


@pytest.mark.ours("the Go shim leaves the stale socket")
def test_container_of_a_dead_shim_is_deleted_by_force(host: Host, shimctl: Shimctl) -> None:
    """A crash leaves a container without a shim: `list` shows that, and it can be removed."""
    shimctl("run", "--shim", host.shim, "-d", "--id", "c1", "--", "sleep", "1000")
    shim = int(shimctl("list").stdout.splitlines()[1].split()[4])
    os.kill(shim, signal.SIGKILL)
    until(lambda: "NO SHIM" in shimctl("list").stdout, "the shim to be gone")

    assert "does not answer" in shimctl("delete", "c1").stderr
    forced = shimctl("delete", "--force", "c1")
    assert (forced.returncode, forced.stdout) == (0, "137\n")


@pytest.mark.runc("make run uses runc only")
def test_story_of_make_run_is_true(host: Host) -> None:
    """`make run`: output, status, a killed client, one that takes over, and no leftovers."""
    done = subprocess.run(
        [sys.executable, "-m", "shimv2.shimctl.story", "--shim", host.shim],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "hello from pid 1" in done.stdout
    assert "Nothing is left" in done.stdout
