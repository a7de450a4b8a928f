"""Waits for a condition, with a time limit; checks that a condition stays true."""

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
        AssertionError: it was not within the limit; the text has the result of `found`.
    """
    end = time.monotonic() + limit_s
    while not met():
        if time.monotonic() >= end:
            msg = f"waited {limit_s} s for {what}"
            raise AssertionError(msg if found is None else f"{msg}; found {found()}")
        time.sleep(_STEP_S)  # between two checks


async def stays(holds: Callable[[], object], what: str, *, for_s: float = 0.1) -> None:
    """Check that a condition stays true for `for_s`: that something does *not* happen.

    On a busy machine there are fewer checks, so it may miss a fault, but never reports a false one.

    Raises:
        AssertionError: it was false at some moment.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + for_s
    while True:
        assert holds(), f"{what}: not any more"
        if loop.time() >= end:
            return
        await asyncio.sleep(_STEP_S)  # between two checks


async def eventually(met: Callable[[], object], what: str, *, limit_s: float = 10.0) -> None:
    """Wait as `until` does, without blocking the event loop.

    Raises:
        AssertionError: it was not true within the limit.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + limit_s
    while not met():
        if loop.time() >= end:
            msg = f"waited {limit_s} s for {what}"
            raise AssertionError(msg)
        await asyncio.sleep(_STEP_S)  # between two checks
