"""The event loop of the shim: asyncio's tasks and futures over a bare epoll.

The stock loop brings transports, an executor, name look-ups and TLS; a shim has one listening
socket, some pipes and SIGCHLD.  This class offers what tasks, futures, locks, groups and timeouts
need, plus readers, writers and signals - and nothing else: `run_in_executor` and the transports
raise NotImplementedError.  An idle loop sleeps in epoll_wait without a time limit.

Differences from the stock loop: a signal is noted by its Python handler and the wake-up pipe only
wakes, so that a full pipe loses no signal; `sock_connect` waits for room in a Unix socket's
backlog; a slow callback in debug mode is judged by CPU time, not by the clock on the wall.
"""

import asyncio
import contextlib
import heapq
import logging
import signal
import socket
import sys
import time
import weakref
from _thread import get_ident
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator
from contextvars import Context
from types import FrameType
from typing import Any, Final, TypeVar, TypeVarTuple, cast

from shimv2.aio.poller import READ, WRITE, Poller

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
ExceptionHandler = Callable[[asyncio.AbstractEventLoop, dict[str, Any]], object]

_LONGEST_POLL_S: Final = 24 * 3600.0  # epoll's limit is an int of milliseconds
_PURGE_AT_CANCELLED: Final = 64  # cancelled timers kept before the heap is looked through
_CONNECT_RETRY_FIRST_S: Final = 0.001
_CONNECT_RETRY_LAST_S: Final = 0.05

log = logging.getLogger(__name__)


