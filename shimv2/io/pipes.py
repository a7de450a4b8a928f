"""Pipes between container and shim, and a relay for each to the client's FIFO or file."""

import asyncio
import contextlib
import logging
import os
from collections.abc import Mapping
from typing import Final

from shimv2.errors import Refused
from shimv2.io.copy import Relay, Source
from shimv2.io.fifo import Fd, StdinFifo, reason
from shimv2.io.process_io import IoCounters, IoPolicy, ProcessIO, StreamCounters
from shimv2.io.sinks import FileSink, NoReader, PipeSink, Sink, open_output
from shimv2.io.uri import fifo_path
from shimv2.model import Stdio

_NAMES: Final = ("stdin", "stdout", "stderr")
_COPY_FAILED: Final = "failed to start io pipe copy: unable to copy pipes: "
_BUSY_LOOK_S: Final = 0.1  # a drain looks again no sooner while bytes are under way
_STDIN_POLICY: Final = IoPolicy()  # blocks: what a client writes is never dropped

log = logging.getLogger(__name__)


class PipeIO(ProcessIO):
    """The container never holds a client's FIFO: what happens to that is not its business.

    A stream without a name has no pipe.  `file` is an opened file both outputs go to, in place of
    their names; this object owns it.
    """

    def __init__(
        self, stdio: Stdio, *, uid: int, gid: int, policy: IoPolicy, file: FileSink | None = None
    ) -> None:
        """Make the pipes; the container's ends belong to uid:gid.

        Raises:
            Refused: with the reference's text; nothing is left open.
        """
        self._paths = tuple(fifo_path(p) for p in (stdio.stdin, stdio.stdout, stdio.stderr))
        self._policy = policy
        self._to_file = file is not None
        self._file = file  # until the relays have it
        self._theirs: dict[int, Fd] = {}  # stream number -> the container's end
        self._ours: dict[int, Fd] = {}  # until a relay takes it over
        self._relays: dict[int, Relay] = {}
        self._stdin: StdinFifo | None = None
        self._stdin_closed = False
        self._closed = False
        try:
            for number, path in enumerate(self._paths):
                if path or (self._to_file and number > 0):
                    self._make_pipe(number, uid, gid)
        except Refused:
            self._release()
            raise

    def _make_pipe(self, number: int, uid: int, gid: int) -> None:
        try:
            reader, writer = (Fd(n) for n in os.pipe2(os.O_CLOEXEC))
        except OSError as exc:
            raise Refused(f"pipe2: {reason(exc)}") from None
        theirs, ours = (reader, writer) if number == 0 else (writer, reader)
        self._theirs[number], self._ours[number] = theirs, ours
        # Each end of a pipe has flags of its own: the container's stays blocking.
        os.set_blocking(ours.number, False)
        try:
            os.fchown(theirs.number, uid, gid)
        except OSError as exc:
            raise Refused(f"failed to chown {_NAMES[number]}: {reason(exc)}") from None

    @property
    def fds(self) -> Mapping[int, int]:
        return {number: fd.number for number, fd in self._theirs.items()}

    def spawned(self) -> None:
        while self._theirs:
            self._theirs.popitem()[1].close()

    # --- the client's side ---------------------------------------------------------------------

    async def connect(self, *, timeout_s: float | None = None) -> None:
        limit_s = self._policy.open_limit_s
        if timeout_s is not None:
            limit_s = min(limit_s, timeout_s)
        deadline = asyncio.get_running_loop().time() + limit_s
        with contextlib.ExitStack() as undo:
            if self._paths[0]:
                self._stdin = StdinFifo(self._paths[0])
                undo.callback(self._stdin.close)
                if self._stdin_closed:
                    self._stdin.release()
            try:
                sinks = await self._open_outputs(deadline, undo)
            except (NoReader, Refused) as exc:
                raise type(exc)(f"{_COPY_FAILED}{exc}") from None
            if self._closed:  # while we waited
                raise Refused(f"{_COPY_FAILED}closed")
            undo.pop_all()
        if self._stdin is not None:
            self._relay(0, self._stdin, PipeSink(self._ours.pop(0)))
        for number, sink in sinks.items():
            self._relay(number, self._ours.pop(number), sink)

    async def _open_outputs(self, deadline: float, undo: contextlib.ExitStack) -> dict[int, Sink]:
        """Open stdout's file, then stderr's: one file for both when they name the same one."""
        sinks: dict[int, Sink] = {}
        for number in sorted(self._ours.keys() - {0}):
            first = sinks.get(1)
            sink: Sink
            if self._file is not None:
                sink, self._file = self._file, None
            elif isinstance(first, FileSink) and self._both_outputs_alike():
                sink = first.share()
            else:
                sink = await open_output(self._paths[number], deadline)
            undo.callback(sink.close)
            sinks[number] = sink
        return sinks

    def _both_outputs_alike(self) -> bool:
        return self._to_file or self._paths[1] == self._paths[2]

    def _relay(self, number: int, source: Source, sink: Sink) -> None:
        policy = self._policy if number else _STDIN_POLICY
        relay = Relay(_NAMES[number], source, sink, policy)
        self._relays[number] = relay
        relay.start()

    def close_stdin(self) -> None:
        self._stdin_closed = True
        if self._stdin is not None:
            self._stdin.release()

    # --- the end -------------------------------------------------------------------------------

    async def drain(self) -> None:
        """Wait until the outputs have ended.

        As long as bytes move or wait, that may take the policy's limit.  When nothing waits, but
        somebody still holds a writing end (a process left in the background), it ends as soon as
        no byte has come for the grace time, counted from this call at the earliest.
        """
        loop = asyncio.get_running_loop()
        called_at = loop.time()
        deadline = called_at + self._policy.drain_limit_s
        grace_s = self._policy.drain_grace_s
        while live := self._live_outputs():
            now = loop.time()
            busy = not all(relay.idle for relay in live)
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
        self._closed = True
        for relay in self._relays.values():
            relay.close()
        if self._stdin is not None:
            self._stdin.close()
        if self._file is not None:
            self._file.close()
        self.spawned()
        while self._ours:
            self._ours.popitem()[1].close()

    def counters(self) -> IoCounters:
        relays = self._relays
        return IoCounters(
            *(relays[n].counters if n in relays else StreamCounters() for n in range(3))
        )
