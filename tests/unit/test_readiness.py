"""Waiting for a file, and its cancellation."""

import asyncio
import os
from collections.abc import Iterator

import pytest

from shimv2.aio.readiness import readable
from shimv2.shimctl.testbed.until import stays
from tests.support.aio import LOOPS, LoopName, run


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe2(os.O_CLOEXEC)
    yield ends
    for end in ends:
        os.close(end)


@pytest.mark.parametrize("loop", LOOPS)
def test_wait_ends_with_something_to_read(pipe: tuple[int, int], loop: LoopName) -> None:
    """For bytes that are there already, and for later ones."""
    source, sink = pipe

    async def main() -> None:
        waiting = asyncio.get_running_loop().create_task(readable(source))
        await stays(lambda: not waiting.done(), "the wait", for_s=0.02)
        os.write(sink, b"x")
        await waiting
        await readable(source)

    run(main(), loop=loop)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("turns", range(4))
def test_wait_given_up_as_it_ends_is_no_error(
    pipe: tuple[int, int], loop: LoopName, turns: int
) -> None:
    """The cancellation and the bytes come in the same iteration of the loop, or in successive
    ones."""
    source, sink = pipe

    async def main() -> None:
        waiting = asyncio.get_running_loop().create_task(readable(source))
        await asyncio.sleep(0)
        os.write(sink, b"x")
        for _ in range(turns):
            await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])

    run(main(), loop=loop)