class LeanLoop(asyncio.AbstractEventLoop):
    """One thread's loop.  Not thread-safe but for `call_soon_threadsafe`; `close` it after use."""

    def __init__(self) -> None:
        self._closed = False
        self._stopping = False
        self._thread_id = 0  # of the thread that runs us; 0 = nobody does
        self._ready: deque[asyncio.Handle] = deque()
        self._timers: list[asyncio.TimerHandle] = []  # a heap
        self._cancelled_timers = 0  # an estimate: a timer cancelled after it ran counts too
        self._signals: dict[int, asyncio.Handle] = {}
        self._signalled: set[int] = set()
        self._exception_handler: ExceptionHandler | None = None
        self._asyncgens: weakref.WeakSet[AsyncGenerator[Any, Any]] = weakref.WeakSet()
        self._debug = sys.flags.dev_mode
        self.slow_callback_duration = 0.05  # seconds of CPU time, looked at in debug mode only
        self._poller = Poller()
        self._turns = 0  # callbacks since `before_sleep` was called
        self.before_sleep: Callable[[int], object] | None = None
        """Called when there is nothing to do, with the number of callbacks since the last time."""

    def __repr__(self) -> str:
        return f"<LeanLoop{' running' * self.is_running()}{' closed' * self._closed}>"

    # --- running -------------------------------------------------------------------------------

    def run_forever(self) -> None:
        self._check_open()
        if self._thread_id:
            raise RuntimeError("This event loop is already running")
        if asyncio._get_running_loop() is not None:
            raise RuntimeError("Cannot run the event loop while another loop is running")
        hooks = sys.get_asyncgen_hooks()
        self._thread_id = get_ident()
        try:
            sys.set_asyncgen_hooks(firstiter=self._asyncgens.add, finalizer=self._drop_asyncgen)
            asyncio._set_running_loop(self)
            self._run_once()
            while not self._stopping:
                self._run_once()
        finally:
            self._stopping = False
            self._thread_id = 0
            asyncio._set_running_loop(None)
            sys.set_asyncgen_hooks(*hooks)

    def run_until_complete(self, future: Generator[Any, None, T] | Awaitable[T]) -> T:
        self._check_open()
        ours = not asyncio.isfuture(future)
        waited: asyncio.Future[T] = asyncio.ensure_future(cast("Awaitable[T]", future), loop=self)
        waited.add_done_callback(self._stop_for)
        try:
            self.run_forever()
        except BaseException:
            if ours and waited.done() and not waited.cancelled():
                waited.exception()  # it is the one that flies: not reported a second time
            raise
        finally:
            waited.remove_done_callback(self._stop_for)
        if not waited.done():
            raise RuntimeError("Event loop stopped before Future completed.")
        return waited.result()

    def _stop_for(self, future: asyncio.Future[Any]) -> None:
        error = None if future.cancelled() else future.exception()
        if not isinstance(error, SystemExit | KeyboardInterrupt):  # those leave by themselves
            self.stop()

    def stop(self) -> None:
        """Let the callbacks that are ready now run, then return from `run_forever`."""
        self._stopping = True

    def is_running(self) -> bool:
        return self._thread_id != 0

    def is_closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        """Give back all fds and signal handlers; what was scheduled will not run."""
        if self._thread_id:
            raise RuntimeError("Cannot close a running event loop")
        if self._closed:
            return
        for number in list(self._signals):
            self.remove_signal_handler(number)
        self._closed = True
        self._ready.clear()
        self._timers.clear()
        self._poller.close()

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("Event loop is closed")
        if self._debug and self._thread_id not in (0, get_ident()):
            raise RuntimeError("this loop runs in another thread: use call_soon_threadsafe")

    def _run_once(self) -> None:
        """Wait for something, then run what was ready at that moment, not what it adds."""
        timers = self._timers
        while timers and timers[0].cancelled():
            heapq.heappop(timers)
            self._cancelled_timers -= 1
        timeout_s = None
        if self._ready or self._stopping or self._signalled:
            timeout_s = 0.0
        elif timers:
            timeout_s = min(max(timers[0].when() - time.monotonic(), 0.0), _LONGEST_POLL_S)
        if timeout_s != 0 and self.before_sleep is not None:
            self.before_sleep(self._turns)
            self._turns = 0
        self._poller.poll(timeout_s, self._ready)
        if self._signalled:
            self._take_signals()
        if timers:
            now = time.monotonic()
            while timers and timers[0].when() <= now:
                self._ready.append(heapq.heappop(timers))
        self._turns += len(self._ready)
        for _ in range(len(self._ready)):
            handle = self._ready.popleft()
            if handle.cancelled():
                continue
            if self._debug:
                self._run_timed(handle)
            else:
                handle._run()

    def _run_timed(self, handle: asyncio.Handle) -> None:
        before_s = time.thread_time()
        handle._run()
        took_s = time.thread_time() - before_s
        if took_s >= self.slow_callback_duration:
            log.warning("%r took %.3f s of CPU time", handle, took_s)

    # --- callbacks -----------------------------------------------------------------------------

    def time(self) -> float:
        return time.monotonic()

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        self._check_open()
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_soon_threadsafe(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        if self._closed:
            raise RuntimeError("Event loop is closed")
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        self._poller.wake()
        return handle

    def call_later(
        self,
        delay: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        return self.call_at(time.monotonic() + delay, callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        self._check_open()
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._timers, timer)
        return timer

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Keep a long timer that is cancelled each time (a time-out) from piling up in the heap."""
        self._cancelled_timers += 1
        limit = max(_PURGE_AT_CANCELLED, len(self._timers) // 2)
        if self._cancelled_timers > limit:
            # In place: `_run_once` holds the list.  The one being cancelled is not marked yet.
            self._timers[:] = [t for t in self._timers if t is not handle and not t.cancelled()]
            heapq.heapify(self._timers)
            self._cancelled_timers = 0

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(
        self,
        coro: Generator[Any, None, T] | Coroutine[Any, Any, T],
        *,
        name: str | None = None,
        context: Context | None = None,
        **options: Any,  # eager_start, from Python 3.14
    ) -> asyncio.Task[T]:
        self._check_open()
        return asyncio.Task(coro, loop=self, name=name, context=context, **options)

    # --- readers and writers -------------------------------------------------------------------

    def add_reader(self, fd: Any, callback: Callable[[*Ts], object], *args: *Ts) -> None:
        """Call back while `fd` has something to read, has hung up or is in error.

        Raises:
            PermissionError: epoll cannot wait for this kind of file (a regular one).
        """
        self._check_open()
        self._poller.add(fd, READ, asyncio.Handle(callback, args, self, None))

    def add_writer(self, fd: Any, callback: Callable[[*Ts], object], *args: *Ts) -> None:
        """Call back while `fd` takes more, has lost its reader or is in error; see add_reader."""
        self._check_open()
        self._poller.add(fd, WRITE, asyncio.Handle(callback, args, self, None))

    def remove_reader(self, fd: Any) -> bool:
        return not self._closed and self._poller.remove(fd, READ)

    def remove_writer(self, fd: Any) -> bool:
        return not self._closed and self._poller.remove(fd, WRITE)

    # --- signals -------------------------------------------------------------------------------

    def add_signal_handler(self, sig: int, callback: Callable[[*Ts], object], *args: *Ts) -> None:
        """Call back on the loop after a signal; several before the call give one call.

        Raises:
            RuntimeError: it cannot be caught, or this is not the main thread.
        """
        self._check_open()
        handle = asyncio.Handle(callback, args, self, None)
        try:
            signal.set_wakeup_fd(self._poller.wake_fd, warn_on_full_buffer=False)
            signal.signal(sig, self._note_signal)
            signal.siginterrupt(sig, False)
        except (ValueError, OSError) as exc:
            if not self._signals:
                self._forget_wakeup_fd()
            raise RuntimeError(f"signal {sig} cannot be caught: {exc}") from exc
        self._signals[int(sig)] = handle

    def remove_signal_handler(self, sig: int) -> bool:
        handle = self._signals.pop(int(sig), None)
        if handle is None:
            return False
        handle.cancel()
        signal.signal(sig, signal.default_int_handler if sig == signal.SIGINT else signal.SIG_DFL)
        if not self._signals:
            self._forget_wakeup_fd()
        return True

    def _note_signal(self, number: int, _frame: FrameType | None) -> None:
        # Python runs this between two steps of the main thread; C has written to the pipe before.
        self._signalled.add(number)

    def _take_signals(self) -> None:
        taken, self._signalled = self._signalled, set()
        self._ready.extend(self._signals[number] for number in taken if number in self._signals)

    @staticmethod
    def _forget_wakeup_fd() -> None:
        with contextlib.suppress(ValueError):  # not the main thread: it was never set from here
            signal.set_wakeup_fd(-1)

    # --- errors and debugging ------------------------------------------------------------------

    def get_debug(self) -> bool:
        return self._debug

    def set_debug(self, enabled: bool) -> None:
        self._debug = enabled

    def set_exception_handler(self, handler: ExceptionHandler | None) -> None:
        self._exception_handler = handler

    def get_exception_handler(self) -> ExceptionHandler | None:
        return self._exception_handler

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        fields = {k: v for k, v in context.items() if k not in ("message", "exception")}
        text = context.get("message", "unhandled exception in the event loop")
        log.error("%s: %r", text, fields, exc_info=context.get("exception"))

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Tell of an error nobody awaits.  Never raises: it is called from destructors."""
        try:
            if self._exception_handler is None:
                self.default_exception_handler(context)
            else:
                self._exception_handler(self, context)
        except Exception:
            log.exception("error in the exception handler; it was told of %r", context)

    # --- the rest of asyncio that is used ------------------------------------------------------

    def _drop_asyncgen(self, generator: AsyncGenerator[Any, Any]) -> None:
        """Finish a generator that was left half-way (called by the collector, in any thread)."""
        self._asyncgens.discard(generator)
        if not self._closed:
            self.call_soon_threadsafe(self.create_task, generator.aclose())

    async def shutdown_asyncgens(self) -> None:
        for generator in list(self._asyncgens):
            await generator.aclose()

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - asyncio's signature
        """There is none."""

    async def sock_connect(self, sock: socket.socket, address: Any) -> None:
        """Connect a non-blocking Unix socket; the caller sets the time limit.

        With a full backlog the kernel answers EAGAIN and has no way to tell when there is room
        (the socket polls as writable): it is asked again, every 50 ms at last.
        """
        if sock.family != socket.AF_UNIX:
            raise NotImplementedError("only Unix sockets")
        pause_s = _CONNECT_RETRY_FIRST_S
        while True:
            try:
                return sock.connect(address)
            except BlockingIOError:
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, _CONNECT_RETRY_LAST_S)


def new_loop() -> LeanLoop:
    return LeanLoop()  # type: ignore[abstract] # what is not here raises NotImplementedError


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run `main` on a lean loop of its own, like `asyncio.run`.

    Tasks that are left are cancelled and awaited.  SIGINT is not treated specially: the daemon has
    a handler of its own, and elsewhere KeyboardInterrupt flies.
    """
    loop = new_loop()
    try:
        try:
            return loop.run_until_complete(main)
        finally:
            _cancel_all(loop)
            loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()


def _cancel_all(loop: LeanLoop) -> None:
    left = asyncio.all_tasks(loop)
    if not left:
        return
    for task in left:
        task.cancel()

    async def ended() -> None:
        await asyncio.wait(left)

    loop.run_until_complete(ended())
    for task in left:
        if not task.cancelled() and (exc := task.exception()) is not None:
            what = "a task failed while it was cancelled at the end"
            loop.call_exception_handler({"message": what, "exception": exc, "task": task})
