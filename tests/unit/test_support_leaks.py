"""The leak counters themselves: a faulty counter would find no leak."""

import os
import socket
import subprocess
import threading
from pathlib import Path

import pytest

from shimv2.shimctl.testbed.leaks import OwnState, alive, ancestors, children_of, command, own_leaks
from shimv2.shimctl.testbed.until import until
from tests.support.host import Host


def test_open_fd_is_counted_until_it_is_closed() -> None:
    """An fd that was opened after the snapshot is reported with its target."""
    before = OwnState.now()
    fd = os.open("/dev/null", os.O_RDONLY)

    assert own_leaks(before, grace_s=0) == [f"fd {fd} -> /dev/null"]
    os.close(fd)
    assert own_leaks(before, grace_s=0) == []


def test_reused_fd_number_is_counted() -> None:
    """The same number with another target is another fd."""
    first = os.open("/dev/null", os.O_RDONLY)
    before = OwnState.now()
    os.close(first)
    second = os.open("/dev/zero", os.O_RDONLY)

    assert first == second
    assert own_leaks(before, grace_s=0) == [f"fd {second} -> /dev/zero"]
    os.close(second)


def test_child_is_counted_until_it_is_reaped() -> None:
    """A child process counts, whether it runs or is not reaped yet."""
    before = OwnState.now()
    with subprocess.Popen(["sleep", "100"]) as child:
        try:
            until(lambda: command(child.pid) == "sleep 100", "the child to be what it is")

            assert child.pid in children_of(os.getpid())
            assert own_leaks(before, grace_s=0) == [f"child {child.pid}: sleep 100"]
        finally:
            child.kill()
    assert own_leaks(before, grace_s=0) == []
    assert not alive(child.pid)


def test_thread_that_ends_within_the_grace_is_no_leak() -> None:
    """A thread that is ending gets some time."""
    before = OwnState.now()
    go = threading.Event()
    thread = threading.Thread(target=go.wait, name="late")
    thread.start()
    held = own_leaks(before, grace_s=0)
    go.set()

    assert held == ["thread late"]
    assert own_leaks(before) == []
    thread.join()


def test_zombie_is_not_alive() -> None:
    """A process that has exited and is not reaped does not run any more."""
    child = subprocess.Popen(["true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)

    assert not alive(child.pid)
    child.wait()


def test_ancestors_hold_this_process_and_its_parent() -> None:
    """The test run itself is never counted as a leak."""
    assert {os.getpid(), os.getppid()} - {1} <= ancestors()  # 1: its parent has ended


def test_process_is_found_by_the_mark_wherever_it_carries_it() -> None:
    """A process is found by its arguments, environment and working directory."""
    host = Host.make()
    try:
        carriers = [
            subprocess.Popen(["sleep", "100"], env={"MINE": host.mark, "PATH": os.environ["PATH"]}),
            subprocess.Popen(["sleep", "100"], cwd=host.folder),
            subprocess.Popen(["sh", "-c", f": {host.mark}; read x"], stdin=subprocess.PIPE),
        ]
        stranger = subprocess.Popen(["sleep", "100"])
        try:
            assert sorted(host.leaks.processes()) == sorted(child.pid for child in carriers)
        finally:
            for child in (*carriers, stranger):
                child.kill()
                child.communicate()
        assert host.leaks.processes() == []
    finally:
        host.remove()


@pytest.mark.root
def test_mount_and_cgroup_are_found_and_removed() -> None:
    """Anything with the mark is reported, and `remove` removes it."""
    host = Host.make()
    try:
        mounted = os.path.join(host.folder, "mnt")
        os.mkdir(mounted)
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", mounted], check=True)
        cgroups = _some_cgroup_root()
        os.makedirs(os.path.join(cgroups, host.mark, "c1"))
        left = os.path.join(host.folder, "tmp", "left")
        Path(left).touch()

        assert host.leaks.since_start(grace_s=0) == [
            f"mount {mounted}",
            f"cgroup {cgroups}/{host.mark}/c1",
            f"temporary file {left}",
        ]
        host.leaks.remove()
        os.unlink(left)
        assert host.leaks.since_start(grace_s=0) == []
        assert not os.path.exists(os.path.join(cgroups, host.mark))
    finally:
        host.remove()


@pytest.mark.root
def test_socket_counts_when_it_has_no_listener_any_more() -> None:
    """The socket of a running shim is not counted; a stale one was left behind."""
    os.makedirs("/run/containerd/s", mode=0o700, exist_ok=True)
    host = Host.make()
    path = f"/run/containerd/s/{host.mark}"
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen()
            assert path not in host.leaks.sockets()
        assert path in host.leaks.sockets()
    finally:
        os.unlink(path)
        host.remove()


@pytest.mark.root
def test_fifo_folder_counts_when_no_process_has_it_open_any_more() -> None:
    """The FIFOs of a running ctr are not counted; those of one that has ended were left behind."""
    os.makedirs("/run/containerd/fifo", mode=0o700, exist_ok=True)
    host = Host.make()
    folder = f"/run/containerd/fifo/{host.mark}"
    os.mkdir(folder)
    try:
        os.mkfifo(f"{folder}/c1-stdout")
        fd = os.open(f"{folder}/c1-stdout", os.O_RDWR)
        held = host.leaks.fifos()
        os.close(fd)

        assert folder not in held
        assert folder in host.leaks.fifos()
    finally:
        host.leaks.remove()
        host.remove()
    assert not os.path.exists(folder)


def _some_cgroup_root() -> str:
    root = "/sys/fs/cgroup"
    return root if os.path.exists(f"{root}/cgroup.controllers") else f"{root}/pids"
