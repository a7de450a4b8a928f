"""The additions of the shim's loop to asyncio's: the hook before it sleeps, and a new epoll."""

import asyncio
import logging
import os
import threading
from collections.abc import Callable

import pytest

from shimv2.aio import loop as aio
from shimv2.aio.loop import ShimLoop
from tests.support.aio import run


def the_loop() -> ShimLoop:
    here = asyncio.get_running_loop()
    assert isinstance(here, ShimLoop)
    return here


def test_run_gives_back_every_descriptor() -> None:
    """Epoll and the wake-up socket are closed whether the coroutine returns or raises."""

    async def give(error: BaseException | None) -> int:
        await asyncio.sleep(0)
        if error is not None:
            raise error
        return 42

    before = os.listdir("/proc/self/fd")

    assert aio.run(give(None)) == 42
    for error in (ValueError("x"), SystemExit(3), KeyboardInterrupt()):
        with pytest.raises(type(error)):
            aio.run(give(error))
    assert os.listdir("/proc/self/fd") == before


def test_hook_is_called_before_each_sleep_with_the_iterations_since_the_last() -> None:
    """An iteration that finds work waiting does not sleep, and is counted."""
    calls = list[int]()

    async def main() -> list[int]:
        here = the_loop()
        here.before_sleep = calls.append
        await asyncio.sleep(0.001)  # a timer
        calls.clear()
        for _ in range(5):
            await asyncio.sleep(0)
        assert calls == []
        await asyncio.sleep(0.001)  # a timer
        await asyncio.sleep(0.001)  # a timer
        here.before_sleep = None
        return calls

    # A timer takes two iterations: one to resolve its future, one for the step of `main`.
    assert run(main()) == [2 + 5, 2]


@pytest.mark.parametrize("delay_s", [None, 0.0, 0.01])
def test_hook_may_schedule_a_callback(delay_s: float | None) -> None:
    """A timer or a callback that the hook schedules ends the following sleep."""

    async def main() -> None:
        here, done = the_loop(), asyncio.Event()

        def once(_iterations: int) -> None:
            here.before_sleep = None
            if delay_s is None:
                here.call_soon(done.set)
            else:
                here.call_later(delay_s, done.set)

        here.before_sleep = once
        await done.wait()

    run(main(), timeout_s=5.0)


def watch_selects(here: ShimLoop, patch: pytest.MonkeyPatch, seen: list[float | None]) -> None:
    selector = vars(here)["_selector"]
    select: Callable[[float | None], object] = selector.select

    def noted(timeout: float | None = None) -> object:
        seen.append(timeout)
        return select(timeout)

    patch.setattr(selector, "select", noted)


def test_idle_loop_does_not_wake_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """No task, no timer: one epoll_wait without a limit, however long it takes."""
    waits = list[float | None]()

    async def main() -> None:
        here, done = the_loop(), asyncio.Event()
        for _ in range(500):  # cancelled timers do not wake the loop up either
            here.call_later(0.01, lambda: None).cancel()
        await asyncio.sleep(0)
        late = threading.Timer(0.2, here.call_soon_threadsafe, (done.set,))
        late.start()
        watch_selects(here, monkeypatch, waits)
        await done.wait()
        monkeypatch.undo()
        late.join()

    aio.run(main())

    assert waits[0] is None
    # Afterwards the wake-up socket is read, the event is set, and `main` runs: none of them sleeps.
    assert set(waits[1:]) == {0}


def test_copy_of_a_closed_descriptor_does_not_make_the_loop_spin(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """epoll continues to report a file whose registered descriptor was closed if a copy is open.

    The file cannot be removed from epoll any more: the loop makes a new epoll, once, and continues
    with the other descriptors.
    """
    waits, calls = list[float | None](), list[str]()

    async def main() -> None:
        here, done = the_loop(), asyncio.Event()
        source, sink = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        other, other_sink = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        copy = os.dup(source)
        here.add_reader(copy, calls.append, "stale")
        here.add_reader(other, done.set)
        os.close(copy)
        here.remove_reader(copy)
        os.write(sink, b"x")
        late = threading.Timer(0.05, os.write, (other_sink, b"x"))
        late.start()
        watch_selects(here, monkeypatch, waits)
        await done.wait()
        monkeypatch.undo()
        late.join()
        here.remove_reader(other)
        for fd in (source, sink, other, other_sink):
            os.close(fd)

    with caplog.at_level(logging.ERROR):
        run(main())

    assert calls == []
    assert caplog.text.count("epoll is made anew") == 1
    assert len(waits) <= 4
