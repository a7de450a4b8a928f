"""Reclaiming: an idle shim gives up copies of pages that say what the image says."""

import asyncio
from typing import Final

from shimv2.pagesharing import prefault, publish

__all__ = ["Reclaimer", "at_every_rest", "reclaim"]

_WORTH_TURNS: Final = 8  # callbacks of the loop: a few questions, or the smallest verb
_REST_S: Final = 0.5
_MAX_WAITS: Final = 5  # for that rest
# What an exec has to copy again, 4 MB, takes some 8 ms of CPU time; a node has a few GB for a CPU.
_PAYS_AFTER_S: Final = 16.0
_MAX_STEPS: Final = 3  # in which that rest becomes as long

_pace: Final = {"turns": _WORTH_TURNS, "rest_s": _REST_S}


def at_every_rest() -> None:
    """Reclaim whenever the loop is about to sleep: for a canary, and for tests."""
    _pace.update(turns=2, rest_s=0.0)  # to reclaim is one turn of the loop


def reclaim() -> int:
    """Give up all copies of pages that are what they were; how many pages.

    Nothing is done while there is another thread, which might write to one at that moment.
    """
    library = publish.published_library()
    if library is None or not publish.has_one_thread():
        return 0
    return max(0, int(library.pyrunc_reclaim_2()))


class Reclaimer:
    """Reclaims when the loop has been idle for a while after some work, and not again until more.

    If the loop is never idle for that long, it reclaims all the same, a few times as late.  If a
    shim is woken soon after a reclaim, it pays for copying the pages again: by a probe, say, or a
    request for metrics.  From the second time in a row on, it waits longer and longer.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._turns = _pace["turns"]  # the start itself was worth it
        self._later: asyncio.TimerHandle | None = None
        self._reclaimed_at: float | None = None  # loop time, until there is work again
        self._too_soon = 0  # how often in a row

    def before_sleep(self, turns: int) -> None:
        """Note that `turns` callbacks have run since the last time and nothing is left to do."""
        self._turns += turns
        if self._turns > 0 and self._reclaimed_at is not None:
            self._learn(self._loop.time() - self._reclaimed_at)
        if self._turns >= _pace["turns"] and self._later is None:
            self._wait(self._turns, _MAX_WAITS - 1)

    def at_exit(self) -> None:
        prefault.report_used_pages()  # this shim was too short-lived to come to rest

    def _learn(self, idle_s: float) -> None:
        self._reclaimed_at = None
        self._too_soon = self._too_soon + 1 if idle_s < _PAYS_AFTER_S else 0

    def _rest_s(self) -> float:
        steps = min(max(0, self._too_soon - 1), _MAX_STEPS)
        return min(_pace["rest_s"] * 4.0**steps, _PAYS_AFTER_S)

    def _wait(self, turns: float, more: int) -> None:
        self._later = self._loop.call_later(self._rest_s(), self._look, turns, more)

    def _look(self, turns: float, more: int) -> None:
        """Reclaim if there were `turns` and no more; else wait again, up to `more` times."""
        if self._turns > turns and more:
            self._wait(self._turns + 1, more - 1)  # and so will this one
            return
        self._later = None
        self._turns = -1  # this very turn will be counted
        prefault.report_used_pages()
        reclaim()
        self._reclaimed_at = self._loop.time()
