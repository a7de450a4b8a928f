"""The runner of async tests fails a test for what its coroutine left behind."""

import asyncio
import time

import pytest

from shimv2.aio.loop import ShimLoop
from tests.support.aio import LOOPS, LoopName, run

both_loops = pytest.mark.parametrize("loop", LOOPS)


@both_loops
def test_run_uses_the_loop_that_was_asked_for(loop: LoopName) -> None:
    """Tests with both loops must not run twice with the same one."""

    async def main() -> bool:
        return isinstance(asyncio.get_running_loop(), ShimLoop)

    assert run(main(), loop=loop) == (loop == "shim")


@both_loops
def test_run_that_takes_too_long_fails(loop: LoopName) -> None:
    """A hanging test fails by itself."""

    async def main() -> None:
        await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        run(main(), timeout_s=0.02, loop=loop)


@both_loops
def test_run_fails_for_an_error_that_was_not_awaited(loop: LoopName) -> None:
    """The error is the cause of the failure."""

    async def main() -> None:
        asyncio.get_running_loop().call_soon(lambda: 1 / 0)
        await asyncio.sleep(0)

    with pytest.raises(AssertionError) as caught:
        run(main(), loop=loop)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


@both_loops
def test_run_fails_for_a_task_that_is_left(loop: LoopName) -> None:
    """A task that is ending gets some time."""

    async def main(leave: float) -> None:
        task = asyncio.get_running_loop().create_task(asyncio.sleep(leave))
        await asyncio.sleep(0)
        assert not task.done()

    run(main(0.01), loop=loop)
    with pytest.raises(AssertionError, match="unfinished task"):
        run(main(60), loop=loop)


def test_run_fails_for_a_callback_that_blocks_where_that_is_asked_for() -> None:
    """The CPU time of one step counts; a step that sleeps is not noticed."""

    async def main() -> None:
        end = time.thread_time() + 0.06
        while time.thread_time() < end:
            pass

    run(main(), debug=True, slow_callbacks_fail=False)
    with pytest.raises(AssertionError, match="blocked"):
        run(main(), debug=True, slow_callbacks_fail=True)
