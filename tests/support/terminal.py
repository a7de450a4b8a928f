"""A person at a terminal: a program on a pty of its own, typed to and read from."""

import fcntl
import os
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Final, Self

_LIMIT_S: Final = 20.0


class Terminal:
    """Runs a program whose controlling terminal is a new pty.  A context manager: it ends both."""

    def __init__(self, command: Sequence[str], *, columns: int = 80, rows: int = 24) -> None:
        self._master, slave = os.openpty()
        self.seen = bytearray()
        self.resize(columns, rows)
        try:
            # setsid makes the pty its controlling terminal: that is who gets SIGWINCH.
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

    def type(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def expect(self, pattern: bytes, *, limit_s: float = _LIMIT_S) -> bytes:
        """Read until `pattern` has been seen; take and return everything up to its end.

        Raises:
            AssertionError: it does not come; says what came instead.
        """
        end = time.monotonic() + limit_s
        while (found := re.search(pattern, self.seen, re.DOTALL)) is None:
            if not self._more(end - time.monotonic()):
                raise AssertionError(
                    f"{pattern!r} did not come; came: {bytes(self.seen[-2000:])!r}"
                )
        taken = bytes(self.seen[: found.end()])
        del self.seen[: found.end()]
        return taken

    def rest(self) -> bytes:
        """Read to the end of the program's output; its end is not waited for."""
        end = time.monotonic() + _LIMIT_S
        while self._more(end - time.monotonic()):
            pass
        return bytes(self.seen)

    def wait(self) -> int:
        return self._process.wait(timeout=_LIMIT_S)

    def kill(self) -> None:
        """End the program as a crash would: it puts nothing in order."""
        self._process.kill()
        self._process.wait()

    def _more(self, limit_s: float) -> bool:
        readable, _, _ = select.select([self._master], [], [], max(0.0, limit_s))
        if not readable:
            return False
        try:
            chunk = os.read(self._master, 64 * 1024)
        except OSError:  # EIO: the last one has closed it
            return False
        # ctr leaves the processing of output on here too: the container's is processed already.
        self.seen[:] = (self.seen + chunk).replace(b"\r\r\n", b"\r\n")
        return bool(chunk)
