"""Reaps the shim's children, and the orphans re-parented to it; gives their exits as futures.

One SIGCHLD may stand for many exits.  So waitpid is called until it finds none.  An exit
resolves the futures that were claimed for its pid.  That only schedules callbacks: a slow waiter
delays no other one.  An exit without a claim is dropped; this is how orphans are reaped.

An exit may come before its pid is known: the init of a container can die while `runc create` still
writes the pid file.  While a launch window is open, exits are kept for a later claim.

Recycled pids: a pid identifies one process until it is reaped, and only this module reaps.  If a
pid is a child now, then a kept exit of the same pid is that of an earlier process.  `claim` checks
this (waitid(2) with WNOWAIT) before it uses a kept exit.  No pidfd is needed.
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
"""Exits kept while a launch window is open: the default of /proc/sys/kernel/pid_max.  With that
default no exit is lost, because a pid is kept once.  About 6 MiB when full."""

_REAPED_PER_ITERATION: Final = 256  # of the loop: 20,000 orphans must not delay a reply

log = logging.getLogger(__name__)


class Reaper:
    """Belongs to one loop, in the main thread.  Gets orphans if the process is a subreaper."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._claims: dict[int, list[asyncio.Future[Exit]]] = {}
        self._kept: dict[int, Exit] = {}  # in the order of reaping
        self._windows = 0
        self._lost = 0  # exits dropped at the limit since the first window opened
        self._again: asyncio.Handle | None = None

    def start(self) -> None:
        """Begin to reap; children that have already exited are reaped at once."""
        self._loop.add_signal_handler(signal.SIGCHLD, self.collect)
        self.collect()

    def stop(self) -> None:
        """Stop reaping.  Claims stay unresolved."""
        self._loop.remove_signal_handler(signal.SIGCHLD)
        if self._again is not None:
            self._again.cancel()
            self._again = None

    def collect(self) -> None:
        """Reap the children that have exited, in the order of the kernel.  Does not block."""
        if self._again is not None:
            self._again.cancel()
            self._again = None
        for _ in range(_REAPED_PER_ITERATION):
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
            self._kept.pop(ended.pid, None)  # of an earlier process with this pid
            if len(self._kept) >= KEPT_EXITS_LIMIT:
                del self._kept[next(iter(self._kept))]
                self._lost += 1
            self._kept[ended.pid] = ended

    @contextlib.contextmanager
    def launching(self) -> Iterator[None]:
        """Open a launch window: exits are kept until the last open window closes.

        Windows may overlap and nest.
        """
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
        """Return a future of a child's exit, resolved at once if an open window kept the exit.

        Every claim gets a future of its own and the same Exit; cancelling one future does not
        affect the others.  Claim a process that the runtime leaves behind only after the runtime
        was reaped: before that it is not a child of the shim.

        Raises:
            ChildProcessError: it is no child, and no exit of it was kept: a future for it would
                never be resolved.
        """
        future: asyncio.Future[Exit] = self._loop.create_future()
        if not self._is_child(pid):
            kept = self._kept.get(pid)
            if kept is None:
                raise ChildProcessError(f"process {pid} is no child of this process, or was reaped")
            future.set_result(kept)
            return future
        self._claims.setdefault(pid, []).append(future)
        future.add_done_callback(lambda done: self._forget(pid, done))
        return future

    @staticmethod
    def _is_child(pid: int) -> bool:
        """Whether `pid` is a child that has not been reaped, running or exited."""
        try:
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return False
        return True

    def _forget(self, pid: int, done: asyncio.Future[Exit]) -> None:
        """Remove the future of a claim that was cancelled; after an exit there is none."""
        claims = self._claims.get(pid, [])
        if done.cancelled() and done in claims:
            claims.remove(done)
            if not claims:
                del self._claims[pid]


def _exit_status(wait_status: int) -> int:
    code = os.waitstatus_to_exitcode(wait_status)
    return code if code >= 0 else 128 - code
