"""A terminal's bytes: from the client's stdin FIFO to the master, from the master to its output."""

import contextlib
from collections.abc import Callable
from typing import Final

from shimv2.io.fifo import Fd, Pinned, reason
from shimv2.io.logger import Logger
from shimv2.io.pty import Console, ConsoleSocket
from shimv2.io.relay import Relay
from shimv2.io.sinks import Sink, open_output
from shimv2.io.stdin import StdinRelay
from shimv2.io.streams import RelayedIO
from shimv2.io.uri import fifo_path
from shimv2.values.errors import Refused
from shimv2.values.model import Stdio
from shimv2.values.settings import IoPolicy

COPY_FAILED: Final = "failed to start console copy: "
_AWAY_LOOK_S: Final = 0.1  # only where the slave cannot be held open


class ConsoleIO(RelayedIO):
    """The streams of a process with a terminal; stderr's name is ignored.

    Input and output are two relays on one master.  If one of them ends, the shim closes the master.
    So processes of a terminal whose input has ended get SIGHUP, as with the Go shim.
    """

    def __init__(self, stdio: Stdio, *, policy: IoPolicy, logger: Logger | None = None) -> None:
        """Listen for the runtime.  With a `logger` the output goes there; this object owns it.

        Raises:
            Refused: with the Go shim's text; no fd is left open.
        """
        super().__init__(policy)
        self._stdin_path, self._stdout_path = fifo_path(stdio.stdin), fifo_path(stdio.stdout)
        self._logger = logger
        self._console: Console | None = None
        self._output: _Output | None = None
        self._hung_up = False
        try:
            self._socket = ConsoleSocket()
        except OSError as exc:
            text = f"failed to create OCI runtime console socket: {exc}"
            raise Refused(text) from None

    @property
    def console_socket(self) -> str:
        return self._socket.path

    async def connect(self, *, timeout_s: float | None = None) -> None:
        deadline = self._open_deadline(timeout_s)
        with contextlib.ExitStack() as undo:
            try:
                master = await self._socket.receive()
            except OSError as exc:
                raise Refused(f"failed to retrieve console master: {exc}") from None
            finally:
                self._socket.close()
            console = Console(master)
            undo.callback(console.close)
            self._open_stdin(self._stdin_path, undo)
            try:
                sink = await self._open_output(deadline)
            except (TimeoutError, Refused) as exc:
                raise type(exc)(f"{COPY_FAILED}{exc}") from None
            undo.callback(sink.close)
            if self._hung_up:  # closed while we waited
                raise Refused(f"{COPY_FAILED}closed")
            undo.pop_all()
        self._console = console
        self._output = _Output(console, sink, self._policy, on_end=self._hang_up)
        self._run(1, self._output)
        if self._stdin is not None and not self._hung_up:
            into = _Input(console.master, on_end=self._hang_up)
            self._run(0, StdinRelay(self._stdin, into))

    async def _open_output(self, deadline: float) -> Sink:
        if self._logger is not None:
            await self._logger.start()
            return Sink(self._logger.take_stdout())
        path = self._stdout_path
        try:
            with Pinned(path):
                pass
        except OSError as exc:
            raise Refused(f"stat {path}: {reason(exc)}") from None
        return await open_output(path, deadline)

    def process_ended(self) -> None:
        super().process_ended()
        if self._console is not None and self._output is not None:
            self._console.end()
            self._output.look()

    def resize(self, width: int, height: int) -> None:
        if self._console is None or self._hung_up:
            return
        try:
            self._console.resize(width, height)
        except OSError as exc:
            raise Refused(reason(exc)) from None

    def _hang_up(self) -> None:
        """End both relays, and close the master.

        A relay calls this while it ends: both relays ignore a second end.
        """
        if self._hung_up:
            return
        self._hung_up = True
        if self._output is not None:
            self._output.cut()
        if 0 in self._relays:
            self._relays[0].finish()
        if self._console is not None:
            self._console.close()
        if self._logger is not None:
            self._logger.release()

    async def close(self) -> None:
        await super().close()
        if self._logger is not None:
            await self._logger.stop()

    def _release(self) -> None:
        self._hang_up()
        super()._release()
        self._socket.close()


class _Output(Relay):
    """From the master to the client.  Calls `on_end` once no more can be read."""

    def __init__(
        self, console: Console, sink: Sink, policy: IoPolicy, *, on_end: Callable[[], None]
    ) -> None:
        super().__init__("stdout", _End(console.master, on_end), sink, policy)
        self._can_splice = False
        self._console = console

    def _read(self, limit_bytes: int) -> bytes:
        return self._console.read(limit_bytes)

    def _collect(self) -> int:
        moved = super()._collect()
        if self._console.ended:
            self._source_dry = False  # no event will come any more: read to the end
        return moved

    def _watch_source(self, wanted: bool) -> None:
        away = wanted and self._console.away  # it would be "readable" all the time
        super()._watch_source(wanted and not away)
        if away and self._timer is None:
            self._timer = self._loop.call_later(_AWAY_LOOK_S, self._on_timer)


class _End:
    """The reading side of a master that a Console owns."""

    def __init__(self, master: Fd, on_close: Callable[[], None]) -> None:
        self._master = master
        self._on_close = on_close

    @property
    def number(self) -> int:
        return self._master.number

    def close(self) -> None:
        self._on_close()


class _Input(Sink):
    """The writing side of it."""

    def __init__(self, master: Fd, *, on_end: Callable[[], None]) -> None:
        super().__init__(master)
        self._on_end = on_end

    def end(self) -> None:
        self._on_end()

    def close(self) -> None:
        pass  # the master's owner does that
