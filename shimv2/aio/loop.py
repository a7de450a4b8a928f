"""The event loop of the shim: asyncio's own, with a hook before it sleeps and lossless signals.

An idle loop sleeps in epoll_wait without a time limit.  asyncio's loop (CPython,
Lib/asyncio/unix_events.py) learns the number of a signal from a byte in its wake-up socket, and
that byte is lost while the socket's buffer is full.  Here the Python signal handler schedules the
callback itself; the byte only ends the sleep.
"""

import asyncio
import logging
import select
import selectors
import signal
import socket
from collections import deque
from collections.abc import Callable, Coroutine
from types import FrameType
from typing import Any, Final, TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

# EPOLLHUP and EPOLLERR wake reader and writer: the next system call of each has the reason.
_FOR_READER: Final = ~select.EPOLLOUT
_FOR_WRITER: Final = ~select.EPOLLIN
_EVENTS_PER_ITERATION: Final = 64  # epoll reports further ones in the next iterations, in turn

log = logging.getLogger(__name__)


class ShimLoop(asyncio.SelectorEventLoop):
    """The loop of one thread.  Not thread-safe except for `call_soon_threadsafe`."""

    # Attributes of asyncio's loop, the same in CPython 3.11 to 3.14: the callbacks of the next
    # iteration, the heap of timers, the write end of the wake-up socket, the callback of each
    # signal.
    _ready: deque[asyncio.Handle]
    _scheduled: list[asyncio.TimerHandle]
    _csock: socket.socket
    _signal_handlers: dict[int, asyncio.Handle]

    def __init__(self) -> None:
        self.before_sleep: Callable[[int], object] | None = None
        """Called before each sleep with the number of iterations since the call before."""
        self._scheduled_signals: set[int] = set()
        super().__init__(_Selector(self))

    def add_signal_handler(self, sig: int, callback: Callable[[*Ts], object], *args: *Ts) -> None:
        """Run `callback` in the loop after a signal, once for all signals that come before it runs.

        Raises:
            RuntimeError, OSError: the signal cannot be caught, or this is not the main thread.
        """
        super().add_signal_handler(sig, callback, *args)
        signal.set_wakeup_fd(self._csock.fileno(), warn_on_full_buffer=False)
        signal.signal(sig, self._schedule_signal)
        signal.siginterrupt(sig, False)  # signal.signal turned it on again

    def _schedule_signal(self, number: int, _frame: FrameType | None) -> None:
        # The interpreter calls this in the loop's thread, between two bytecodes.
        if number not in self._scheduled_signals:
            self._scheduled_signals.add(number)
            self.call_soon(self._deliver_signal, number)

    def _deliver_signal(self, number: int) -> None:
        self._scheduled_signals.discard(number)
        if (handle := self._signal_handlers.get(number)) is not None:
            handle._run()

    def _process_self_data(self, data: bytes) -> None:
        """Ignore the bytes from which asyncio's loop takes the signals."""


class _Selector(selectors.EpollSelector):
    """Puts the callbacks of ready descriptors straight into the loop's queue.

    asyncio's way over SelectorKey and `_process_events` takes 1 µs more in each iteration.
    """

    _selector: select.epoll  # of selectors.EpollSelector, CPython 3.11 to 3.14
    _fd_to_key: dict[int, selectors.SelectorKey]  # the same; data is (reader, writer)

    def __init__(self, loop: ShimLoop) -> None:
        super().__init__()
        self._loop = loop
        self._iterations = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait for descriptors; the result is always empty."""
        loop, keys = self._loop, self._fd_to_key
        if timeout != 0:
            if loop.before_sleep is not None:
                loop.before_sleep(self._iterations)
                timeout = self._shortened(timeout)
            self._iterations = 0
        self._iterations += 1
        ready = loop._ready
        for fd, events in self._selector.poll(timeout, _EVENTS_PER_ITERATION):
            key = keys.get(fd)
            if key is None:
                self._replace_epoll()
                break
            reader, writer = key.data
            if reader is not None and events & _FOR_READER:
                ready.append(reader)
            if writer is not None and events & _FOR_WRITER:
                ready.append(writer)
        return []

    def _shortened(self, timeout: float | None) -> float | None:
        """Return the timeout of the sleep.

        asyncio's loop (BaseEventLoop._run_once) has computed `timeout` before the hook ran, and the
        hook may have scheduled callbacks or timers.
        """
        if self._loop._ready:
            return 0.0
        if not self._loop._scheduled:
            return timeout
        left_s = max(0.0, self._loop._scheduled[0].when() - self._loop.time())
        return left_s if timeout is None else min(timeout, left_s)

    def _replace_epoll(self) -> None:
        """Make a new epoll after the old one reported a descriptor that is not registered.

        The descriptor was closed before its removal, and a copy of it is open: then the file stays
        in the epoll set (epoll(7), questions and answers), no call can remove it, and epoll_wait
        would never sleep again.
        """
        log.error("a descriptor was closed before its removal from the loop: epoll is made anew")
        self._selector.close()
        self._selector = select.epoll()
        for key in self._fd_to_key.values():
            self._selector.register(key.fd, key.events)


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run `main` on a loop of its own, as `asyncio.run` does."""
    with asyncio.Runner(loop_factory=ShimLoop) as runner:
        return runner.run(main)
