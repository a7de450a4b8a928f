"""Shims of different versions and makers on one machine: an upgrade replaces the program only.

The running shim is that of before.  The installed one runs `start` for members of its pod, and
every `delete`.
"""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from shimv2.shimctl.image import IMAGE
from shimv2.shimctl.testbed.containerd import Containerd
from shimv2.shimctl.testbed.leaks import alive
from shimv2.shimctl.testbed.releases import GO_SHIM, RELEASES, find_release
from shimv2.shimctl.testbed.until import until
from tests.daemons.pairs import Pair, pairs
from tests.support.history import BEFORE, NoHistory, install_older
from tests.support.host import Host

pytestmark = [
    pytest.mark.root,
    pytest.mark.matrix,
    pytest.mark.ours("two versions of ours, or ours and another"),
]
every_daemon = pytest.mark.parametrize(
    "pair",
    [each for name in RELEASES for each in pairs(f"containerd {name}", runtimes=("runc",))],
    indirect=True,
)
every_version = pytest.mark.parametrize("version", BEFORE)
RUN: Final = ("run", "--runtime", "io.containerd.runc.v2")
POD: Final = (*RUN, "--annotation", "io.kubernetes.cri.sandbox-id=pause")
DETACHED: Final = ("-d", "--null-io", IMAGE)
Install = Callable[[str], None]


@pytest.fixture
def install(host: Host) -> Install:
    """Replaces the shim that the daemon runs by one rename, as an upgrade does."""

    def replace(program: str) -> None:
        new = os.path.join(host.bin, "new")
        os.symlink(program, new)
        os.rename(new, os.path.join(host.bin, GO_SHIM))

    return replace


@pytest.fixture
def older(version: str, host: Host) -> str:
    try:
        return install_older(version, host.folder)
    except NoHistory as error:
        pytest.skip(str(error))


@pytest.fixture
def go(pair: Pair) -> str:
    """The Go shim that comes with the daemon."""
    return find_release(pair.release).shim


@every_daemon
@every_version
def test_pod_of_an_older_version_is_joined_by_this_one(
    containerd: Containerd, install: Install, older: str, host: Host
) -> None:
    """The new `start` makes the member a container of the old shim."""
    _pod_of_two(containerd, install, older, host.shim)


@every_daemon
def test_pod_of_the_go_shim_is_joined_by_ours(
    containerd: Containerd, install: Install, go: str, host: Host
) -> None:
    """The socket's name and the protocol are the same."""
    _pod_of_two(containerd, install, go, host.shim)


@every_daemon
def test_pod_of_ours_is_joined_by_the_go_shim(
    containerd: Containerd, install: Install, go: str, host: Host
) -> None:
    """The reverse, as in a downgrade."""
    _pod_of_two(containerd, install, host.shim, go)


@every_daemon
@every_version
def test_container_of_an_older_version_continues_after_the_upgrade(
    containerd: Containerd, install: Install, older: str, host: Host
) -> None:
    """It accepts execs, outlives the daemon and reports its status; the new `delete` removes it."""
    install(older)
    script = 'trap "exit 42" TERM; echo up; while :; do sleep 0.05; done'
    log = Path(containerd.folder, "log")
    containerd.ctr(*RUN, "-d", "--log-uri", f"file://{log}", IMAGE, "c1", "sh", "-c", script)
    until(log.read_bytes, "the container to be up")
    install(host.shim)

    containerd.kill()
    containerd.start()

    _executed_in(containerd, "c1")
    containerd.ctr("task", "kill", "-s", "SIGTERM", "c1")
    containerd.wait_status("c1", "STOPPED")
    assert containerd.remove_task("c1") == 42
    containerd.ctr("container", "rm", "c1")


@every_daemon
@every_version
def test_container_whose_older_shim_is_killed_is_cleaned_up_by_this_version(
    containerd: Containerd, install: Install, older: str, host: Host
) -> None:
    """The new `delete` reads the files of the old shim in the bundle."""
    install(older)
    containerd.ctr(*RUN, *DETACHED, "c1", "sleep", "1000")
    init = containerd.tasks()["c1"].pid
    install(host.shim)

    os.kill(containerd.shim_pid("c1"), signal.SIGKILL)

    until(lambda: not alive(init), "the container to be dead")
    until(lambda: "c1" not in containerd.tasks(), "the task to be forgotten")
    containerd.ctr("container", "rm", "c1")


def _pod_of_two(containerd: Containerd, install: Install, first: str, second: str) -> None:
    """Run a pod whose first container is made by one shim and the second by another."""
    install(first)
    containerd.ctr(*POD, *DETACHED, "pause", "sleep", "1000")
    shim = containerd.shim_pid("pause")
    install(second)
    containerd.ctr(*POD, *DETACHED, "member", "sleep", "1000")
    short = containerd.ctr(
        *POD, "--rm", IMAGE, "short", "sh", "-c", "echo in a pod; exit 4", check=False
    )

    assert (short.returncode, short.stdout) == (4, b"in a pod\n")
    for name in ("member", "short"):
        with pytest.raises(LookupError):
            containerd.shim_pid(name)
    tasks = containerd.tasks()
    status = Path(f"/proc/{tasks['member'].pid}/status").read_text(encoding="ascii")
    assert f"PPid:\t{shim}\n" in status

    containerd.kill()
    containerd.start()
    assert containerd.tasks() == tasks
    for name in ("pause", "member"):
        _executed_in(containerd, name)
    for name in ("pause", "member"):
        assert alive(shim)
        _removed(containerd, name)
    until(lambda: not alive(shim), "the shim to end")


def _executed_in(containerd: Containerd, name: str) -> None:
    done = containerd.ctr(
        "task", "exec", "--exec-id", "e1", name, "sh", "-c", "echo in; exit 3", check=False
    )
    assert (done.returncode, done.stdout) == (3, b"in\n"), name


def _removed(containerd: Containerd, name: str) -> None:
    containerd.ctr("task", "kill", "-s", "SIGKILL", name)
    containerd.wait_status(name, "STOPPED")
    assert containerd.remove_task(name) == 137
    containerd.ctr("container", "rm", name)
