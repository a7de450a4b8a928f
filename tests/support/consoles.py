"""The runtime's side of a terminal: a pty whose master is sent over the console socket."""

import contextlib
import os
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Final

from shimv2.io.fifo import Fd
from shimv2.io.stdio import ProcessIO, open_io
from shimv2.values.model import Stdio
from shimv2.values.settings import IoPolicy
from tests.support.streams import eventually

NAME: Final = b"/dev/pts/0"


def hand_over(path: str, fds: Sequence[int], *, name: bytes = NAME) -> None:
    """Send a terminal's name and `fds` as a runtime does, and close the connection."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.connect(path)
        if name or fds:
            socket.send_fds(sock, [name], list(fds))


@contextlib.asynccontextmanager
async def console(
    stdout: str, *, stdin: str = "", policy: IoPolicy | None = None
) -> AsyncIterator[tuple[ProcessIO, str]]:
    """Yield connected streams with a terminal, and the name of its slave, which is not open."""
    io = open_console(stdout, stdin=stdin, policy=policy)
    master, tty = (Fd(number) for number in os.openpty())
    try:
        name = os.ttyname(tty.number)
        hand_over(io.console_socket, [master.number])
        master.close()
        await io.connect()
        tty.close()
        yield io, name
    finally:
        master.close()
        tty.close()
        await io.close()


def open_console(stdout: str, *, stdin: str = "", policy: IoPolicy | None = None) -> ProcessIO:
    stdio = Stdio(stdin=stdin, stdout=stdout, terminal=True)
    return open_io(stdio, uid=0, gid=0, policy=policy or IoPolicy())


@contextlib.contextmanager
def slave(name: str) -> Iterator[int]:
    """Hold the terminal open, as a process without a session of its own."""
    number = os.open(name, os.O_RDWR | os.O_NOCTTY)
    try:
        yield number
    finally:
        os.close(number)


class Session:
    """A shell in a session of its own on the slave `name`, as a container's process has it."""

    def __init__(self, name: str, script: str) -> None:
        with slave(name) as tty:
            self._process = subprocess.Popen(
                ["setsid", "--ctty", "sh", "-c", script], stdin=tty, stdout=tty, stderr=tty
            )

    async def wait(self) -> int:
        """Wait for its exit; return the status, negative for a signal."""
        await eventually(lambda: self._process.poll() is not None, "the session to end")
        return self._process.wait()
