"""A terminal's master, and the socket on which the runtime hands it over.

Hang-up: while no process in the container has the terminal open, a read of its master fails with
EIO, and epoll reports the hang-up in each call.  But a process may open the terminal later
(`(sleep 1; echo late >/dev/tty) &`).  So the shim itself keeps the terminal open until the process
has ended.  Then the master has no hang-up, and waiting for it costs nothing.
"""

import array
import asyncio
import contextlib
import errno
import fcntl
import os
import socket
import struct
import termios
from collections.abc import Sequence
from typing import Final

from shimv2.aio.readiness import readable
from shimv2.io.fifo import Fd

_HANDOVER_LIMIT_S: Final = 5.0  # only for faulty runtimes: others send it before they end
_NAME_LIMIT_BYTES: Final = 4095
_FDS_LIMIT: Final = 8  # received in one message; more than one is an error, and all are closed
_SOCKET: Final = "pty.sock"
_PATH_LIMIT_BYTES: Final = 107  # of a socket, unix(7)
# linux/tty.h, 4.13; not in Python's termios before 3.13.
_TIOCGPTPEER: Final = 0x20005441 if os.uname().machine.startswith("ppc") else 0x5441


class ConsoleSocket:
    """A listening socket for one connection, in its own folder.  Owns both."""

    def __init__(self) -> None:
        """Raises OSError."""
        self._folder, self.path = _make_folder()
        self._listener: socket.socket | None = None
        try:
            self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._listener.setblocking(False)
            self._listener.bind(self.path)
            if os.environ.get("XDG_RUNTIME_DIR"):
                # Sticky: cleaners of that folder leave it alone.  The folder itself is private.
                os.chmod(self.path, 0o1755)  # noqa: S103 - see above
            self._listener.listen(1)
        except OSError:
            self.close()
            raise

    async def receive(self, *, limit_s: float = _HANDOVER_LIMIT_S) -> Fd:
        """Receive the master.  Call it after the runtime has succeeded: then it has been sent.

        Raises:
            OSError, TimeoutError: no master came, or more than one fd, or the fd is no terminal.
        """
        assert self._listener is not None
        try:
            async with asyncio.timeout(limit_s):
                await readable(self._listener.fileno())
                connection, _ = self._listener.accept()
                with connection:
                    connection.setblocking(False)
                    await readable(connection.fileno())
                    return _receive_one(connection)
        except TimeoutError:
            raise TimeoutError("the runtime did not send it") from None

    def close(self) -> None:
        """Remove the socket and its folder.  Idempotent."""
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()
        folder, self._folder = self._folder, ""
        if folder:
            for remove, path in ((os.unlink, self.path), (os.rmdir, folder)):
                with contextlib.suppress(OSError):  # `bind` failed, or a cleaner of /tmp removed it
                    remove(path)


def _make_folder() -> tuple[str, str]:
    """Make a private folder; return it and the socket's path, which is not too long there."""
    parent = "/tmp"  # noqa: S108 - a private folder is made in it
    for name in ("TMPDIR", "XDG_RUNTIME_DIR"):
        wanted = os.environ.get(name, "")
        sample = os.path.join(wanted, "ptyxxxxxxxx", _SOCKET)
        if wanted and len(os.fsencode(sample)) <= _PATH_LIMIT_BYTES:
            parent = wanted
    while True:  # not by tempfile, which costs 0.3 MB of memory
        folder = os.path.join(os.path.abspath(parent), f"pty{os.urandom(4).hex()}")
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder, 0o700)
            return folder, os.path.join(folder, _SOCKET)


def _receive_one(connection: socket.socket) -> Fd:
    """Read the one message of a runtime: the terminal's name with its master."""
    size = array.array("i").itemsize
    space = socket.CMSG_SPACE(_FDS_LIMIT * size)
    longer = _NAME_LIMIT_BYTES + 1
    name, extra, flags, _ = connection.recvmsg(longer, space, socket.MSG_CMSG_CLOEXEC)
    found = array.array("i")
    for level, kind, data in extra:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            found.frombytes(data[: len(data) - len(data) % size])
    fds = [Fd(number) for number in found]
    wrong = _what_is_wrong(name, fds, cut=bool(flags & socket.MSG_CTRUNC))
    if wrong:
        for fd in fds:
            fd.close()
        raise OSError(wrong)
    os.set_blocking(fds[0].number, False)
    return fds[0]


def _what_is_wrong(name: bytes, fds: Sequence[Fd], *, cut: bool) -> str:
    if len(name) > _NAME_LIMIT_BYTES:
        return f"recvfd: the name has more than {_NAME_LIMIT_BYTES} bytes"
    if len(fds) != 1 or cut:
        return f"recvfd: number of fds is not 1: {len(fds)}"
    return "" if os.isatty(fds[0].number) else "provided file is not a console"


class Console:
    """The master of one terminal.  Owns it, and an open slave while the process lives."""

    def __init__(self, master: Fd) -> None:
        self.master = master
        self.ended = False  # the process has ended: no bytes come after those that are there
        self.away = False  # hung up, and the slave could not be opened: tried again later
        self._slave = Fd(-1)
        self._hold()

    def read(self, limit_bytes: int) -> bytes:
        """Read what the process wrote; b"": the process has ended, and all is read.

        Raises:
            BlockingIOError: no bytes are there now.  OSError: the master cannot be read.
        """
        try:
            chunk = os.read(self.master.number, limit_bytes)
        except OSError as exc:
            if exc.errno not in (errno.EIO, errno.EAGAIN):
                raise
            if self.ended:
                return b""
            if exc.errno == errno.EIO:
                self._hold()
            raise BlockingIOError from None
        self.away = False
        return chunk

    def _hold(self) -> None:
        """Open the slave, or open it again after a vhangup(2)."""
        self._slave.close()
        self.away = False
        try:
            flags = os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC
            self._slave = Fd(fcntl.ioctl(self.master.number, _TIOCGPTPEER, flags))
        except OSError:  # an old kernel, or forbidden by a security module
            self.away = True

    def end(self) -> None:
        """Note that the process has ended: read the bytes that are there, then end."""
        self.ended = True
        self._slave.close()

    def resize(self, width: int, height: int) -> None:
        """Set the terminal's size in characters, cut to 16 bits as in the Go shim.

        Raises:
            OSError: the terminal is closed.
        """
        size = struct.pack("HHHH", height & 0xFFFF, width & 0xFFFF, 0, 0)
        fcntl.ioctl(self.master.number, termios.TIOCSWINSZ, size)

    def close(self) -> None:
        """Hang up: processes that still use the terminal get SIGHUP or EIO.  Idempotent."""
        self.ended = True
        self._slave.close()
        self.master.close()
