"""Reclaiming: an idle shim gives up copies of pages that are equal to the image (_reclaim.c)."""

import asyncio
from typing import Final

from shimv2.pagesharing import prefault, publish

__all__ = ["Reclaimer", "reclaim", "reclaim_before_every_sleep"]

_WORTH_TURNS: Final = 8  # callbacks of the loop: a few State calls, or the shortest verb
_IDLE_S: Final = 0.5  # idle time before a reclaim
_MAX_WAITS: Final = 5  # for an idle time, at most; then a reclaim comes in any case
# After a reclaim an exec copies 4 MB again, in some 8 ms of CPU time.  If a node has 8 GB for each
# CPU, 4 MB are 1/2000 of the memory, and 8 ms are 1/2000 of 16 s.  So a reclaim pays if the memory
# stays free for longer than that.
_PAYS_AFTER_S: Final = 16.0
_MAX_STEPS: Final = 3  # from _IDLE_S to _PAYS_AFTER_S, by a factor of 4 each

_pace: Final = {"turns": _WORTH_TURNS, "idle_s": _IDLE_S}


def reclaim_before_every_sleep() -> None:
    """Reclaim whenever the loop is about to sleep: for the canary, and for tests."""
    _pace.update(turns=2, idle_s=0.0)  # 2: a reclaim itself is one callback of the loop


def reclaim() -> int:
    """Give up all copies of pages that are equal to the image; return the number of pages.

    With a second thread it does nothing: that thread could write to a page during the comparison.
    """
    library = publish.published_library()
    if library is None or not publish.has_one_thread():
        return 0
    return max(0, int(library.pyrunc_reclaim_2()))


class Reclaimer:
    """Reclaims once the loop has been idle for `_IDLE_S` after some work.

    The next reclaim needs new work.  If the loop is never idle for that long, the reclaim comes
    after `_MAX_WAITS` such times.  If work comes soon after a reclaim (a probe, a request for
    metrics), the shim has to copy its pages again.  If that happens twice or more in a row, the
    idle time before the next reclaim becomes longer, up to `_PAYS_AFTER_S`.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._turns = _pace["turns"]  # the start itself is enough work
        self._later: asyncio.TimerHandle | None = None
        self._reclaimed_at: float | None = None  # loop time; None once there is work
        self._too_soon = 0  # how often in a row

    def before_sleep(self, turns: int) -> None:
        """Count `turns` callbacks since the last call.  The loop has nothing left to run."""
        prefault.report_used_pages()  # before the first sleep: those of a start
        self._turns += turns
        if self._turns > 0 and self._reclaimed_at is not None:
            self._learn(self._loop.time() - self._reclaimed_at)
        if self._turns >= _pace["turns"] and self._later is None:
            self._wait(self._turns, _MAX_WAITS - 1)

    def _learn(self, idle_s: float) -> None:
        self._reclaimed_at = None
        self._too_soon = self._too_soon + 1 if idle_s < _PAYS_AFTER_S else 0

    def _idle_s(self) -> float:
        steps = min(max(0, self._too_soon - 1), _MAX_STEPS)
        return min(_pace["idle_s"] * 4.0**steps, _PAYS_AFTER_S)

    def _wait(self, turns: float, more: int) -> None:
        self._later = self._loop.call_later(self._idle_s(), self._look, turns, more)

    def _look(self, turns: float, more: int) -> None:
        """Reclaim if the count is still `turns`; else wait again, up to `more` times."""
        if self._turns > turns and more:
            self._wait(self._turns + 1, more - 1)  # + 1: this callback is not counted yet
            return
        self._later = None
        self._turns = -1  # the loop will count this callback
        reclaim()
        self._reclaimed_at = self._loop.time()
