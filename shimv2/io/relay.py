"""Copy one stream from its source to its sink, driven by the loop.

No call here blocks.  A relay is registered with the loop only for its next need: bytes to read,
or room to write.  The loop would report a descriptor with a hang-up again and again, so its
registration is removed at once.
"""

import asyncio
import errno
import logging
import os
from typing import Final, Protocol

from shimv2.io.fifo import grow_pipes
from shimv2.io.process_io import StreamCounters
from shimv2.io.sinks import PAGE_BYTES, Sink
from shimv2.kernel.linux import bytes_waiting, splice
from shimv2.values.settings import BUFFER, DROP_OLDEST, IoPolicy

STEP_BYTES: Final = 1024 * 1024
"""The most that one callback moves, so that one busy stream does not delay the others."""

_READ_BYTES: Final = 64 * 1024  # for one read into the backlog
_BULK_BYTES: Final = 32 * 1024  # half of a new pipe's buffer
_GROW_AFTER: Final = 32  # bulk splices: 1 MiB at least
_RETRIES_S: Final = (0.1, 0.2, 0.4, 0.8)  # a failing sink gets 1.5 s to recover
_UNPOLLABLE_RETRY_S: Final = 0.1

log = logging.getLogger(__name__)


class Source(Protocol):
    @property
    def number(self) -> int: ...

    def close(self) -> None: ...


