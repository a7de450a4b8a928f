"""Open the files behind stdio names, without ever blocking in open(2).

A blocking open of one end of a FIFO waits for the other end.  So each open here is non-blocking.
It also goes through a handle (O_PATH) on the file that the name meant at first.  If that file is
renamed or replaced later, the handle still refers to the first one.
"""

import asyncio
import contextlib
import errno
import functools
import logging
import os
import select
import stat
from typing import Final, Self

from shimv2.gocompat.gotext import strerror
from shimv2.kernel.linux import set_pipe_capacity
from shimv2.values.errors import Refused

# The shim leads a session: a terminal it writes to must not become its controlling terminal.
NO_SURPRISES: Final = os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_BULK_PIPE_BYTES: Final = 1024 * 1024  # the default of fs.pipe-max-size, proc(5)
_INITIAL_USER_NAMESPACE: Final = 0xEFFFFFFD  # linux/proc_ns.h
_RETRY_FIRST_S: Final = 0.005
_RETRY_LAST_S: Final = 0.1

log = logging.getLogger(__name__)


class Fd:
    """One descriptor and its only owner."""

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number  # -1 = closed

    def close(self) -> None:
        """Close it, once: the number is forgotten before another file can get it."""
        number, self.number = self.number, -1
        if number < 0:
            return
        try:
            os.close(number)
        except (
            OSError
        ) as exc:  # the fd is closed anyway; network filesystems report a full disk here
            log.warning("close of a stdio file: %s", exc)


class Pinned:
    """The file that a name means now.  Owns a handle on the file: use it as a context manager."""

    def __init__(self, path: str) -> None:
        """Raises OSError if there is no such file."""
        if "\0" in path:  # os.open would raise ValueError
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), path)
        self.path = path
        self._handle = Fd(os.open(path, os.O_PATH | os.O_CLOEXEC))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.close()

    def is_fifo(self) -> bool:
        return stat.S_ISFIFO(os.fstat(self._handle.number).st_mode)

    def open(self, flags: int) -> Fd:
        """Open the file.  The error is ENXIO for the writing end of a FIFO without a reader."""
        try:
            return Fd(os.open(f"/proc/self/fd/{self._handle.number}", flags | NO_SURPRISES))
        except OSError as exc:
            raise OSError(exc.errno, exc.strerror, self.path) from None

    async def open_writer(self, deadline: float) -> Fd:
        """Open the writing end of a FIFO as soon as it has a reader, by loop time `deadline`.

        The open is repeated, after some time every 0.1 s.  Mostly the first one succeeds, because
        clients open their ends first.  inotify cannot replace this: while a client blocks in
        open(2), there is no event yet, although the shim's open would succeed.

        Raises:
            TimeoutError: there is no reader by then.  OSError: the FIFO cannot be opened.
        """
        loop = asyncio.get_running_loop()
        pause_s = _RETRY_FIRST_S
        while True:
            try:
                return self.open(os.O_WRONLY)
            except OSError as exc:
                if exc.errno != errno.ENXIO:
                    raise
            left_s = deadline - loop.time()
            if left_s <= 0:
                raise TimeoutError
            await asyncio.sleep(min(pause_s, left_s))
            pause_s = min(pause_s * 2, _RETRY_LAST_S)


class StdinFifo:
    """Both ends of a stdin FIFO: the shim reads one, and the other prevents end of file.

    While the shim itself is a writer, a client that detaches does not end the input.  But then the
    kernel does not report that the client has left.  So with `hangup_s` (the input ends after this
    time without a client) the shim becomes a writer only after the last client has left.  Before
    the first client comes, the kernel reports no hang-up.
    """

    def __init__(self, path: str, hangup_s: float | None = None) -> None:
        """Open both ends, the reading end first: the open of the other end needs a reader.

        If the file is no FIFO, only the reading end is opened.

        Raises:
            Refused: with the reference's text.
        """
        self.hangup_s = hangup_s  # None: it ends when the last writer has left, the shim included
        self._reader = self._writer = Fd(-1)
        try:
            with Pinned(path) as pinned:
                self._reader = pinned.open(os.O_RDONLY)
                if not pinned.is_fifo():
                    self.hangup_s = None
                elif hangup_s is None:
                    self._writer = pinned.open(os.O_WRONLY)
        except OSError as exc:
            self.close()
            text = f"failed to open stdin fifo {path}: stat {path}: {reason(exc)}"
            raise Refused(text) from None

    @property
    def number(self) -> int:
        return self._reader.number

    def is_deserted(self) -> bool:
        """Whether there have been writers, and none is left."""
        poll = select.poll()
        poll.register(self._reader.number, 0)
        return any(event & select.POLLHUP for _, event in poll.poll(0))

    def hold(self) -> None:
        """Become a writer.  Otherwise a FIFO without writers is reported as readable for ever."""
        if self._writer.number < 0:
            path = f"/proc/self/fd/{self._reader.number}"
            self._writer = Fd(os.open(path, os.O_WRONLY | NO_SURPRISES))

    def close_writer(self) -> None:
        self._writer.close()

    def release(self) -> None:
        """CloseIO: stop being a writer.  The input ends when the last client's writer has left."""
        if self.hangup_s is not None and self._reader.number >= 0:
            self.hangup_s = None
            self.hold()  # there may have been no writer at all: it ends when one has left
        self.close_writer()

    def close(self) -> None:
        self._writer.close()
        self._reader.close()


def has_reader(number: int) -> bool:
    """Whether any process has the reading end of this pipe or FIFO open."""
    poll = select.poll()
    poll.register(number, 0)
    return not poll.poll(0)  # POLLERR: no process


def grow_pipes(*numbers: int) -> None:
    """Make the buffers of busy pipes and FIFOs larger: this saves three of four wake-ups.

    Only for real root.  The kernel limits the pages of all pipes of any other user
    (pipe-user-pages-soft, 64 MiB); above the limit that user's new pipes get two pages.
    """
    if not _pipes_are_unlimited():
        return
    for number in numbers:
        with contextlib.suppress(OSError):  # not a pipe, or the administrator allows less
            set_pipe_capacity(number, _BULK_PIPE_BYTES)


@functools.cache
def _pipes_are_unlimited() -> bool:
    return os.geteuid() == 0 and os.stat("/proc/self/ns/user").st_ino == _INITIAL_USER_NAMESPACE


def reason(exc: OSError) -> str:
    """Return the text of an OSError without the file's name."""
    return str(exc) if exc.errno is None else strerror(exc.errno)
