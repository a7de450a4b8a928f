"""The lean loop runs what asyncio offers as the stock loop does; where it differs, it says so."""

import asyncio
import contextvars
import gc
import logging
import threading
import time
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

import pytest

from shimv2.aio import loop as lean
from shimv2.shimctl.testbed.until import eventually
from tests.support.aio import LOOPS, LoopName, run

both_loops = pytest.mark.parametrize("loop", LOOPS)


@both_loops
def test_callbacks_run_in_the_order_they_were_scheduled(loop: LoopName) -> None:
    """call_soon is first in, first out; what a callback adds comes after what was there."""

    async def main() -> list[str]:
        here, seen = asyncio.get_running_loop(), list[str]()
        done = here.create_future()

        def first() -> None:
            seen.append("a")
            here.call_soon(seen.append, "c")

        here.call_soon(first)
        here.call_soon(seen.append, "b")
        here.call_later(0, done.set_result, None)
        await done
        await asyncio.sleep(0)
        return seen

    assert run(main(), loop=loop) == ["a", "b", "c"]


@both_loops
def test_callback_that_schedules_itself_for_ever_starves_nobody(loop: LoopName) -> None:
    """A round runs only what was ready at its start: timers and files get their turn."""

    async def main() -> int:
        here, rounds, done = asyncio.get_running_loop(), 0, asyncio.Event()

        def again() -> None:
            nonlocal rounds
            rounds += 1
            if not done.is_set():
                here.call_soon(again)

        here.call_later(0.02, done.set)
        again()
        await done.wait()
        return rounds

    assert run(main(), loop=loop) > 2


@both_loops
def test_timers_fire_in_order_of_their_time_and_not_early(loop: LoopName) -> None:
    """call_later and call_at share one clock, loop.time(), which is monotonic."""

    async def main() -> None:
        here, seen = asyncio.get_running_loop(), list[tuple[str, float]]()
        begin = here.time()
        here.call_later(0.03, lambda: seen.append(("late", here.time())))
        here.call_at(begin + 0.01, lambda: seen.append(("early", here.time())))
        here.call_later(-1, lambda: seen.append(("past", here.time())))
        await eventually(lambda: len(seen) == 3, "the timers")

        assert [name for name, _ in seen] == ["past", "early", "late"]
        assert seen[1][1] >= begin + 0.01
        assert seen[2][1] >= begin + 0.03

    run(main(), loop=loop)


@both_loops
def test_cancelled_handles_do_not_run(loop: LoopName) -> None:
    """Neither a callback nor a timer runs after its cancel, even in the same round."""

    async def main() -> list[str]:
        here, seen = asyncio.get_running_loop(), list[str]()
        timer = here.call_later(0.005, seen.append, "timer")
        soon = here.call_soon(seen.append, "soon")
        soon.cancel()
        timer.cancel()
        timer.cancel()
        await asyncio.sleep(0.02)  # four times its time
        return seen

    assert run(main(), loop=loop) == []


def test_timers_cancelled_again_and_again_do_not_pile_up() -> None:
    """10,000 calls with a long time-out that never strikes leave no memory behind."""

    async def main() -> None:
        here = asyncio.get_running_loop()
        assert isinstance(here, lean.LeanLoop)
        kept = here.call_later(3600, lambda: None)
        for _ in range(10_000):
            here.call_later(300, lambda: None).cancel()

        assert len(here._timers) < 200
        assert kept in here._timers
        kept.cancel()

    run(main(), debug=False)  # debug mode records where each of them was made


