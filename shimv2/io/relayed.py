"""Streams that the shim copies itself: what pipes and terminals have in common."""

import asyncio
import contextlib
import logging
from typing import Final

from shimv2.io.copy import Relay
from shimv2.io.fifo import StdinFifo
from shimv2.io.process_io import IoCounters, ProcessIO, StreamCounters
from shimv2.values.settings import IoPolicy

_BUSY_LOOK_S: Final = 0.1  # a drain looks again no sooner while bytes are under way
_TAKEN_FIRST_S: Final = 0.001  # nothing tells that a FIFO was read: it is looked at,
_TAKEN_LAST_S: Final = 0.016  # in the end so often

log = logging.getLogger(__name__)


class RelayedIO(ProcessIO):
    """Owns a relay for each stream (by its number) and the client's stdin."""

    def __init__(self, policy: IoPolicy) -> None:
        self._policy = policy
        self._relays: dict[int, Relay] = {}
        self._stdin: StdinFifo | None = None
        self._stdin_closed = False
        self._taken_by = 0.0  # loop time

    def _open_deadline(self, timeout_s: float | None) -> float:
        """By which loop time the outputs' FIFOs must have readers."""
        limit_s = self._policy.open_limit_s
        if timeout_s is not None:
            limit_s = min(limit_s, timeout_s)
        return asyncio.get_running_loop().time() + limit_s

    def _open_stdin(self, path: str, undo: contextlib.ExitStack) -> None:
        if not path:
            return
        self._stdin = StdinFifo(path, self._policy.stdin_hangup_s)
        undo.callback(self._stdin.close)
        if self._stdin_closed:
            self._stdin.release()

    def _run(self, number: int, relay: Relay) -> None:
        self._relays[number] = relay
        relay.start()

    def close_stdin(self) -> None:
        self._stdin_closed = True
        if self._stdin is not None:
            self._stdin.release()

    def process_ended(self) -> None:
        self._taken_by = asyncio.get_running_loop().time() + self._policy.exit_output_s

    async def taken(self) -> None:
        loop = asyncio.get_running_loop()
        pause_s = _TAKEN_FIRST_S
        while self._is_awaited() and (left_s := self._taken_by - loop.time()) > 0:
            await asyncio.sleep(min(pause_s, left_s))
            pause_s = min(2 * pause_s, _TAKEN_LAST_S)

    def _is_awaited(self) -> bool:
        """Whether a client has still to take something, after a look at what the loop has not seen.

        The looks of `drain` are not enough: what has ended for the shim may be unread in its FIFO.
        """
        self._live_outputs()
        return any(relay.untaken for number, relay in self._relays.items() if number)

    async def drain(self) -> None:
        """Wait until the outputs have ended.

        As long as bytes move, or wait for a client that is there, that may take the policy's limit.
        Otherwise it ends as soon as no byte has moved for the grace time, counted from this call at
        the earliest: a process left in the background still holds a writing end, or the client has
        closed its reading one.
        """
        loop = asyncio.get_running_loop()
        called_at = loop.time()
        deadline = called_at + self._policy.drain_limit_s
        grace_s = self._policy.drain_grace_s
        while live := self._live_outputs():
            now = loop.time()
            busy = any(relay.busy for relay in live)
            quiet_at = max(called_at, *(relay.last_moved_at for relay in live)) + grace_s
            if now >= deadline or (not busy and now >= quiet_at):
                break
            pause_s = max(grace_s, _BUSY_LOOK_S) if busy else quiet_at - now
            ends = [relay.ended for relay in live]
            await asyncio.wait(ends, timeout=min(pause_s, deadline - now))
        for relay in live:
            log.warning(
                "%s has not ended: %s",
                relay.name,
                "its writing end is still held" if relay.idle else "its bytes are not taken",
                extra={"stream": relay.name},
            )

    def _live_outputs(self) -> list[Relay]:
        """The outputs that have not ended, after a look at what the loop has not yet seen."""
        outputs = [relay for number, relay in self._relays.items() if number]
        for relay in outputs:
            relay.look()
        return [relay for relay in outputs if not relay.ended.done()]

    async def close(self) -> None:
        self._live_outputs()
        self._release()

    def _release(self) -> None:
        for relay in self._relays.values():
            relay.close()
        if self._stdin is not None:
            self._stdin.close()

    def counters(self) -> IoCounters:
        relays = self._relays
        return IoCounters(
            *(relays[n].counters if n in relays else StreamCounters() for n in range(3))
        )
