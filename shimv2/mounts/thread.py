"""The short-lived thread in which mounts are made and taken away.

It blocks all signals: SIGCHLD belongs to the main thread, and a mount that a signal interrupts
would fail.  It makes no children: their parent death signal would be tied to it.
"""

import asyncio
import errno
import os
import signal
import threading
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from shimv2.kernel import linux

T = TypeVar("T")

_ALL_SIGNALS: Final = signal.valid_signals()  # it takes a tenth of a millisecond to make the set


async def in_thread(work: Callable[[], T]) -> T:
    """Run `work` in a thread of its own to its end, whatever happens to the caller meanwhile.

    A system call cannot be called back: a caller that is cancelled is cancelled afterwards.
    """
    batch = _Batch(work)
    cancelled: asyncio.CancelledError | None = None
    while not batch.done.done():
        try:
            await asyncio.wait([batch.done])
        except asyncio.CancelledError as exc:
            cancelled = exc
    batch.thread.join()  # it has said its last word: this takes microseconds
    if cancelled is None:
        return batch.result()
    raise cancelled from batch.error


class _Batch(Generic[T]):
    """One piece of work in a thread that is running when this exists."""

    def __init__(self, work: Callable[[], T]) -> None:
        self.error: BaseException | None = None
        self._loop = asyncio.get_running_loop()
        self.done: asyncio.Future[None] = self._loop.create_future()
        self._work = work
        self._results: list[T] = []
        self.thread = threading.Thread(target=self._run, name="mounts")
        try:
            self.thread.start()
        except RuntimeError:  # all Python says when the kernel refuses another thread
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from None

    def result(self) -> T:
        if self.error is not None:
            raise self.error
        return self._results[0]

    def _run(self) -> None:
        try:
            signal.pthread_sigmask(signal.SIG_BLOCK, _ALL_SIGNALS)
            linux.unshare(linux.CLONE_FS)
            self._results.append(self._work())
        except BaseException as exc:  # noqa: BLE001 - raised again where it is awaited
            self.error = exc
        self._loop.call_soon_threadsafe(self.done.set_result, None)