@both_loops
def test_primitives_of_asyncio_work_together(loop: LoopName) -> None:
    """Task groups, queues, locks, events, wait, gather, shield and timeouts need no more."""

    async def main() -> None:
        queue, lock, seen = asyncio.Queue[int](2), asyncio.Lock(), list[int]()

        async def produce() -> None:
            for number in range(20):
                await queue.put(number)
            await queue.put(-1)

        async def consume() -> None:
            while (number := await queue.get()) >= 0:
                async with lock:
                    await asyncio.sleep(0)
                    seen.append(number)

        async with asyncio.TaskGroup() as group:
            group.create_task(produce(), name="producer")
            group.create_task(consume())
        assert seen == list(range(20))
        assert list(await asyncio.gather(asyncio.sleep(0.001, 1), asyncio.sleep(0, 2))) == [1, 2]
        slow = asyncio.ensure_future(asyncio.sleep(0.02, "slow"))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await asyncio.shield(slow)
        done, pending = await asyncio.wait([slow], timeout=5)
        assert done == {slow}
        assert not pending
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.Event().wait(), 0.001)

    run(main(), loop=loop)


@both_loops
def test_failure_in_a_task_group_cancels_its_siblings(loop: LoopName) -> None:
    """Errors and cancellation travel through tasks on this loop as on any other."""

    async def main() -> None:
        ended = list[str]()

        async def sibling() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                ended.append("sibling")

        async def fail() -> None:
            raise ValueError("boom")

        async def family() -> None:
            async with asyncio.TaskGroup() as group:
                group.create_task(sibling())
                group.create_task(fail())

        with pytest.raises(ExceptionGroup) as caught:
            await family()
        assert caught.value.subgroup(ValueError) is not None
        assert ended == ["sibling"]

    run(main(), loop=loop)


@both_loops
def test_context_variables_are_those_of_where_a_callback_was_scheduled(loop: LoopName) -> None:
    """call_soon, call_later and create_task copy the context or take the one they are given."""

    async def main() -> list[str]:
        here, name, seen = asyncio.get_running_loop(), contextvars.ContextVar[str]("n"), list[str]()
        name.set("outer")
        other = contextvars.copy_context()
        other.run(name.set, "other")

        async def note() -> None:
            seen.append(name.get())
            name.set("inner")

        here.call_soon(lambda: seen.append(name.get()))
        here.call_soon(lambda: seen.append(name.get()), context=other)
        here.call_later(0, lambda: seen.append(name.get()), context=other)
        await eventually(lambda: len(seen) == 3, "the call-backs")
        await here.create_task(note())
        await here.create_task(note(), context=other, name="named")
        return [*seen, name.get(), other[name]]

    expected = ["outer", "other", "other", "outer", "other", "outer", "inner"]
    assert run(main(), loop=loop) == expected


@both_loops
def test_thread_can_wake_a_sleeping_loop(loop: LoopName) -> None:
    """call_soon_threadsafe ends an epoll_wait that has no time limit."""

    async def main() -> None:
        here, done = asyncio.get_running_loop(), asyncio.Event()
        for _ in range(50):
            done.clear()
            thread = threading.Thread(target=here.call_soon_threadsafe, args=(done.set,))
            thread.start()
            await done.wait()
            thread.join()

    run(main(), loop=loop)


def test_many_threads_scheduling_at_once_lose_nothing() -> None:
    """Also with the wake-up pipe full: 4 threads, 20,000 wake-ups for 64 KiB of room."""

    async def main() -> None:
        here, count, done = asyncio.get_running_loop(), 0, asyncio.Event()

        def step() -> None:
            nonlocal count
            count += 1
            if count == 80_000:
                done.set()

        def work() -> None:
            for _ in range(20_000):
                here.call_soon_threadsafe(step)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()  # the loop is not running meanwhile: the pipe fills up
        await done.wait()

    run(main(), timeout_s=60, debug=False)


def test_scheduling_from_another_thread_is_refused_in_debug_mode() -> None:
    """call_soon is not thread-safe; the mistake must not stay unseen."""

    async def main() -> BaseException | None:
        here, errors = asyncio.get_running_loop(), list[BaseException]()

        def wrong() -> None:
            try:
                here.call_soon(print)
            except RuntimeError as exc:
                errors.append(exc)

        thread = threading.Thread(target=wrong)
        thread.start()
        thread.join()
        return errors[0] if errors else None

    assert "another thread" in str(run(main(), debug=True))


