"""Killing a process with its descendants."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shimv2.kernel import linux
from shimv2.kernel.spawn import spawn
from shimv2.runtime.tree import kill_leaf_processes, kill_tree
from shimv2.shimctl.testbed.leaks import children_of
from shimv2.shimctl.testbed.until import until
from tests.support.fake_runtime import is_alive
from tests.support.isolation import end_children

DEPTH = 5
NEST = """#!/bin/sh
trap '' TERM INT HUP
[ "$1" = 0 ] || setsid "$0" $(($1 - 1)) "$2" &
echo $$ >"$2/$1.new"; mv "$2/$1.new" "$2/$1"
while :; do sleep 1000; done
"""


@pytest.fixture(autouse=True)
def _subreaper() -> Iterator[None]:
    """As in the shim: orphans become children of this process, and are reaped here."""
    linux.set_child_subreaper(True)
    before = children_of(os.getpid())
    yield
    end_children(before)
    linux.set_child_subreaper(False)


def test_whole_tree_is_killed(tmp_path: Path) -> None:
    """Sessions, ignored signals and depth make no difference."""
    script = tmp_path / "nest"
    script.write_text(NEST)
    script.chmod(0o755)
    spawn([str(script), str(DEPTH), str(tmp_path)])
    files = [tmp_path / str(number) for number in range(DEPTH + 1)]
    until(lambda: all(file.exists() for file in files), "the tree")
    pids = [int(file.read_text()) for file in files]

    kill_tree(pids[DEPTH])

    until(lambda: _all_reaped(pids), "the end of the tree")


def test_leaves_are_killed_and_what_started_them_is_reported(tmp_path: Path) -> None:
    """CRIU, and above it runc, clean up after a child that failed."""
    scripts = {
        "top": "sh middle; exit $?",
        "middle": "sh bottom; echo $? >told; exit 4",
        "bottom": "touch leaf; read x <>fifo",
    }
    for name, text in scripts.items():
        (tmp_path / name).write_text(text)
    os.mkfifo(tmp_path / "fifo")
    pid = spawn(["/bin/sh", "-c", f"cd {tmp_path}; sh top; exit $?"])
    until((tmp_path / "leaf").exists, "the leaf")

    kill_leaf_processes(pid)

    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 4
    assert (tmp_path / "told").read_text() == "137\n"


def test_child_without_children_is_not_killed_itself() -> None:
    """It has no children; its own parent has to kill it."""
    pid = spawn(["/bin/sleep", "1000"])

    kill_leaf_processes(pid)

    assert is_alive(pid)
    os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("kill", [kill_tree, kill_leaf_processes])
def test_process_that_is_gone_is_no_error(kill: Callable[[int], None]) -> None:
    """It may exit at any moment."""
    pid = spawn(["/bin/true"])
    os.waitpid(pid, 0)

    kill(pid)


def test_zombie_is_no_error() -> None:
    """Dead and not reaped: still a child, without children."""
    pid = spawn(["/bin/true"])
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)

    kill_tree(pid)

    assert os.waitpid(pid, 0)[1] == 0


def test_process_beside_it_is_spared() -> None:
    """Only descendants are killed: the shim's other children continue."""
    victim = spawn(["/bin/sleep", "1000"])
    other = spawn(["/bin/sleep", "1000"])

    kill_tree(victim)

    assert os.waitpid(victim, 0)[1] == signal.SIGKILL
    assert is_alive(other)
    os.kill(other, signal.SIGKILL)


def _all_reaped(pids: list[int]) -> bool:
    while True:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                break
        except ChildProcessError:
            break
    return not any(map(is_alive, pids))
