"""One run of a runtime as a child of the shim: its time limit, its output, its end."""

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from shimv2.kernel.reaper import Reaper
from shimv2.runtime.command import (
    NO_OUTPUT,
    CommandFailed,
    ended_badly,
    launch,
    memory_file,
    output,
    trim,
)
from shimv2.runtime.tree import kill_leaves, kill_tree
from shimv2.values.model import Exit

log = logging.getLogger(__name__)

DEATH_LIMIT_S: Final = 10.0
"""How long a runtime may take to die of SIGKILL: longer only in an uninterruptible state."""

_GENERATIONS: Final = 2  # of what a runtime starts: CRIU, and the processes that CRIU makes
_UNWIND_S: Final = 1.0  # for one generation to clean up after the next

_TRIM_EVERY_S: Final = 1.0
_KILLED: Final = 137


async def run(
    reaper: Reaper,
    argv: Sequence[str],
    *,
    timeout_s: float,
    fds: Mapping[int, int] | None = None,
    spawned: Callable[[], None] | None = None,
    stdin: bytes = b"",
    grace_s: float = 0.0,
    unwind: bool = False,
) -> str:
    """Run a runtime to its end; without `fds` its output is caught, and returned.

    It never outlives the call: it is killed when its time is up, and when the caller is
    cancelled, then after `grace_s`.  With `unwind` what it has started is killed first, so that
    it can still clean up after that.

    Raises:
        CommandFailed: go-runc's text, with the end of what was caught.
    """
    nothing = NO_OUTPUT if fds is None else ""
    if timeout_s <= 0:
        raise CommandFailed(f"context deadline exceeded{nothing}")
    with contextlib.ExitStack() as files:
        caught = None
        given = dict(fds or {})
        if fds is None:
            caught = given[1] = given[2] = memory_file("runtime-output")
            files.callback(os.close, caught)
        if stdin:
            given[0] = memory_file("runtime-input", stdin)
            files.callback(os.close, given[0])
        try:
            with reaper.launching():
                pid = launch(argv, given)
                exited = reaper.claim(pid)
        except CommandFailed as error:
            raise CommandFailed(f"{error}{nothing}") from None
        try:
            if spawned is not None:
                spawned()
            await _wait(exited, timeout_s, caught)
        except (Exception, asyncio.CancelledError):
            await _end(pid, exited, grace_s, unwind=unwind)
            raise
        late = not exited.done()
        await _end(pid, exited, unwind=unwind)
        status = exited.result().status if exited.done() else _KILLED
        if late and status:  # however it took the end of its children
            status = _KILLED
        said = output(caught) if caught is not None else ""
        if status:
            text = ended_badly(argv[0], status)
            raise CommandFailed(text if caught is None else f"{text}: {said}", status)
        return said


async def _wait(exited: "asyncio.Future[Exit]", timeout_s: float, caught: int | None) -> None:
    """Wait for the exit, at most `timeout_s`; now and then bound what is caught of the output."""
    loop = asyncio.get_running_loop()
    until = loop.time() + timeout_s
    while not exited.done() and (left_s := until - loop.time()) > 0:
        if caught is None:
            await asyncio.wait([exited], timeout=left_s)
        else:
            await asyncio.wait([exited], timeout=min(left_s, _TRIM_EVERY_S))
            trim(caught)


async def _end(
    pid: int, exited: "asyncio.Future[Exit]", grace_s: float = 0.0, *, unwind: bool = False
) -> None:
    """Kill a runtime and what it has started, if it is not done in `grace_s`.

    Returns once it is dead, however often cancelled.
    """
    loop = asyncio.get_running_loop()
    cancelled: asyncio.CancelledError | None = None
    steps: list[tuple[float, Callable[[int], None] | None]] = [(grace_s, None)]
    steps += [(_UNWIND_S, kill_leaves)] * (_GENERATIONS if unwind else 0)
    steps += [(DEATH_LIMIT_S, kill_tree)]
    for limit_s, kill in steps:
        if kill is not None and not exited.done():
            log.warning("killing the runtime, pid %d", pid)
            kill(pid)
        until = loop.time() + limit_s
        while not exited.done() and (left_s := until - loop.time()) > 0:
            try:
                await asyncio.wait([exited], timeout=left_s)
            except asyncio.CancelledError as error:
                cancelled = error
    if not exited.done():
        log.error("the runtime, pid %d, does not die of SIGKILL", pid)
    if cancelled is not None:
        raise cancelled
