"""Every containerd with every runtime: a user at a terminal."""

from collections.abc import Sequence

import pytest

from shimv2.shimctl.image import IMAGE
from shimv2.shimctl.testbed.containerd import Containerd
from tests.daemons.pairs import every_containerd
from tests.support.terminal import PROMPT, Terminal, interrupt, resized

pytestmark = [pytest.mark.root, every_containerd]


def test_run_in_a_terminal_has_its_size_signals_and_status(
    containerd: Containerd, run: Sequence[str]
) -> None:
    """`ctr run -t`: the size and its changes, Ctrl-C, and the shell's own exit status."""
    command = containerd.command(*run, "--rm", "-t", IMAGE, "c1", "sh")
    with Terminal(command, columns=91, rows=33) as terminal:
        terminal.expect(PROMPT)
        resized(terminal, 91, 33)
        terminal.resize(101, 41)
        resized(terminal, 101, 41)
        interrupt(terminal)
        terminal.type(b"echo status $?\r")
        terminal.expect(rb"status 130\r\n.*" + PROMPT)
        terminal.type(b"exit 7\r")
        terminal.rest()

        assert terminal.wait() == 7
    assert containerd.tasks() == {}


def test_terminal_is_left_and_attached_to_again(containerd: Containerd, run: Sequence[str]) -> None:
    """`ctr run -t` is killed, the shell is not; `ctr task attach` continues where it stopped."""
    with Terminal(containerd.command(*run, "-t", IMAGE, "c1", "sh"), columns=91) as first:
        first.expect(PROMPT)
        # It does not wait for the prompt, because that comes again with the size, which ctr sets
        # after Start.
        first.type(b"x=kept; echo ke''pt\r")
        first.expect(rb"kept\r\n")
        first.kill()
    assert containerd.tasks()["c1"].status == "RUNNING"

    with Terminal(containerd.command("task", "attach", "c1"), columns=70, rows=20) as second:
        second.type(b"\r")
        second.expect(PROMPT)
        resized(second, 70, 20)
        second.type(b"echo $x for $((6 * 7))\r")
        second.expect(rb"kept for 42\r\n")
        second.type(b"exit 9\r")
        second.rest()
        assert second.wait() == 9
    assert containerd.tasks() == {}  # attach removes a container whose exit it has seen
    containerd.ctr("container", "rm", "c1")


def test_exec_in_a_terminal_has_its_size_signals_and_status(
    containerd: Containerd, run: Sequence[str]
) -> None:
    """`ctr task exec -t`: a shell of its own, whose end leaves the container running."""
    containerd.ctr(*run, "-d", "--null-io", IMAGE, "c1", "sleep", "1000")
    command = containerd.command("task", "exec", "-t", "--exec-id", "e1", "c1", "sh")
    with Terminal(command, columns=70, rows=20) as terminal:
        terminal.expect(PROMPT)
        resized(terminal, 70, 20)
        terminal.resize(71, 21)
        resized(terminal, 71, 21)
        interrupt(terminal)
        terminal.type(b"exit 3\r")
        terminal.rest()
        assert terminal.wait() == 3

    assert containerd.tasks()["c1"].status == "RUNNING"
    containerd.ctr("task", "kill", "-s", "SIGKILL", "c1")
    containerd.wait_status("c1", "STOPPED")
    assert containerd.remove_task("c1") == 137
