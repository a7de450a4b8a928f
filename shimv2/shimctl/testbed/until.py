"""Waiting for a condition with a limit, and watching that one goes on to hold."""

import asyncio
import time
from collections.abc import Callable
from typing import Final

_STEP_S: Final = 0.01


def until(
    met: Callable[[], object],
    what: str,
    *,
    limit_s: float = 10.0,
    found: Callable[[], object] | None = None,
) -> None:
    """Return as soon as `met()` is true.

    Raises:
        AssertionError: it was not, within the limit; it tells what was `found` instead.
    """
    end = time.monotonic() + limit_s
    while not met():
        if time.monotonic() >= end:
            msg = f"waited {limit_s} s for {what}"
            raise AssertionError(msg if found is None else f"{msg}; found {found()}")
        time.sleep(_STEP_S)  # between two looks


async def stays(holds: Callable[[], object], what: str, *, for_s: float = 0.1) -> None:
    """Watch that a condition goes on to hold for so long: that something does *not* happen.

    A busy machine sees less of it in the time, and so misses a fault; it never makes one up.

    Raises:
        AssertionError: it did not hold at some moment.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + for_s
    while True:
        assert holds(), f"{what}: no more"
        if loop.time() >= end:
            return
        await asyncio.sleep(_STEP_S)  # between two looks


async def eventually(met: Callable[[], object], what: str, *, limit_s: float = 10.0) -> None:
    """The same on a loop, which runs on meanwhile.

    Raises:
        AssertionError: it was not met within the limit.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + limit_s
    while not met():
        if loop.time() >= end:
            msg = f"waited {limit_s} s for {what}"
            raise AssertionError(msg)
        await asyncio.sleep(_STEP_S)  # between two looks
