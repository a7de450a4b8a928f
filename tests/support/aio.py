"""Run a coroutine in a plain test function; fail the test for what the coroutine left behind.

    def test_thing_situation_outcome() -> None:
        run(_thing())

A test fails if the coroutine exceeds its time limit, if the loop's exception handler gets an error,
or if a task remains at the end.  With SHIM_TEST_SLOW_CALLBACKS=1 it also fails if, in debug mode,
one callback takes more than 50 ms of CPU time; this is no default, because on a busy machine the
result means nothing.  A test of both loops is parametrised with `LOOPS` and passes the name on.
"""

import asyncio
import gc
import os
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Final, Literal, TypeVar

import pytest

from shimv2.aio.loop import ShimLoop

T = TypeVar("T")
LoopName = Literal["shim", "stock"]
LOOPS: Final[tuple[LoopName, ...]] = ("shim", "stock")

SLOW_CALLBACKS_FAIL: Final = os.environ.get("SHIM_TEST_SLOW_CALLBACKS") == "1"

_LAST_TASKS_S: Final = 1.0  # for tasks that are ending already
_LONGEST_CALLBACK_S: Final = 0.05  # of CPU time


@contextmanager
def _slow_callbacks() -> Iterator[list[str]]:
    """Collect the callbacks that take too much CPU time of their thread."""
    slow = list[str]()
    run_handle = asyncio.Handle._run

    def timed(handle: asyncio.Handle) -> None:
        before_s = time.thread_time()
        run_handle(handle)
        took_s = time.thread_time() - before_s
        if took_s >= _LONGEST_CALLBACK_S and handle._loop.get_debug():  # type: ignore[attr-defined] # CPython's
            slow.append(f"{handle!r} took {took_s:.3f} s of CPU time")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncio.Handle, "_run", timed)
        yield slow


def run(
    main: Coroutine[Any, Any, T],
    timeout_s: float = 10.0,
    *,
    loop: LoopName = "shim",
    debug: bool | None = None,
    slow_callbacks_fail: bool = SLOW_CALLBACKS_FAIL,
) -> T:
    """Run `main` on a new loop, the shim's or asyncio's stock one, and return its result."""
    errors: list[dict[str, Any]] = []
    factory = ShimLoop if loop == "shim" else asyncio.new_event_loop
    # While a callback is timed, the garbage collector does not scan what earlier tests left on the
    # heap.
    gc.freeze()
    try:
        with (
            asyncio.Runner(debug=debug, loop_factory=factory) as runner,
            _slow_callbacks() as slow,
        ):
            current = runner.get_loop()
            current.set_exception_handler(lambda _loop, context: errors.append(context))
            current.slow_callback_duration = float("inf")  # asyncio's own check uses the wall clock
            result = runner.run(_limited(main, timeout_s))
    finally:
        gc.unfreeze()
    if errors:
        first = errors[0].get("exception")
        cause = first if isinstance(first, BaseException) else None
        raise AssertionError(f"{len(errors)} unhandled error(s): {errors}") from cause
    if slow and slow_callbacks_fail:
        raise AssertionError(f"the loop was blocked: {slow}")
    return result


async def _limited(main: Coroutine[Any, Any, T], timeout_s: float) -> T:
    async with asyncio.timeout(timeout_s):
        result = await main
    left = asyncio.all_tasks() - {asyncio.current_task()}
    if left:
        _, left = await asyncio.wait(left, timeout=_LAST_TASKS_S)
    if left:
        raise AssertionError(f"{len(left)} unfinished task(s): {left}")
    return result
