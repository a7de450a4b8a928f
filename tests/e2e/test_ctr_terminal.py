"""`ctr run -t` and `ctr task exec -t` with this shim: a shell as a person uses it."""

import pytest

from shimv2.ctl.image import IMAGE
from tests.support.containerd import Containerd
from tests.support.host import RUNTIME
from tests.support.terminal import Terminal

pytestmark = pytest.mark.root

RUN = ("run", "--runtime", RUNTIME, "--rm", "-t")
MIB = 1 << 20


def test_shell_has_a_prompt_a_size_and_the_shells_status(containerd: Containerd) -> None:
    """The container's terminal has the client's size, from the first and after each change."""
    command = containerd.command(*RUN, IMAGE, "c1", "sh")
    with Terminal(command, columns=91, rows=33) as terminal:
        terminal.expect(rb"/ # ")
        terminal.type(b"tty; stty size\r")
        terminal.expect(rb"/dev/pts/0\r\n33 91\r\n")
        terminal.resize(101, 41)
        terminal.type(b"until [ \"$(stty size)\" = '41 101' ]; do sleep 0.1; done; echo si''zed\r")
        terminal.expect(rb"sized\r\n")
        terminal.type(b"exit 7\r")
        terminal.rest()

        assert terminal.wait() == 7
    assert containerd.tasks() == {}


def test_keys_interrupt_stop_and_continue_a_program(containerd: Containerd) -> None:
    """Ctrl-C, Ctrl-Z, jobs and fg: the shell has job control, so the terminal is its own."""
    with Terminal(containerd.command(*RUN, IMAGE, "c1", "sh")) as terminal:
        terminal.expect(rb"/ # ")
        terminal.type(b"sh -c 'echo g\"\"o; exec sleep 1000'\r")
        terminal.expect(rb"go\r\n")
        terminal.type(b"\x03")
        terminal.expect(rb"\^C.*/ # ")
        terminal.type(b"echo status $?\r")
        terminal.expect(rb"status 130\r\n")
        # It tells that it goes on: only from then on is it what Ctrl-C is for.
        program = b"trap 'echo go''ing on' CONT; echo g''o; while :; do sleep 0.1; done"
        terminal.type(b'sh -c "' + program + b'"\r')
        terminal.expect(rb"\ngo\r\n")
        terminal.type(b"\x1a")
        terminal.expect(rb"Stopped.*/ # ")
        terminal.type(b"fg\r")
        terminal.expect(rb"\ngoing on\r\n")
        terminal.type(b"\x03")
        terminal.expect(rb"/ # ")
        terminal.type(b"\x04")
        terminal.rest()

        assert terminal.wait() == 130


def test_one_mebibyte_arrives_unchanged(containerd: Containerd) -> None:
    """All of a big output arrives.

    The program stays until all is seen: ctr itself gives its copy up once the task has ended, with
    any shim.  What a shim owes at the exit is checked without ctr, in test_terminal.py.
    """
    script = f"head -c {MIB} /dev/zero | tr '\\0' x; echo END; read x"
    with Terminal(containerd.command(*RUN, IMAGE, "c1", "sh", "-c", script)) as terminal:
        seen = terminal.expect(rb"END\r\n")
        terminal.type(b"\r")
        terminal.rest()

        assert terminal.wait() == 0
    assert seen == b"x" * MIB + b"END\r\n"


def test_exec_with_a_terminal_beside_a_detached_container(containerd: Containerd) -> None:
    """`ctr task exec -t` gives a shell of its own; its end leaves the container running."""
    containerd.ctr("run", "--runtime", RUNTIME, "-d", "--null-io", IMAGE, "c1", "sleep", "1000")
    command = containerd.command("task", "exec", "-t", "--exec-id", "e1", "c1", "sh")
    with Terminal(command, columns=70, rows=20) as terminal:
        terminal.expect(rb"/ # ")
        terminal.type(b"until [ \"$(stty size)\" = '20 70' ]; do sleep 0.1; done; echo si''zed\r")
        terminal.expect(rb"sized\r\n")
        terminal.type(b"exit 3\r")
        terminal.rest()
        assert terminal.wait() == 3

    assert containerd.tasks()["c1"].status == "RUNNING"
    containerd.ctr("task", "kill", "-s", "SIGKILL", "c1")
    containerd.wait_status("c1", "STOPPED")
    assert containerd.remove_task("c1") == 137
    containerd.ctr("container", "rm", "c1")
