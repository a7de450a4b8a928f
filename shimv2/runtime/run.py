"""Runs a runtime once as a child of the shim, with a time limit and bounded output."""

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
    exit_text,
    launch,
    memory_file,
    output,
    trim,
)
from shimv2.runtime.tree import kill_leaf_processes, kill_tree
from shimv2.values.model import Exit

log = logging.getLogger(__name__)

DEATH_LIMIT_S: Final = 10.0
"""How long to wait for a runtime's death after SIGKILL; only uninterruptible sleep lasts longer."""

_GENERATIONS: Final = 2  # levels of children: CRIU, and the processes that CRIU makes
_UNWIND_S: Final = 1.0  # how long each level has to clean up after its children

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
    """Run a runtime to its end.  Without `fds`, capture its output and return it.

    The runtime never outlives the call.  It is killed after `timeout_s`; if the caller is
    cancelled, it is killed after `grace_s`.  With `unwind`, its descendants are killed first, so
    that the runtime can clean up after them.

    Raises:
        CommandFailed: go-runc's text, with the end of the captured output.
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
        return _result(argv[0], exited, caught, late=late)


def _result(name: str, exited: "asyncio.Future[Exit]", caught: int | None, *, late: bool) -> str:
    """Return the captured output of a runtime that ended, or raise CommandFailed."""
    status = exited.result().status if exited.done() else _KILLED
    if late and status:  # it was killed, or it failed after its children were killed
        status = _KILLED
    printed = output(caught) if caught is not None else ""
    if status:
        text = exit_text(name, status)
        raise CommandFailed(text if caught is None else f"{text}: {printed}", status)
    return printed


async def _wait(exited: "asyncio.Future[Exit]", timeout_s: float, caught: int | None) -> None:
    """Wait for the exit, at most `timeout_s`; trim the captured output every `_TRIM_EVERY_S`."""
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
    """Kill a runtime and its descendants if it has not ended after `grace_s`.

    Returns only once it is dead, even if the caller is cancelled repeatedly.
    """
    loop = asyncio.get_running_loop()
    cancelled: asyncio.CancelledError | None = None
    steps: list[tuple[float, Callable[[int], None] | None]] = [(grace_s, None)]
    steps += [(_UNWIND_S, kill_leaf_processes)] * (_GENERATIONS if unwind else 0)
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
