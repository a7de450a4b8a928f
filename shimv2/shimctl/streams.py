"""The client's ends of a process's stdio FIFOs.

Output is read without blocking, on the running loop.  epoll reports no event for a FIFO before its
first writer, so an empty read always means that every writer has closed it.  Bytes that were not
read stay in the FIFO: the next client that opens it continues there.
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
    """Reads one output FIFO to its end.  Owns its fd; `close` is idempotent."""

    def __init__(self, fifo: str) -> None:
        # Open before Create: the shim waits for a reader before it answers.
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
        """Read some bytes from `fd`; return their number, 0 at the end of the stream.

        Raises:
            BlockingIOError: there are none now.
        """
        raise NotImplementedError

    def _step(self) -> None:
        try:
            if self.take(self._fd) == 0:
                self.close()
        except BlockingIOError:
            return
        except OSError:
            self.close()  # the output is closed: nothing can be forwarded any more


class Capture(Output):
    """Keeps all that a process writes, without a bound: for tests and short commands."""

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
            TimeoutError: it was not; the text has the output.
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
    """Forwards what a process writes to an fd of this process, which the caller owns.

    It uses splice(2) where possible: a byte is then either in the FIFO or in the output, so a kill
    of this process loses none.  Otherwise (O_APPEND, a terminal on an old kernel) it uses read and
    write, and a kill may lose one chunk.
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
        """Stop reading until the output is writable; the readable FIFO would make the loop spin."""

        def go_on() -> None:
            self._loop.remove_writer(self._output)
            if self._fd == fd:
                self._loop.add_reader(fd, self._step)

        self._loop.remove_reader(fd)
        self._loop.add_writer(self._output, go_on)

    def close(self) -> None:
        with contextlib.suppress(OSError):  # epoll refuses regular files
            self._loop.remove_writer(self._output)
        super().close()


async def write_fifo(fifo: str, data: bytes) -> None:
    """Write all of `data` and close.  The shim must have the FIFO open, as it has after Create."""
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
    """Copy `source` into the FIFO in a new thread; at the end, call `done` on the loop.

    Standard input may be a regular file, which epoll refuses, or be shared with other processes,
    which O_NONBLOCK would affect.  So a thread blocks on it.  It is a daemon thread.
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
        with contextlib.suppress(RuntimeError):  # the loop is closed already
            loop.call_soon_threadsafe(done)

    threading.Thread(target=copy, name="stdin", daemon=True).start()
