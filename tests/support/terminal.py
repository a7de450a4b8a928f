"""A user at a terminal: a program on a pty of its own, with input and output."""

import fcntl
import os
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Final, Self

_LIMIT_S: Final = 20.0
_QUIET_S: Final = 0.5
PROMPT: Final = rb"/ # "  # of a shell in a container


class Terminal:
    """Runs a program whose controlling terminal is a new pty.  A context manager: it ends both."""

    def __init__(self, command: Sequence[str], *, columns: int = 80, rows: int = 24) -> None:
        self._master, slave = os.openpty()
        self.seen = bytearray()
        self.resize(columns, rows)
        try:
            # setsid makes the pty its controlling terminal, so that the program gets SIGWINCH.
            self._process = subprocess.Popen(
                ["setsid", "--ctty", *command], stdin=slave, stdout=slave, stderr=slave
            )
        finally:
            os.close(slave)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        if self._process.poll() is None:
            self.kill()
        self._process.wait()
        os.close(self._master)

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def announce_size(self) -> None:
        """Send SIGWINCH, as a resize of the terminal does."""
        self._process.send_signal(signal.SIGWINCH)

    def type(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def expect(
        self,
        pattern: bytes,
        *,
        limit_s: float = _LIMIT_S,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> bytes:
        """Read until `pattern` has been seen; take and return everything up to its end.

        `meanwhile` is called after every half second without output.

        Raises:
            AssertionError: it does not arrive; the text has the output.
        """
        end = time.monotonic() + limit_s
        while (found := re.search(pattern, self.seen, re.DOTALL)) is None:
            left_s = end - time.monotonic()
            more = self._more(min(left_s, _QUIET_S))
            if more is None and left_s > 0:
                meanwhile()
            elif not more:
                raise AssertionError(
                    f"{pattern!r} did not come; came: {bytes(self.seen[-2000:])!r}"
                )
        taken = bytes(self.seen[: found.end()])
        del self.seen[: found.end()]
        return taken

    def rest(self) -> bytes:
        """Read to the end of the program's output, without waiting for its exit."""
        end = time.monotonic() + _LIMIT_S
        while self._more(end - time.monotonic()):
            pass
        return bytes(self.seen)

    def wait(self) -> int:
        return self._process.wait(timeout=_LIMIT_S)

    def kill(self) -> None:
        """Kill the program as a crash does: it cannot clean up."""
        self._process.kill()
        self._process.wait()

    def _more(self, limit_s: float) -> bool | None:
        """Read output within the limit; None if there is none, False at the end."""
        readable, _, _ = select.select([self._master], [], [], max(0.0, limit_s))
        if not readable:
            return None
        try:
            chunk = os.read(self._master, 64 * 1024)
        except OSError:  # EIO: the last process has closed it
            return False
        # ctr does not turn off output processing on this pty, although the container's pty does it
        # already.
        self.seen[:] = (self.seen + chunk).replace(b"\r\r\n", b"\r\n")
        return bool(chunk)


def resized(terminal: Terminal, columns: int, rows: int) -> None:
    """Wait until a program in the container sees that size of its terminal.

    ctr reads the size once before it listens for changes, and misses a change in between.  So the
    size is set repeatedly.  Other tests, without ctr, check that the shim loses no change.
    """
    size = b"%d %d" % (rows, columns)
    terminal.type(
        b'until [ "$(stty size)" = \'' + size + b"' ]; do sleep 0.05; done; echo si''zed\r"
    )
    terminal.expect(rb"sized\r\n.*" + PROMPT, meanwhile=terminal.announce_size)


def interrupt(terminal: Terminal) -> None:
    """Run a program, and end it by Ctrl-C once it has the terminal."""
    terminal.type(b"sh -c 'echo g\"\"o; exec sleep 1000'\r")
    terminal.expect(rb"go\r\n")
    terminal.type(b"\x03")
    terminal.expect(rb"\^C.*" + PROMPT)