def test_idle_loop_does_not_wake_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """No task, no timer: one epoll_wait without a limit, however long it takes."""

    waits = list[float | None]()

    async def main() -> None:
        here, done = asyncio.get_running_loop(), asyncio.Event()
        assert isinstance(here, lean.LeanLoop)
        poller = here._poller
        poll = poller.poll

        def noted(timeout_s: float | None, ready: deque[asyncio.Handle]) -> None:
            waits.append(timeout_s)
            poll(timeout_s, ready)

        for _ in range(500):  # cancelled timers are no reason to wake up either
            here.call_later(0.01, lambda: None).cancel()
        await asyncio.sleep(0)
        late = threading.Timer(0.2, here.call_soon_threadsafe, (done.set,))
        late.start()
        monkeypatch.setattr(poller, "poll", noted)
        await done.wait()
        monkeypatch.undo()
        late.join()

    lean.run(main())

    assert waits == [None, 0.0]  # the second one is the step of `main` that the event wakes


@both_loops
def test_error_in_a_callback_goes_to_the_exception_handler(loop: LoopName) -> None:
    """The loop runs on, and the handler is told the exception."""

    async def main() -> list[dict[str, Any]]:
        here, told = asyncio.get_running_loop(), list[dict[str, Any]]()
        before = here.get_exception_handler()
        here.set_exception_handler(lambda _loop, context: told.append(context))
        here.call_soon(lambda: 1 / 0)
        await asyncio.sleep(0)

        async def fail() -> None:
            raise LookupError("nobody looks")

        task = here.create_task(fail())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        del task
        gc.collect()
        here.set_exception_handler(before)
        return told

    kinds = [type(context["exception"]) for context in run(main(), loop=loop)]
    assert kinds == [ZeroDivisionError, LookupError]


def test_errors_without_a_handler_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Also those of the handler itself: call_exception_handler never raises."""

    async def main() -> None:
        here = asyncio.get_running_loop()
        before = here.get_exception_handler()
        here.set_exception_handler(None)
        here.call_exception_handler({"message": "lost", "exception": ValueError("why"), "n": 3})

        def broken(_loop: asyncio.AbstractEventLoop, _context: dict[str, Any]) -> None:
            raise OSError("handler")

        here.set_exception_handler(broken)
        here.call_exception_handler({"message": "second"})
        here.set_exception_handler(before)

    with caplog.at_level(logging.ERROR):
        run(main())

    assert "lost: {'n': 3}" in caplog.text
    assert "ValueError: why" in caplog.text
    assert "error in the exception handler" in caplog.text


def test_slow_callback_is_judged_by_cpu_time(caplog: pytest.LogCaptureFixture) -> None:
    """In debug mode 50 ms of work are told, 80 ms of waiting are not."""

    async def main() -> None:
        time.sleep(0.08)  # noqa: ASYNC251 - blocks the loop without working
        await asyncio.sleep(0)
        end = time.thread_time() + 0.06
        while time.thread_time() < end:
            pass
        await asyncio.sleep(0)

    with pytest.raises(AssertionError, match="blocked"):
        run(main(), debug=True, slow_callbacks_fail=True)

    assert caplog.text.count("of CPU time") == 1


def test_half_consumed_async_generator_is_finished() -> None:
    """By the collector while the loop runs, and by run() at its end."""
    finished = list[str]()
    told = asyncio.Event()

    async def numbers(name: str) -> AsyncIterator[int]:
        try:
            yield 1
            yield 2
        finally:
            await asyncio.sleep(0)
            finished.append(name)
            told.set()

    async def main() -> AsyncIterator[int]:
        dropped = numbers("dropped")
        assert await anext(dropped) == 1
        del dropped
        gc.collect()
        await asyncio.wait_for(told.wait(), 10)
        assert finished == ["dropped"]
        kept = numbers("kept")
        assert await anext(kept) == 1
        return kept

    kept = lean.run(main())

    assert finished == ["dropped", "kept"]
    del kept
