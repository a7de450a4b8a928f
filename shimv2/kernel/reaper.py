"""The only caller of waitpid: exits of our children, and of orphans we inherit, as futures.

Every SIGCHLD is followed by waitpid until nothing is left, for one signal may stand for a thousand
exits.  Whoever claimed the pid gets a future resolved - that only schedules, so a stalled waiter
holds up nobody - and an exit nobody claimed is forgotten, which is how orphans are reaped silently.

An exit may come before its pid is known: the init of a container dies while `runc create` still
writes the pid file.  While a launch window is open, exits are kept for a later claim.

No pidfds here: a pid names one process until it is reaped, and nobody but us reaps.  A pid that is
our child now therefore cannot be the one a kept exit tells of, and `claim` looks (waitid with
WNOWAIT) before it believes a kept exit: a recycled pid does not get its predecessor's status.
"""

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import Iterator
from typing import Final

from shimv2.values.model import Exit

KEPT_EXITS_LIMIT: Final = 32_768
"""Exits kept while a launch window is open: as many as there are pids where pid_max has
its default, so that nothing can be lost there (a pid is kept once).  About 6 MiB when full."""

_REAPED_PER_TURN: Final = 256  # then the loop has a turn: 20,000 orphans must not stall an answer

log = logging.getLogger(__name__)


class Reaper:
    """Belongs to one loop, in the main thread.  Needs the process to be a subreaper for orphans."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._claims: dict[int, list[asyncio.Future[Exit]]] = {}
        self._kept: dict[int, Exit] = {}  # in the order of reaping
        self._windows = 0
        self._lost = 0  # kept exits that were pushed out since the first window opened
        self._again: asyncio.Handle | None = None

    def start(self) -> None:
        """Begin to reap; children that are dead already are collected at once."""
        self._loop.add_signal_handler(signal.SIGCHLD, self.collect)
        self.collect()

    def stop(self) -> None:
        """Reap no more.  Claims stay unresolved."""
        self._loop.remove_signal_handler(signal.SIGCHLD)
        if self._again is not None:
            self._again.cancel()
            self._again = None

    def collect(self) -> None:
        """Reap what is dead now, in the order the kernel gives; never blocks, never waits."""
        if self._again is not None:
            self._again.cancel()
            self._again = None
        for _ in range(_REAPED_PER_TURN):
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)  # noqa: TID251 - this is the one place
            except ChildProcessError:
                return
            if pid == 0:
                return
            self._deliver(Exit(pid, _exit_status(status), time.time_ns()))
        self._again = self._loop.call_soon(self.collect)

    def _deliver(self, ended: Exit) -> None:
        claims = self._claims.pop(ended.pid, None)
        if claims is not None:
            for future in claims:
                if not future.done():
                    future.set_result(ended)
        if self._windows:
            self._kept.pop(ended.pid, None)  # an earlier life of a recycled pid
            if len(self._kept) >= KEPT_EXITS_LIMIT:
                del self._kept[next(iter(self._kept))]
                self._lost += 1
            self._kept[ended.pid] = ended

    @contextlib.contextmanager
    def launching(self) -> Iterator[None]:
        """Keep all exits until the last open window closes; windows may overlap and nest."""
        self._windows += 1
        try:
            yield
        finally:
            self._windows -= 1
            if not self._windows:
                self._kept.clear()
                if self._lost:
                    log.warning("%d exits of unknown processes were not kept", self._lost)
                    self._lost = 0

    def claim(self, pid: int) -> asyncio.Future[Exit]:
        """A future of the exit of a child of ours, resolved now if an open window kept it.

        Everyone who claims gets a future of their own and the same Exit; cancelling one harms no
        other.  Claim a process that the runtime leaves behind after the runtime itself was reaped:
        only then is it our child.

        Raises:
            ChildProcessError: it is no child of ours and its exit is not known: it was told
                already or came outside of a window.  A future would never resolve.
        """
        future: asyncio.Future[Exit] = self._loop.create_future()
        if not self._is_child(pid):
            kept = self._kept.get(pid)
            if kept is None:
                raise ChildProcessError(f"process {pid} is no child of this one, or was reaped")
            future.set_result(kept)
            return future
        self._claims.setdefault(pid, []).append(future)
        future.add_done_callback(lambda done: self._forget(pid, done))
        return future

    @staticmethod
    def _is_child(pid: int) -> bool:
        """Whether `pid` is a child of ours that is not reaped yet, dead or alive."""
        try:
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return False
        return True

    def _forget(self, pid: int, done: asyncio.Future[Exit]) -> None:
        """Drop a claim that was cancelled; after an exit there is nothing left to drop."""
        claims = self._claims.get(pid, [])
        if done.cancelled() and done in claims:
            claims.remove(done)
            if not claims:
                del self._claims[pid]


def _exit_status(wait_status: int) -> int:
    code = os.waitstatus_to_exitcode(wait_status)
    return code if code >= 0 else 128 - code
