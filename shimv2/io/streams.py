"""Streams that the shim relays itself: the common part of pipes and terminals."""

import asyncio
import contextlib
import logging
from typing import Final

from shimv2.io.fifo import StdinFifo
from shimv2.io.process_io import IoCounters, ProcessIO, StreamCounters
from shimv2.io.relay import Relay
from shimv2.values.settings import IoPolicy

_BUSY_LOOK_S: Final = 0.1  # the shortest pause between two checks of a drain while bytes move
# The kernel does not report that a FIFO was read.  A client that waits for output reads it in
# 0.1 ms.  So the shim checks the FIFO in this many turns of the loop (0.2 ms), then after pauses.
_TURNS: Final = 20
_FIRST_PAUSE_S: Final = 0.001
_LAST_PAUSE_S: Final = 0.016

log = logging.getLogger(__name__)


class RelayedIO(ProcessIO):
    """Owns a relay for each stream (by its number) and the client's stdin."""

    def __init__(self, policy: IoPolicy) -> None:
        self._policy = policy
        self._relays: dict[int, Relay] = {}
        self._stdin: StdinFifo | None = None
        self._stdin_closed = False
        self._read_by = 0.0  # loop time until which a client may read
        self._is_read: asyncio.Future[None] | None = None  # once the process has ended

    def _open_deadline(self, timeout_s: float | None) -> float:
        """Return the loop time by which the outputs' FIFOs must have readers."""
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
        loop = asyncio.get_running_loop()
        self._read_by = loop.time() + self._policy.exit_output_s
        self._is_read = loop.create_future()

    async def output_read(self) -> None:
        if self._is_read is None:
            return
        loop = asyncio.get_running_loop()
        turns_left, pause_s = _TURNS, _FIRST_PAUSE_S
        while not self._is_read.done():  # all callers continue when one of them has noticed it
            now = loop.time()
            if now >= self._read_by or not self._look_for_unread():
                self._is_read.set_result(None)
            elif turns_left:
                turns_left -= 1
                await asyncio.sleep(0)
            else:
                await asyncio.wait([self._is_read], timeout=min(pause_s, self._read_by - now))
                pause_s = min(2 * pause_s, _LAST_PAUSE_S)

    def _look_for_unread(self) -> bool:
        """Move what can be moved; return whether a client still has output to read.

        The FIFO of a stream may have unread bytes after the stream has ended for the shim.
        """
        self._live_outputs()
        return any(relay.look_for_unread() for number, relay in self._relays.items() if number)

    async def drain(self) -> None:
        """Wait until the outputs have ended.

        While bytes move, or wait for a client that has its end open, the wait lasts up to
        `drain_limit_s` of the policy.  Otherwise it ends when no byte has moved for
        `drain_grace_s` since this call.  In that case a process in the background still has a
        writing end open, or the client has closed its reading end.
        """
        loop = asyncio.get_running_loop()
        called_at = loop.time()
        deadline = called_at + self._policy.drain_limit_s
        grace_s = self._policy.drain_grace_s
        while live := self._live_outputs():
            now = loop.time()
            busy = any(relay.look_for_pending() for relay in live)
            quiet_at = max(called_at, *(relay.last_moved_at for relay in live)) + grace_s
            if now >= deadline or (not busy and now >= quiet_at):
                break
            pause_s = max(grace_s, _BUSY_LOOK_S) if busy else quiet_at - now
            ends = [relay.ended for relay in live]
            await asyncio.wait(ends, timeout=min(pause_s, deadline - now))
        if any(relay.look_for_late_reader() for relay in self._relays.values()):
            self.process_ended()  # it gets as much time as a client that was connected at the exit
            await self.output_read()
        for relay in live:
            log.warning(
                "%s has not ended: %s",
                relay.name,
                "its writing end is still open" if relay.is_idle() else "its bytes are not read",
                extra={"stream": relay.name},
            )

    def _live_outputs(self) -> list[Relay]:
        """Return the outputs that have not ended, after one more step of each."""
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
