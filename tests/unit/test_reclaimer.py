"""When a shim reclaims: after work, once it is idle, and less often if it is woken soon."""

import asyncio
from collections.abc import Callable

import pytest

from shimv2.pagesharing import prefault, publish, reclaim
from tests.support.aio import run


def test_reclaimer_acts_once_after_work_that_was_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the start and after a verb, once the shim is idle; then it sleeps."""
    done: list[int] = []
    monkeypatch.setattr(reclaim, "reclaim", lambda: done.append(1))
    monkeypatch.setitem(reclaim._pace, "idle_s", 0.01)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        reclaimer = reclaim.Reclaimer(loop)
        for turns, expected in ((1, 1), (0, 1), (3, 1), (3, 1), (3, 2), (40, 3)):
            reclaimer.before_sleep(turns)
            reclaimer.before_sleep(0)
            await asyncio.sleep(0.05)  # five times the idle time
            assert len(done) == expected, (turns, expected)

    run(main())


def test_reclaimer_waits_for_the_end_of_work_but_not_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The reclaim does not come during work; but a shim that is never idle reclaims too."""
    looks: list[int] = []
    monkeypatch.setattr(reclaim, "reclaim", lambda: looks.append(0))
    loop = FakeTimers()
    reclaimer = reclaim.Reclaimer(loop)  # type: ignore[arg-type]

    reclaimer.before_sleep(1)
    for busy in (True, True, False):
        assert looks == []
        if busy:
            reclaimer.before_sleep(1)
        loop.fire()
        reclaimer.before_sleep(1)  # the timer itself
    assert looks == [0]
    assert loop.due is None

    reclaimer.before_sleep(40)
    for number in range(reclaim._MAX_WAITS):
        assert looks == [0], number
        reclaimer.before_sleep(3)
        loop.fire()
        reclaimer.before_sleep(1)
    assert looks == [0, 0]


class FakeTimers:
    """The part of a loop that sets one timer; its time passes only by a call."""

    due: Callable[[], None] | None = None
    delay_s = 0.0
    now_s = 1000.0

    def time(self) -> float:
        return self.now_s

    def call_later(self, delay_s: float, callback: Callable[..., None], *args: int) -> object:
        self.due, self.delay_s = lambda: callback(*args), delay_s
        return self.due

    def fire(self) -> None:
        due, self.due = self.due, None
        assert due is not None
        self.now_s += self.delay_s
        due()


def rest_after(reclaimer: reclaim.Reclaimer, loop: FakeTimers, away_s: float) -> float:
    """Let a shim be idle for `away_s` and then work; return its idle time before the reclaim."""
    loop.now_s += away_s
    reclaimer.before_sleep(40)
    loop.fire()
    reclaimer.before_sleep(1)  # the timer itself
    return loop.delay_s


def test_shim_that_is_woken_soon_waits_longer_before_it_reclaims(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With a probe every ten seconds it would copy all pages each time."""
    monkeypatch.setattr(reclaim, "reclaim", lambda: 0)
    loop = FakeTimers()
    reclaimer = reclaim.Reclaimer(loop)  # type: ignore[arg-type]

    rests = [rest_after(reclaimer, loop, away_s) for away_s in (0, 9, 9, 9, 9, 9)]
    assert rests == [0.5, 0.5, 2, 8, 16, 16]
    assert {rest_after(reclaimer, loop, 15.9) for _ in range(2000)} == {16}
    assert rest_after(reclaimer, loop, 16.1) == 0.5
    assert rest_after(reclaimer, loop, 3600) == 0.5


def test_question_after_a_reclaim_counts_as_work_though_not_worth_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It copies few pages, but shows that the shim is woken soon."""
    monkeypatch.setattr(reclaim, "reclaim", lambda: 0)
    loop = FakeTimers()
    reclaimer = reclaim.Reclaimer(loop)  # type: ignore[arg-type]
    assert rest_after(reclaimer, loop, 0) == 0.5

    loop.now_s += 1
    reclaimer.before_sleep(2)
    assert loop.due is None
    assert rest_after(reclaimer, loop, 60) == 0.5
    assert rest_after(reclaimer, loop, 1) == 2


def test_used_pages_are_reported_once_before_the_first_sleep(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What a start has used.  More would be private memory of each child that waits."""
    calls: list[str] = []
    monkeypatch.setattr(publish, "_published", [None])
    monkeypatch.setattr(prefault, "used_pages", lambda: b"runs")
    monkeypatch.setattr(reclaim, "reclaim", lambda: calls.append("reclaimed"))
    monkeypatch.setitem(reclaim._pace, "idle_s", 0.0)
    prefault.report_used_pages_to(lambda runs: calls.append(runs.decode()))

    async def main() -> None:
        reclaimer = reclaim.Reclaimer(asyncio.get_running_loop())
        for _ in range(2):
            reclaimer.before_sleep(40)
            await asyncio.sleep(0.05)  # it is idle

    run(main())
    assert calls == ["runs", "reclaimed", "reclaimed"]


def test_used_pages_are_reported_only_if_memory_is_published(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[bytes] = []
    monkeypatch.setattr(prefault, "used_pages", lambda: b"runs")
    monkeypatch.setattr(publish, "_published", [])
    prefault.report_used_pages_to(calls.append)
    prefault.report_used_pages()
    assert calls == []
    monkeypatch.setattr(publish, "_published", [None])
    prefault.report_used_pages()
    prefault.report_used_pages()
    assert calls == [b"runs"]
