"""Pipes between container and shim, and a relay for each to the client's FIFO or file."""

import contextlib
import os
from collections.abc import Mapping
from typing import Final

from shimv2.io.fifo import Fd, reason
from shimv2.io.relay import Relay
from shimv2.io.sinks import FileSink, NoReader, PipeSink, Sink, open_output
from shimv2.io.stdin import StdinRelay
from shimv2.io.streams import RelayedIO
from shimv2.io.uri import fifo_path
from shimv2.values.errors import Refused
from shimv2.values.model import Stdio
from shimv2.values.settings import IoPolicy

_NAMES: Final = ("stdin", "stdout", "stderr")
_COPY_FAILED: Final = "failed to start io pipe copy: unable to copy pipes: "


class PipeIO(RelayedIO):
    """Streams over pipes: the container has pipes, never a client's FIFO.

    So an error of a client's FIFO does not reach the container.  A stream without a name has no
    pipe.  If `file` is given, both outputs go to this open file instead of their names; this object
    owns the file.
    """

    def __init__(
        self, stdio: Stdio, *, uid: int, gid: int, policy: IoPolicy, file: FileSink | None = None
    ) -> None:
        """Make the pipes; the container's ends belong to uid:gid.

        Raises:
            Refused: with the Go shim's text; no fd is left open.
        """
        self._paths = tuple(fifo_path(p) for p in (stdio.stdin, stdio.stdout, stdio.stderr))
        super().__init__(policy)
        self._to_file = file is not None
        self._file = file  # until the relays have it
        self._theirs: dict[int, Fd] = {}  # stream number -> the container's end
        self._ours: dict[int, Fd] = {}  # until a relay takes it over
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
        deadline = self._open_deadline(timeout_s)
        with contextlib.ExitStack() as undo:
            self._open_stdin(self._paths[0], undo)
            try:
                sinks = await self._open_outputs(deadline, undo)
            except (NoReader, Refused) as exc:
                raise type(exc)(f"{_COPY_FAILED}{exc}") from None
            if self._closed:  # while we waited
                raise Refused(f"{_COPY_FAILED}closed")
            undo.pop_all()
        if self._stdin is not None:
            self._run(0, StdinRelay(self._stdin, PipeSink(self._ours.pop(0))))
        for number, sink in sinks.items():
            source = self._ours.pop(number)
            self._run(number, Relay(_NAMES[number], source, sink, self._policy))

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

    def _release(self) -> None:
        self._closed = True
        super()._release()
        if self._file is not None:
            self._file.close()
        self.spawned()
        while self._ours:
            self._ours.popitem()[1].close()
