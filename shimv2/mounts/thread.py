"""The short-lived thread that mounts and unmounts.

The thread blocks all signals: the main thread handles SIGCHLD, and a signal could interrupt a
mount.  The thread starts no children: a child's parent death signal is bound to the thread that
made it (prctl(2), PR_SET_PDEATHSIG).
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

_ALL_SIGNALS: Final = signal.valid_signals()  # made once: it takes 0.1 ms


async def in_thread(work: Callable[[], T]) -> T:
    """Run `work` in a new thread to its end and return its result.

    A system call cannot be interrupted: if the caller is cancelled, CancelledError is raised only
    after the thread has ended.
    """
    batch = _Batch(work)
    cancelled: asyncio.CancelledError | None = None
    while not batch.done.done():
        try:
            await asyncio.wait([batch.done])
        except asyncio.CancelledError as exc:
            cancelled = exc
    batch.thread.join()  # its work is done, so this takes microseconds
    if cancelled is None:
        return batch.result()
    raise cancelled from batch.error


class _Batch(Generic[T]):
    """One function in a thread that the constructor starts."""

    def __init__(self, work: Callable[[], T]) -> None:
        self.error: BaseException | None = None
        self._loop = asyncio.get_running_loop()
        self.done: asyncio.Future[None] = self._loop.create_future()
        self._work = work
        self._results: list[T] = []
        self.thread = threading.Thread(target=self._run, name="mounts")
        try:
            self.thread.start()
        except RuntimeError:  # what CPython raises for clone(2)'s EAGAIN
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
        except BaseException as exc:  # noqa: BLE001 - `in_thread` raises it
            self.error = exc
        self._loop.call_soon_threadsafe(self.done.set_result, None)
