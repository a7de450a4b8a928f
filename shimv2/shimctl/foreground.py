"""Runs a container in the foreground: forwards output and signals, returns its exit status."""

import asyncio
import contextlib
import hashlib
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Final

from shimv2.shimctl.container import Container
from shimv2.shimctl.streams import Output, Relay, feed
from ttrpc import ConnectionClosed, StatusError

_FORWARDED: Final = (
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
# A client that takes over after the shim's relay has ended never sees the end of a stream.
_LAST_OUTPUT_S: Final = 2.0

Calls = asyncio.Queue[Callable[[], Awaitable[None]]]


def relayed(stream: str, fifo: str) -> Output:
    return Relay(fifo, 1 if stream == "stdout" else 2)


def sink_name(namespace: str, container_id: str) -> str:
    """Return the path of one container's events socket: short, as the limit is 107 bytes.

    It depends only on the names, so a client that takes over listens where the shim connects.
    """
    key = hashlib.sha256(os.path.join(namespace, container_id).encode()).hexdigest()[:16]
    return f"{key}.sock"


async def start_and_follow(container: Container, *, stdin: bool, keep: bool) -> int:
    """Start a created container, wait for its end, remove it; return its exit status.

    On any error the container is destroyed.
    """
    try:
        status = await start_and_wait(container, stdin=stdin)
        await container.outputs_ended()
    except BaseException:
        await container.destroy()
        raise
    if not keep:
        await container.remove()
    return status


async def start_and_wait(container: Container, *, exec_id: str = "", stdin: bool) -> int:
    """Start a process and wait for its end; forward signals and standard input to it."""
    # First the signal handlers: from Start on signals are forwarded to the process.
    async with _signals_passed_on(container, exec_id) as calls:
        await container.task.start(container.id, exec_id)
        return await _wait(container, calls, exec_id=exec_id, stdin=stdin)


async def follow(container: Container, *, stdin: bool, keep: bool) -> int:
    """Wait for the end of another client's container; an error here does not affect it."""
    async with _signals_passed_on(container) as calls:
        status = await _wait(container, calls, stdin=stdin)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_LAST_OUTPUT_S):
            await container.outputs_ended()
    if not keep:
        await container.remove()
    return status


async def _wait(container: Container, calls: Calls, *, exec_id: str = "", stdin: bool) -> int:
    if stdin:
        close = partial(container.task.close_io, container.id, exec_id)
        fifo = container.bundle.fifo("stdin", exec_id=exec_id)
        feed(fifo, 0, done=partial(calls.put_nowait, close))
    return (await container.task.wait(container.id, exec_id)).status


@contextlib.asynccontextmanager
async def _signals_passed_on(container: Container, exec_id: str = "") -> AsyncIterator[Calls]:
    """Make calls in order: a Kill for each received signal, and those that the block adds."""
    loop, calls = asyncio.get_running_loop(), Calls()

    def send(number: int) -> None:
        calls.put_nowait(partial(container.task.kill, container.id, number, exec_id))

    async def make_calls() -> None:
        while True:
            call = await calls.get()
            with contextlib.suppress(StatusError, ConnectionClosed):  # it may just have ended
                await call()

    for number in _FORWARDED:
        loop.add_signal_handler(number, send, number)
    maker = loop.create_task(make_calls())
    try:
        yield calls
    finally:
        for number in _FORWARDED:
            loop.remove_signal_handler(number)
        maker.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await maker
