"""`delete` of containers that run: with a real runtime."""

import json
import os
import select
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from protos.task_v2_pb2 import DeleteResponse
from shimv2.kernel.proc import start_time_of
from shimv2.task.exits import ExitRecords
from shimv2.values.model import Exit
from tests.support.boot import Boot, Done

pytestmark = [pytest.mark.root, pytest.mark.vm]

AT_NS = 1_700_000_000_123_456_789


@pytest.fixture
def boot() -> Iterator[Boot]:
    with Boot() as made:
        yield made


def response(done: Done) -> DeleteResponse:
    assert done.returncode == 0, done.stderr
    return DeleteResponse.FromString(done.stdout)


@pytest.fixture
def running(boot: Boot) -> Iterator[tuple[Path, int]]:
    """Run a container whose rootfs is a mount; yield its bundle and a pidfd of its init."""
    bundle = boot.bundle("c1")
    rootfs = bundle / "rootfs"
    rootfs.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", rootfs], check=True)
    try:
        (rootfs / "bin").mkdir()
        shutil.copy("/bin/busybox", rootfs / "bin" / "sh")
        (bundle / "config.json").unlink()
        subprocess.run(["runc", "spec"], cwd=bundle, check=True)
        spec = json.loads((bundle / "config.json").read_text())
        spec["process"] |= {"terminal": False, "args": ["/bin/sh", "-c", "while :; do :; done"]}
        spec["linux"]["cgroupsPath"] = f"/{boot.namespace}/c1"
        (bundle / "config.json").write_text(json.dumps(spec))
        root = f"/run/containerd/runc/{boot.namespace}"
        words = ["runc", "--root", root, "run", "--detach", "--pid-file", "init.pid", "c1"]
        null = subprocess.DEVNULL
        subprocess.run(words, cwd=bundle, check=True, stdin=null, stdout=null, stderr=null)
        fd = os.pidfd_open(int((bundle / "init.pid").read_text()))
        try:
            yield bundle, fd
        finally:
            os.close(fd)
            subprocess.run(
                ["runc", "--root", root, "delete", "--force", "c1"], check=False, stderr=null
            )
    finally:
        subprocess.run(["umount", rootfs], check=False, stderr=subprocess.DEVNULL)
        for path in Path("/sys/fs/cgroup").glob(f"*/{boot.namespace}"):
            path.rmdir()


def ended(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


@pytest.mark.rule("cli.delete.5")
def test_running_container_is_killed_and_its_rootfs_unmounted(
    boot: Boot, running: tuple[Path, int]
) -> None:
    """After a SIGKILL of the shim nothing of the container is left."""
    bundle, pidfd = running
    assert not ended(pidfd)

    done = boot.delete("c1")

    answer = response(done)
    assert (str(answer.pid), answer.exit_status) == ((bundle / "init.pid").read_text(), 137)
    assert done.stderr == b""
    assert ended(pidfd)
    assert str(bundle) not in Path("/proc/self/mountinfo").read_text()
    assert not os.path.exists(f"/run/containerd/runc/{boot.namespace}/c1")


def test_running_container_is_not_believed_to_have_ended(
    boot: Boot, running: tuple[Path, int]
) -> None:
    """A record with the pid and start time of a running process is false."""
    bundle, _ = running
    pid = int((bundle / "init.pid").read_text())
    records = ExitRecords(str(bundle), "c1")
    records.write_init(Exit(pid, 3, AT_NS), start_time=start_time_of(pid))
    records.close()

    assert response(boot.delete("c1")).exit_status == 137


def test_wrong_root_is_reported_and_the_container_stays(
    boot: Boot, running: tuple[Path, int]
) -> None:
    """If Create's root is not known, nothing is guessed or killed."""
    bundle, pidfd = running
    (bundle / "options.json").write_text(json.dumps({"root": str(boot.folder / "elsewhere")}))
    subprocess.run(["umount", "-l", bundle / "rootfs"], check=True)

    done = boot.delete("c1")

    assert response(done).exit_status == 137
    assert not ended(pidfd)


def test_files_mounted_where_a_restore_was_interrupted_are_left_alone(boot: Boot) -> None:
    """The runtime removes its folder recursively: nothing may be mounted there."""
    boot.bundle("c1")
    kept = boot.folder / "kept"
    kept.mkdir()
    (kept / "file").write_text("content")
    state = Path(f"/run/containerd/runc/{boot.namespace}/c1")
    (state / "criu-root").mkdir(parents=True)
    subprocess.run(["mount", "--bind", kept, state / "criu-root"], check=True)

    try:
        done = boot.delete("c1")
        still_mounted = os.path.ismount(state / "criu-root")
    finally:
        subprocess.run(["umount", state / "criu-root"], check=False, stderr=subprocess.DEVNULL)

    assert done.returncode == 0
    assert not still_mounted
    assert (kept / "file").read_text() == "content"
    assert not state.exists()


def test_restore_that_a_dead_shim_has_left_is_ended_before_it_goes_on(boot: Boot) -> None:
    """The runtime's death signal may come after `delete`; CRIU has none, and continues."""
    bundle = boot.bundle("c1")
    (bundle / "work").mkdir()
    state = Path(f"/run/containerd/runc/{boot.namespace}/c1")
    (state / "criu-root").mkdir(parents=True)
    subprocess.run(["mount", "--bind", boot.folder, state / "criu-root"], check=True)
    words = ["sh", "-c", "sleep 1000; :", "--log", f"{bundle}/log.json", "restore"]
    runtime = subprocess.Popen(words, start_new_session=True)
    criu = subprocess.Popen(["sleep", "1000"], cwd=bundle / "work")

    try:
        boot.delete("c1")
        assert runtime.wait(timeout=10) == -signal.SIGKILL
        assert criu.wait(timeout=10) == -signal.SIGKILL
    finally:
        subprocess.run(["umount", state / "criu-root"], check=False, stderr=subprocess.DEVNULL)
        os.killpg(runtime.pid, signal.SIGKILL)

    assert not state.exists()
