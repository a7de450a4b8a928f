"""A user at a terminal: run -it, exec -it, attach, and the detach keys."""

import pytest

from tests.daemons.docker import every_pair
from tests.support.dockerd import IMAGE, Dockerd
from tests.support.terminal import PROMPT, Terminal, interrupt, resized

pytestmark = [pytest.mark.root, every_pair]

KEYS = ("--detach-keys=ctrl-x,x",)


def test_shell_has_a_size_signals_and_a_status(docker: Dockerd) -> None:
    """docker run -it: the client's size is the terminal's, now and later."""
    command = docker.command("run", "--network=none", "-it", "--rm", IMAGE, "sh")
    with Terminal(command, columns=91, rows=33) as terminal:
        terminal.expect(PROMPT)
        resized(terminal, 91, 33)
        terminal.resize(101, 41)
        resized(terminal, 101, 41)
        interrupt(terminal)
        terminal.type(b"exit 7\r")
        terminal.rest()

        assert terminal.wait() == 7


def test_exec_has_a_terminal_of_its_own(docker: Dockerd) -> None:
    """docker exec -it: another terminal beside a container that has none."""
    docker.run("-d", "--name=c1", IMAGE, "sleep", "1000")
    with Terminal(docker.command("exec", "-it", "c1", "sh"), columns=70, rows=20) as terminal:
        terminal.expect(PROMPT)
        resized(terminal, 70, 20)
        terminal.resize(71, 21)
        resized(terminal, 71, 21)
        terminal.type(b"exit 3\r")
        terminal.rest()
        assert terminal.wait() == 3

    assert docker.state("c1")["Status"] == "running"
    docker.docker("rm", "--force", "c1")


def test_client_leaves_by_its_keys_and_comes_back(docker: Dockerd) -> None:
    """The container keeps its terminal while no client is attached, twice."""
    run = ("run", "--network=none", "-it", "--name=c1", *KEYS, IMAGE, "sh")
    with Terminal(docker.command(*run), columns=91) as terminal:
        terminal.expect(PROMPT)
        terminal.type(b"x=kept\r")
        terminal.expect(PROMPT)
        terminal.type(b"\x18x")
        terminal.rest()
        assert terminal.wait() == 0
    for columns in (70, 75):
        assert docker.state("c1")["Status"] == "running"
        with Terminal(docker.command("attach", *KEYS, "c1"), columns=columns, rows=20) as terminal:
            terminal.type(b"\r")
            terminal.expect(PROMPT)
            resized(terminal, columns, 20)
            terminal.type(b"echo $x for $((6 * 7))\r")
            terminal.expect(rb"kept for 42\r\n")
            terminal.type(b"\x18x" if columns == 70 else b"exit 9\r")
            terminal.rest()
            # The client exits with an error after the detach keys: "read escape sequence".
            assert terminal.wait() == (1 if columns == 70 else 9)

    assert docker.state("c1")["ExitCode"] == 9
    docker.docker("rm", "c1")
