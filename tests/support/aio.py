"""Run a coroutine in a plain test function; fail the test for what the coroutine left behind.

    def test_thing_situation_outcome() -> None:
        run(_thing())

A test fails when the coroutine takes longer than its limit, when an error went to the loop's
exception handler, and when a task is still there at the end.  With SHIM_TEST_SLOW_CALLBACKS=1 it
fails as well when, on the lean loop in debug mode, one callback took more than 50 ms of CPU time:
on a busy machine that says nothing, so it is asked for.  A test of both loops is parametrised with
`LOOPS` and passes the name on.
"""

import asyncio
import gc
import logging
import os
from collections.abc import Coroutine
from typing import Any, Final, Literal, TypeVar

from shimv2.aio.loop import new_loop

T = TypeVar("T")
LoopName = Literal["lean", "stock"]
LOOPS: Final[tuple[LoopName, ...]] = ("lean", "stock")

SLOW_CALLBACKS_FAIL: Final = os.environ.get("SHIM_TEST_SLOW_CALLBACKS") == "1"

_LAST_TASKS_S: Final = 1.0  # for tasks that are already on their way out


class _SlowCallbacks(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if "of CPU time" in record.getMessage():
            self.texts.append(record.getMessage())


def run(
    main: Coroutine[Any, Any, T],
    timeout_s: float = 10.0,
    *,
    loop: LoopName = "lean",
    debug: bool | None = None,
    slow_callbacks_fail: bool = SLOW_CALLBACKS_FAIL,
) -> T:
    """Run `main` on a new loop, the lean one or the stock one, and return its result."""
    errors: list[dict[str, Any]] = []
    slow = _SlowCallbacks()
    logger = logging.getLogger("shimv2.aio.loop")
    logger.addHandler(slow)
    factory = new_loop if loop == "lean" else asyncio.new_event_loop
    # What earlier tests left on the heap is not looked through while a callback's time is taken.
    gc.freeze()
    try:
        with asyncio.Runner(debug=debug, loop_factory=factory) as runner:
            current = runner.get_loop()
            current.set_exception_handler(lambda _loop, context: errors.append(context))
            if loop == "stock":
                current.slow_callback_duration = float("inf")  # judged by the wall clock there
            result = runner.run(_limited(main, timeout_s))
    finally:
        gc.unfreeze()
        logger.removeHandler(slow)
    if errors:
        first = errors[0].get("exception")
        cause = first if isinstance(first, BaseException) else None
        raise AssertionError(f"{len(errors)} error(s) nobody awaited: {errors}") from cause
    if slow.texts and slow_callbacks_fail:
        raise AssertionError(f"the loop was blocked: {slow.texts}")
    return result


async def _limited(main: Coroutine[Any, Any, T], timeout_s: float) -> T:
    async with asyncio.timeout(timeout_s):
        result = await main
    left = asyncio.all_tasks() - {asyncio.current_task()}
    if left:
        _, left = await asyncio.wait(left, timeout=_LAST_TASKS_S)
    if left:
        raise AssertionError(f"{len(left)} task(s) nobody awaited: {left}")
    return result
