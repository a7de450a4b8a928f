"""Waiting for a condition, with a limit, instead of sleeping."""

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
        time.sleep(_STEP_S)


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
        await asyncio.sleep(_STEP_S)
