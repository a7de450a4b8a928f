"""A process's stdin.  It can also end without a CloseIO: some time after the last client left."""

import asyncio
import logging
from typing import Final

from shimv2.io.fifo import StdinFifo
from shimv2.io.relay import Relay
from shimv2.io.sinks import Sink
from shimv2.values.settings import IoPolicy

_POLICY: Final = IoPolicy()  # block: a client's bytes are never dropped

log = logging.getLogger(__name__)


class StdinRelay(Relay):
    """Moves bytes from the client's FIFO to the process.

    If there is a hang-up time, a timer starts when the last writer closes the FIFO.  Until the
    timer fires, the shim itself is a writer.  If bytes come meanwhile, a client has written them,
    and the time starts again.
    """

    def __init__(self, fifo: StdinFifo, sink: Sink) -> None:
        super().__init__("stdin", fifo, sink, _POLICY)
        self._fifo = fifo
        self._deadline: asyncio.Handle | None = None

    def finish(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        super().finish()

    def _read(self, limit_bytes: int) -> bytes:
        chunk = super()._read(limit_bytes)
        if chunk or self._fifo.hangup_s is None:
            return chunk
        if self._deadline is None and self._fifo.is_deserted():
            self._wait(self._fifo.hangup_s)
        raise BlockingIOError  # no end of file yet, even without a writer

    def _wait(self, seconds: float) -> None:
        self._fifo.hold()
        self._deadline = self._loop.call_later(seconds, self._look_for_clients)

    def _look_for_clients(self) -> None:
        self._deadline = None
        hangup_s = self._fifo.hangup_s
        if hangup_s is None or self._is_cut():
            return  # ended meanwhile, by CloseIO or otherwise
        left_s = self.last_moved_at + hangup_s - self._loop.time()
        if left_s > 0:
            self._deadline = self._loop.call_later(left_s, self._look_for_clients)
            return
        self._fifo.close_writer()
        if self._fifo.is_deserted() and self.is_idle():
            log.info("stdin ends: its last client left %g s ago", hangup_s)
            self._fifo.release()
            self.step()