class Relay:
    """One stream.  Owns source and sink, and closes both when the stream ends.

    With the policy `block` at most one chunk is kept in memory, between a read and a write that
    found the sink full.  With the other policies the relay continues to read into a backlog.
    """

    def __init__(self, name: str, source: Source, sink: Sink, policy: IoPolicy) -> None:
        self.name = name
        self.counters = StreamCounters()
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[None] = self._loop.create_future()
        self.last_moved_at = self._loop.time()
        self._source = source
        self._sink = sink
        self._policy = policy
        self._backlog = bytearray()
        self._can_splice = True
        self._splicing = False  # in this step
        self._bulk_splices = 0  # until the pipes are made larger
        self._source_dry = False  # in this step: the last read took all bytes
        self._source_ended = False
        self._sink_full = False  # or it fails: no write until the next check
        self._source_polls = True
        self._reading = False  # what is registered with the loop
        self._writing = False
        self._timer: asyncio.Handle | None = None  # in place of a registration
        self._failures = 0  # in a row, at most as many as retries
        self._failure_logged = False

    # --- life ----------------------------------------------------------------------------------

    def start(self) -> None:
        if self._sink.broken_is_end:
            # A pipe's writing end is never readable: an event means that its last reader has left.
            self._loop.add_reader(self._sink.number, self.finish)
        self.step()

    def is_idle(self) -> bool:
        """Whether no byte is on its way.  A stream that has ended is idle."""
        if self._backlog:
            return False
        return self._source_ended or self.ended.done() or bytes_waiting(self._source.number) == 0

    def look_for_pending(self) -> bool:
        """Whether bytes are on their way to a client that has its end open."""
        return not self.is_idle() and self._sink.look_for_reader()

    def look_for_unread(self) -> bool:
        """Whether a client that has its end open has not yet read all output, its FIFO included."""
        return (not self.is_idle() or self._sink.unread_bytes() > 0) and (
            self._sink.look_for_reader()
        )

    def look_for_late_reader(self) -> bool:
        """Whether a client that came after the end of the stream has not yet read all output."""
        return self._sink.look_for_late_reader()

    def close(self) -> None:
        """End the stream and close all descriptors, also those that stay open after `finish`."""
        self.finish()
        self._sink.close()

    def finish(self) -> None:
        """End the stream now.  Idempotent; bytes still on their way are lost and counted."""
        if self.ended.done():
            return
        lost_bytes = len(self._backlog)
        if not (self._source_ended or self._sink.broken_is_end):
            lost_bytes += bytes_waiting(self._source.number)
        self.counters.dropped_bytes += lost_bytes
        self._backlog.clear()
        self._watch(read=False, write=False)
        if self._timer is not None:
            self._timer.cancel()
        if self._sink.broken_is_end:
            self._loop.remove_reader(self._sink.number)
        self.ended.set_result(None)  # first: closing source or sink may call `finish` again
        self._source.close()
        self._sink.end()
        if self.counters.dropped_bytes:
            log.warning(
                "%s: %d bytes were not delivered",
                self.name,
                self.counters.dropped_bytes,
                extra={"stream": self.name},
            )

    def cut(self) -> None:
        """Read the bytes that are there now, and none that come later.  Still write the backlog."""
        if not self._is_cut():
            self.look()
        if not self._is_cut():
            self._end_source()
            self.step()

    def _is_cut(self) -> bool:
        return self._source_ended or self.ended.done()

    # --- steps ---------------------------------------------------------------------------------

    def step(self) -> None:
        """Move at most STEP_BYTES without waiting; then register with the loop for the rest."""
        left_bytes = STEP_BYTES
        self._source_dry = self._splicing = False
        while left_bytes > 0 and not self.ended.done():
            moved = self._pass_on(left_bytes) or self._collect()
            if not moved:
                break
            left_bytes -= moved
        if left_bytes < STEP_BYTES:
            self.last_moved_at = self._loop.time()
        if self.ended.done():
            return
        if self._source_ended and not self._backlog:
            self.finish()
            return
        self._watch(
            read=self._room_bytes() > 0,
            write=bool(self._backlog) or self._sink_full,
        )

    def look(self) -> None:
        """Step, and try the sink even if the loop has not reported room yet."""
        if self._timer is None:
            self._sink_full = False
        self.step()

    def _on_readable(self) -> None:
        """Relay a message in one read and one write; leave all that takes more to `step`.

        This is for short messages: at a prompt, and in many protocols, a client sends up to a page
        and waits for the answer.
        """
        if self._backlog or self._sink_full or self._failures or not self._can_splice:
            self.step()
            return
        try:
            if not 0 < bytes_waiting(self._source.number) <= PAGE_BYTES:
                self.step()
                return
            chunk = self._read(PAGE_BYTES)
        except OSError:
            self.step()  # reads once more, and reports the error
            return
        try:
            written = self._sink.write(chunk)
        except OSError:  # full or failing: `step` finds out which
            written = 0
        self.counters.relayed_bytes += written
        self.last_moved_at = self._loop.time()
        if written < len(chunk):
            self._backlog += chunk[written:]
            self.step()

    def _on_writable(self) -> None:
        self._sink_full = False
        self.step()

    def _on_timer(self) -> None:
        self._timer = None
        self._on_writable()

    def _pass_on(self, limit_bytes: int) -> int:
        """Write or splice what the sink has room for.  Return the bytes; 0: no bytes or no room."""
        if self._sink_full:
            return 0
        if self._backlog:
            return self._write()
        if self._source_ended or self._source_dry or not self._can_splice:
            return 0
        return self._splice(limit_bytes)

    def _splice(self, limit_bytes: int) -> int:
        try:
            waiting_bytes = bytes_waiting(self._source.number)
            if waiting_bytes < PAGE_BYTES:
                self._source_dry = self._splicing and not waiting_bytes  # empty: no read is needed
                return 0
            if not self._splicing and not self._sink.look_for_progress():
                return 0
            moved = splice(self._source.number, self._sink.number, limit_bytes)
        except BlockingIOError:
            self._sink_full = True  # not the source: its bytes are still there
            return 0
        except OSError:
            # A source that is no pipe (ENOTTY, EINVAL), or EPIPE: the next read or write shows
            # which.
            self._can_splice = False
            return 0
        self._splicing = True
        self._sink.spliced(moved)
        self.counters.relayed_bytes += moved
        if moved >= _BULK_BYTES:
            self._bulk_splices += 1
            if self._bulk_splices == _GROW_AFTER:
                grow_pipes(self._source.number, self._sink.number)
        return moved

    def _write(self) -> int:
        try:
            written = self._sink.write(self._backlog)
        except BlockingIOError:
            self._sink_full = True
            return 0
        except OSError as exc:
            return self._failed(exc)
        del self._backlog[:written]
        self.counters.relayed_bytes += written
        self._failures = 0
        return written

    def _failed(self, exc: OSError) -> int:
        """Schedule a retry of a write that failed; after the last retry drop the backlog.

        Reason: a container must not hang because a disk is full.  After that its bytes are read
        and dropped until a write succeeds.  Returns the number of dropped bytes.
        """
        self.counters.errors += 1
        if self._sink.broken_is_end and exc.errno == errno.EPIPE:
            self.finish()
            return 0
        if self._failures < len(_RETRIES_S):
            self._sink_full = True
            self._timer = self._loop.call_later(_RETRIES_S[self._failures], self._on_timer)
            self._failures += 1
            return 0
        if not self._failure_logged:
            self._failure_logged = True
            log.warning(
                "%s: writing failed, output is dropped until a write succeeds: %s",
                self.name,
                exc,
                extra={"stream": self.name},
            )
        dropped = len(self._backlog)
        self.counters.dropped_bytes += dropped
        self._backlog.clear()
        return dropped

    # --- the source ----------------------------------------------------------------------------

    def _room_bytes(self) -> int:
        """Return how many bytes may be read into the backlog."""
        if self._source_ended:
            return 0
        if not self._backlog and not self._sink_full:
            return self._sink.chunk_bytes
        if self._policy.stdio_policy == DROP_OLDEST:
            return _READ_BYTES
        if self._policy.stdio_policy == BUFFER:
            return min(self._policy.limit_bytes - len(self._backlog), _READ_BYTES)
        return 0

    def _collect(self) -> int:
        """Read as much as there is room for.  Return the bytes; 0: no bytes or no room."""
        room = self._room_bytes()
        if room <= 0 or self._source_dry:
            return 0
        try:
            chunk = self._read(room)
        except BlockingIOError:
            self._source_dry = True
            return 0
        except OSError as exc:
            log.warning("%s: reading failed: %s", self.name, exc, extra={"stream": self.name})
            chunk = b""
        if not chunk:
            self._end_source()
            return 0
        self._source_dry = len(chunk) < room
        self._backlog += chunk
        excess = len(self._backlog) - self._policy.limit_bytes
        if self._policy.stdio_policy == DROP_OLDEST and self._sink_full and excess > 0:
            del self._backlog[:excess]
            self.counters.dropped_bytes += excess
        return len(chunk)

    def _read(self, limit_bytes: int) -> bytes:
        return os.read(self._source.number, limit_bytes)

    def _end_source(self) -> None:
        self._source_ended = True
        self._watch(read=False, write=self._writing)
        self._source.close()

    # --- the loop ------------------------------------------------------------------------------

    def _watch(self, *, read: bool, write: bool) -> None:
        """Register with the loop for bytes to read and room to write, as far as they are wanted."""
        if self._source_polls:
            self._watch_source(read)
        if not self._source_polls and read:
            self._loop.call_soon(self.step)
        self._watch_sink(write and self._timer is None)

    def _watch_source(self, wanted: bool) -> None:
        if wanted == self._reading:
            return
        if not wanted:
            self._loop.remove_reader(self._source.number)
        else:
            try:
                self._loop.add_reader(self._source.number, self._on_readable)
            except PermissionError:  # epoll refuses a regular file, which is always ready
                self._source_polls = False
                return
        self._reading = wanted

    def _watch_sink(self, wanted: bool) -> None:
        if wanted == self._writing:
            return
        if not wanted:
            self._loop.remove_writer(self._sink.number)
        else:
            try:
                self._loop.add_writer(self._sink.number, self._on_writable)
            except PermissionError:
                self._timer = self._loop.call_later(_UNPOLLABLE_RETRY_S, self._on_timer)
                return
        self._writing = wanted
