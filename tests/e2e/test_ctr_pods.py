"""A pod as Debian's containerd sees it: `ctr run` with the annotation of the CRI plugin."""

import os

import pytest

from shimv2.shimctl.image import IMAGE
from shimv2.shimctl.testbed.containerd import Containerd
from shimv2.shimctl.testbed.leaks import alive
from shimv2.shimctl.testbed.until import until
from tests.support.host import RUNTIME

pytestmark = pytest.mark.root

POD = ("run", "--runtime", RUNTIME, "--annotation", "io.kubernetes.cri.sandbox-id=pause")
DETACHED = ("-d", "--null-io", IMAGE)


def test_two_containers_of_a_sandbox_share_one_shim(containerd: Containerd) -> None:
    """The member joins the pause container's shim, and outlives that container and the daemon."""
    containerd.ctr(*POD, *DETACHED, "pause", "sleep", "1000")
    shim = containerd.shim_pid("pause")
    containerd.ctr(*POD, *DETACHED, "member", "sleep", "1000")
    done = containerd.ctr(
        *POD, "--rm", IMAGE, "short", "sh", "-c", "echo in a pod; exit 4", check=False
    )

    assert (done.returncode, done.stdout) == (4, b"in a pod\n")
    for name in ("member", "short"):
        with pytest.raises(LookupError):
            containerd.shim_pid(name)
    member = containerd.tasks()["member"]
    with open(f"/proc/{member.pid}/status", encoding="ascii") as status:
        assert f"PPid:\t{shim}\n" in status.read()

    remove(containerd, "pause")
    assert containerd.tasks() == {"member": member}
    containerd.kill()
    containerd.start()
    assert containerd.tasks() == {"member": member}
    printed = containerd.ctr("task", "exec", "--exec-id", "e1", "member", "echo", "still here")
    assert printed.stdout == b"still here\n"
    remove(containerd, "member")

    until(lambda: not alive(shim), "the shim to end")


def remove(containerd: Containerd, name: str) -> None:
    containerd.ctr("task", "kill", "-s", "SIGKILL", name)
    containerd.wait_status(name, "STOPPED")
    assert containerd.remove_task(name) == 137
    containerd.ctr("container", "rm", name)


def test_pod_whose_first_container_is_killed_by_hand(containerd: Containerd) -> None:
    """The pause process is killed: its task is stopped, and the member continues."""
    containerd.ctr(*POD, *DETACHED, "pause", "sleep", "1000")
    containerd.ctr(*POD, *DETACHED, "member", "sleep", "1000")
    tasks = containerd.tasks()

    os.kill(tasks["pause"].pid, 9)

    containerd.wait_status("pause", "STOPPED")
    assert containerd.tasks()["member"] == tasks["member"]
    assert containerd.remove_task("pause") == 137
    remove(containerd, "member")
