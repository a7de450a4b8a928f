"""Checkpoint and restore with the real CRIU, by ctr."""

import os
import shutil
from pathlib import Path

import pytest

from shimv2.shimctl.image import IMAGE
from shimv2.shimctl.testbed.containerd import Containerd
from shimv2.shimctl.testbed.until import until
from tests.support.host import RUNTIME, Host

pytestmark = [
    pytest.mark.root,
    pytest.mark.criu,
    pytest.mark.runc("Debian's crun is built without checkpoints"),
]

RUN = ("run", "--runtime", RUNTIME, "-d", "--null-io", IMAGE)
# In memory, because a task's checkpoint does not contain the root file system.
KEEP = "i=0; while :; do i=$((i+1)); echo $i >/run/n.new; mv /run/n.new /run/n; sleep 0.05; done"


def number(containerd: Containerd, name: str) -> int:
    """Return the last number that it has written; 0 if there is none yet."""
    try:
        return int(Path(f"/proc/{containerd.tasks()[name].pid}/root/run/n").read_text())
    except FileNotFoundError:
        return 0


def end_task(containerd: Containerd, name: str) -> None:
    containerd.ctr("task", "kill", "-s", "SIGKILL", name)
    containerd.wait_status(name, "STOPPED")
    assert containerd.remove_task(name) == 137
    containerd.ctr("container", "rm", name)


def test_ctr_task_checkpoint_writes_an_image(
    containerd: Containerd, criu: str, host: Host, tmp_path: Path
) -> None:
    """`ctr task checkpoint --image-path`, without and with --exit.

    ctr passes both only to a runtime with the name of containerd's own, so the shim has that here.
    """
    os.rename(host.shim, os.path.join(host.bin, "containerd-shim-runc-v2"))
    run = (*RUN[:2], "io.containerd.runc.v2", *RUN[3:])
    containerd.ctr(*run, "c1", "sh", "-c", KEEP)
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    containerd.ctr("task", "checkpoint", "--image-path", str(first), "c1")
    assert containerd.tasks()["c1"].status == "RUNNING"
    assert (first / "inventory.img").exists()
    containerd.ctr("task", "checkpoint", "--exit", "--image-path", str(second), "c1")
    containerd.wait_status("c1", "STOPPED")
    assert (second / "inventory.img").exists()
    assert containerd.remove_task("c1") == 137
    containerd.ctr("container", "rm", "c1")


def test_ctr_restores_a_checkpointed_container(
    containerd: Containerd, criu: str, host: Host
) -> None:
    """`ctr c checkpoint --image --rw --task` and `ctr c restore --live --rw`: it counts on."""
    containerd.ctr(*RUN, "c1", "sh", "-c", KEEP)
    until(lambda: number(containerd, "c1") > 10, "it to count")
    containerd.ctr("c", "checkpoint", "--image", "--rw", "--task", "c1", "checkpoint/c1")
    until(lambda: number(containerd, "c1") > 10, "it to count on")
    containerd.ctr("task", "kill", "-s", "SIGKILL", "c1")
    containerd.wait_status("c1", "STOPPED")
    containerd.remove_task("c1")
    containerd.ctr("c", "restore", "--live", "--rw", "c2", "checkpoint/c1")
    assert containerd.tasks()["c2"].status == "RUNNING"
    begun = number(containerd, "c2")
    assert begun > 10
    until(lambda: number(containerd, "c2") > begun, "the restored one to count on")
    end_task(containerd, "c2")
    containerd.ctr("container", "rm", "c1")
    for copy in Path(host.folder, "tmp").glob("ctrd-checkpoint*"):
        shutil.rmtree(copy)  # the daemon's own copy
