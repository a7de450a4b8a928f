"""`ctr run -t`, `task attach` and `task exec -t` with this shim: a shell as a user has it."""

import os
import time
from collections.abc import Sequence

import pytest

from shimv2.shimctl.image import IMAGE
from shimv2.shimctl.testbed.containerd import Containerd
from shimv2.shimctl.testbed.runtimes import crun
from tests.support.host import RUNTIME, Host
from tests.support.terminal import PROMPT, Terminal, interrupt, resized

pytestmark = pytest.mark.root

MIB = 1 << 20


@pytest.fixture(params=["runc", "crun"])
def run(request: pytest.FixtureRequest, host: Host) -> Sequence[str]:
    """The beginning of `ctr run`, with either runtime."""
    if request.param == "runc":
        return ("run", "--runtime", RUNTIME)
    # ctr 1.6 gives the option to this name only.
    os.rename(host.shim, os.path.join(host.bin, "containerd-shim-runc-v2"))
    return ("run", "--runtime", "io.containerd.runc.v2", "--runc-binary", crun(host.folder))


@pytest.mark.rule("io.terminal.12", "io.terminal.17")
def test_shell_has_a_size_signals_and_job_control(
    containerd: Containerd, run: Sequence[str]
) -> None:
    """The terminal is the shell's own: sizes, SIGWINCH, Ctrl-C, Ctrl-Z, bg, fg, the status."""
    command = containerd.command(*run, "--rm", "-t", IMAGE, "c1", "sh")
    with Terminal(command, columns=91, rows=33) as terminal:
        terminal.expect(PROMPT)
        terminal.type(b"tty; stty size\r")
        terminal.expect(rb"/dev/pts/0\r\n33 91\r\n.*" + PROMPT)
        terminal.resize(101, 41)
        resized(terminal, 101, 41)

        # A program gets the signal of a new size only while it is in the foreground.
        script = b"trap 'stty size; exit' WINCH; echo g''o; while :; do sleep 0.05; done"
        terminal.type(b'sh -c "' + script + b'"\r')
        terminal.expect(rb"\ngo\r\n")
        terminal.resize(102, 42)
        terminal.expect(rb"42 102\r\n.*" + PROMPT)

        interrupt(terminal)
        terminal.type(b"echo status $?\r")
        terminal.expect(rb"status 130\r\n.*" + PROMPT)

        # It prints that it continues: from then on it is in the foreground, and gets Ctrl-C and
        # Ctrl-Z.
        program = b"trap 'echo go''ing on' CONT; echo g''o; while :; do sleep 0.05; done"
        terminal.type(b'sh -c "' + program + b'"\r')
        terminal.expect(rb"\ngo\r\n")
        terminal.type(b"\x1a")
        terminal.expect(rb"Stopped.*" + PROMPT)
        terminal.type(b"bg\r")
        terminal.expect(rb"going on\r\n")
        terminal.type(b"fg\r")
        terminal.expect(rb"going on\r\n")
        terminal.type(b"\x1a")
        terminal.expect(rb"Stopped.*" + PROMPT)
        terminal.type(b"fg\r")
        terminal.expect(rb"going on\r\n")
        terminal.type(b"\x03")
        terminal.expect(PROMPT)
        terminal.type(b"exit 7\r")
        terminal.rest()

        assert terminal.wait() == 7
    assert containerd.tasks() == {}


def test_end_of_input_ends_the_shell(containerd: Containerd, run: Sequence[str]) -> None:
    """Ctrl-D at the prompt: the terminal's own end of input, and the shell's status."""
    with Terminal(containerd.command(*run, "--rm", "-t", IMAGE, "c1", "sh")) as terminal:
        terminal.expect(PROMPT)
        terminal.type(b"\x04")
        terminal.rest()

        assert terminal.wait() == 0


def test_one_mebibyte_arrives_unchanged(containerd: Containerd, run: Sequence[str]) -> None:
    """All of a big output arrives; the program stays until all is seen."""
    script = f"head -c {MIB} /dev/zero | tr '\\0' x; echo END; read x"
    command = containerd.command(*run, "--rm", "-t", IMAGE, "c1", "sh", "-c", script)
    with Terminal(command) as terminal:
        seen = terminal.expect(rb"END\r\n")
        terminal.type(b"\r")
        terminal.rest()

        assert terminal.wait() == 0
    assert seen == b"x" * MIB + b"END\r\n"


@pytest.mark.rule("io.end.5")
def test_program_that_ends_right_after_a_big_output_is_over_at_once(
    containerd: Containerd, run: Sequence[str]
) -> None:
    """ctr closes its end of the FIFO when it learns of the exit, and loses the bytes in it.

    This is so with every shim: 20 runs of 1 MiB lost 43 to 74 KB each, with containerd's and with
    this one.  test_terminal.py checks without ctr that the shim loses nothing.  This test checks
    that Delete does not wait for a client that has disconnected (containerd's shim does, for 2 or
    10 s).
    """
    script = f"head -c {MIB} /dev/zero | tr '\\0' x"
    command = containerd.command(*run, "--rm", "-t", IMAGE, "c1", "sh", "-c", script)
    began = time.monotonic()
    with Terminal(command) as terminal:
        seen = terminal.rest()

        assert terminal.wait() == 0
    assert time.monotonic() - began < 5
    assert set(seen) == {ord("x")}
    assert len(seen) > MIB - 200_000
    assert containerd.tasks() == {}


@pytest.mark.rule("io.terminal.18")
def test_client_leaves_its_terminal_and_another_attaches(
    containerd: Containerd, run: Sequence[str]
) -> None:
    """`ctr run` is killed, the container is not; `ctr task attach` continues where it stopped."""
    with Terminal(containerd.command(*run, "-t", IMAGE, "c1", "sh"), columns=91) as first:
        first.expect(PROMPT)
        # It does not wait for the prompt, because that comes again with the size, which ctr sets
        # after Start.
        first.type(b"x=kept; echo ke''pt\r")
        first.expect(rb"kept\r\n")
        first.kill()
    assert containerd.tasks()["c1"].status == "RUNNING"

    for columns in (70, 75):
        command = containerd.command("task", "attach", "c1")
        with Terminal(command, columns=columns, rows=20) as second:
            second.type(b"\r")
            second.expect(PROMPT)
            resized(second, columns, 20)
            second.type(b"echo $x for $((6 * 7))\r")
            second.expect(rb"kept for 42\r\n")
            if columns == 70:
                second.kill()
            else:
                second.type(b"exit 9\r")
                second.rest()
                assert second.wait() == 9
    assert containerd.tasks() == {}  # attach removes a container whose exit it has seen
    containerd.ctr("container", "rm", "c1")


def test_exec_with_a_terminal_beside_a_detached_container(
    containerd: Containerd, run: Sequence[str]
) -> None:
    """`ctr task exec -t` gives a shell of its own; its end leaves the container running."""
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
    containerd.ctr("container", "rm", "c1")
