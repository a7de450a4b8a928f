"""The client's ends of a process's stdio FIFOs.

Output is read without blocking on the running loop.  A FIFO nobody has written to yet gives no
event at all, so an empty read means what it says: every writer has gone.  Only what was taken out
of the FIFO is gone from it; whoever opens it next goes on exactly there.
"""

import asyncio
import contextlib
import errno
import os
import threading
from collections.abc import Callable
from typing import Final

_CHUNK_BYTES: Final = 64 * 1024  # a FIFO's usual capacity


class Output:
    """Reads one output FIFO to its end.  Owns its fd; `close` gives it back, twice does no harm."""

    def __init__(self, fifo: str) -> None:
        # Opened before Create: the shim waits for a reader before it answers.
        self._fd = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._loop.add_reader(self._fd, self._step)

    async def ended(self) -> None:
        """Wait for the end of the stream.  Any number of callers may wait."""
        await asyncio.shield(self._ended)

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            self._loop.remove_reader(fd)
            os.close(fd)
        if not self._ended.done():
            self._ended.set_result(None)

    def take(self, fd: int) -> int:
        """Move some bytes out of `fd`; 0 at the end.  BlockingIOError: not now."""
        raise NotImplementedError

    def _step(self) -> None:
        try:
            if self.take(self._fd) == 0:
                self.close()
        except BlockingIOError:
            return
        except OSError:
            self.close()  # our own output is gone: nothing can be passed on any more


class Capture(Output):
    """Keeps what a process writes.  Without a bound: for tests and short commands."""

    def __init__(self, fifo: str) -> None:
        self.data = bytearray()
        self._changed = asyncio.Condition()
        self._waiters: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []
        super().__init__(fifo)

    @property
    def text(self) -> str:
        return self.data.decode(errors="replace")

    @property
    def lines(self) -> list[str]:
        return self.text.splitlines()

    async def until(self, wanted: bytes, *, timeout_s: float = 10.0) -> None:
        """Wait until `wanted` has been written.

        Raises:
            TimeoutError: with what was written instead.
        """
        waiter = self._loop.create_future()
        self._waiters.append((lambda: wanted in self.data, waiter))
        self._wake()
        try:
            async with asyncio.timeout(timeout_s):
                await waiter
        except TimeoutError:
            msg = f"{wanted!r} did not come within {timeout_s} s; came: {bytes(self.data)!r}"
            raise TimeoutError(msg) from None

    def take(self, fd: int) -> int:
        chunk = os.read(fd, _CHUNK_BYTES)
        self.data += chunk
        self._wake()
        return len(chunk)

    def _wake(self) -> None:
        for met, waiter in self._waiters:
            if not waiter.done() and met():
                waiter.set_result(None)
        self._waiters = [pair for pair in self._waiters if not pair[1].done()]


class Relay(Output):
    """Passes what a process writes on to one of our own fds, which stays its owner's.

    By splice(2) where the kernel can: then a byte is in the FIFO or in our output and never in
    between, so that killing this process at any moment loses none.  Otherwise (a file opened for
    appending, an old kernel's terminal) by read and write, where up to one chunk can be lost.
    """

    def __init__(self, fifo: str, output: int) -> None:
        self._output = output
        self._spliced = True
        super().__init__(fifo)

    def take(self, fd: int) -> int:
        if self._spliced:
            try:
                return os.splice(fd, self._output, _CHUNK_BYTES, flags=os.SPLICE_F_NONBLOCK)
            except BlockingIOError:
                self._wait_for_room(fd)
                raise
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                self._spliced = False
        chunk = os.read(fd, _CHUNK_BYTES)
        written = 0
        while written < len(chunk):
            written += os.write(self._output, chunk[written:])
        return len(chunk)

    def _wait_for_room(self, fd: int) -> None:
        """Sleep until our output takes bytes again instead of spinning on a readable FIFO."""

        def go_on() -> None:
            self._loop.remove_writer(self._output)
            if self._fd == fd:
                self._loop.add_reader(fd, self._step)

        self._loop.remove_reader(fd)
        self._loop.add_writer(self._output, go_on)

    def close(self) -> None:
        with contextlib.suppress(OSError):  # a regular file cannot be watched at all
            self._loop.remove_writer(self._output)
        super().close()


async def write_fifo(fifo: str, data: bytes) -> None:
    """Write all of `data` and close; the shim must have the FIFO open (it has, after Create)."""
    fd = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    loop = asyncio.get_running_loop()
    left = memoryview(data)
    try:
        while left:
            try:
                left = left[os.write(fd, left) :]
            except BlockingIOError:
                room = loop.create_future()
                loop.add_writer(fd, room.set_result, None)
                try:
                    await room
                finally:
                    loop.remove_writer(fd)
    finally:
        os.close(fd)


def feed(fifo: str, source: int, *, done: Callable[[], None]) -> None:
    """Copy `source` into the FIFO from a thread of its own; `done` runs on the loop at its end.

    A thread, because standard input may be a file, a terminal or a pipe shared with others: it can
    neither be watched nor be made non-blocking.  It is left behind when the process ends.
    """
    loop = asyncio.get_running_loop()
    fd = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    os.set_blocking(fd, True)

    def copy() -> None:
        with contextlib.suppress(OSError), os.fdopen(fd, "wb", buffering=0) as sink:
            while chunk := os.read(source, _CHUNK_BYTES):
                left = memoryview(chunk)
                while left:
                    left = left[sink.write(left) or 0 :]
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody wants to know
            loop.call_soon_threadsafe(done)

    threading.Thread(target=copy, name="stdin", daemon=True).start()
