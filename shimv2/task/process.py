"""The common part of a container's init and its execs: states, exit, streams."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Final

from shimv2.aio.background import Background
from shimv2.io.stdio import LoggerHost, ProcessIO, open_io
from shimv2.kernel.reaper import Reaper
from shimv2.runtime.interface import Runtime
from shimv2.task.exits import ExitRecords
from shimv2.values.errors import Refused, WrongState
from shimv2.values.lifecycle import Lifecycle, State, Step, Table
from shimv2.values.model import EventSink, Exit, Exited, Stdio
from shimv2.values.settings import IoPolicy, Settings

log = logging.getLogger(__name__)

SETTLE_LIMIT_S: Final = 10.0
"""How long Delete waits until a recorded exit is published (kill-all, execs first)."""

ROLL_BACK_S: Final = 0.5
"""An upper bound of the usual time that undoing a create or exec takes."""


@dataclass(frozen=True, slots=True)
class Scope:
    """The data that all processes of one container share."""

    container_id: str
    namespace: str
    bundle: str
    rootfs: str  # the mount point that the shim mounts and unmounts; "" = the daemon does it
    runtime: Runtime
    reaper: Reaper
    background: Background
    events: EventSink
    records: ExitRecords
    settings: Settings
    io_uid: int
    io_gid: int
    io_policy: IoPolicy

    async def open_io(
        self, stdio: Stdio, *, id: str, limit_s: float, undo: AsyncExitStack
    ) -> ProcessIO:
        """Make the streams of the process `id`, ready for the runtime; `undo` owns them.

        Raises:
            Refused: with the Go shim's text, which has the word `init` for an exec, too.
            TimeoutError: a logging binary was not ready within `limit_s`.
        """
        allowed = self.settings.logging_binaries
        try:
            io = open_io(
                stdio,
                uid=self.io_uid,
                gid=self.io_gid,
                policy=self.io_policy,
                loggers=LoggerHost(self.reaper, self.namespace, id, allowed, limit_s),
            )
            undo.push_async_callback(io.close)
            await io.prepare()
        except (Refused, TimeoutError) as error:
            if stdio.terminal:
                raise
            raise type(error)(f"failed to create init process I/O: {error}") from None
        return io


def time_to_open(deadline: float | None) -> float | None:
    """Return how many seconds it may take to open a client's side; None: no limit.

    `deadline` is the caller's, in loop time.  The result leaves time for the roll-back.  That comes
    before the answer, and so the caller still gets the reason of a failure.
    """
    if deadline is None:
        return None
    left_s = max(0.0, deadline - asyncio.get_running_loop().time())
    return left_s - min(ROLL_BACK_S, left_s / 2)


class Process:
    """A process from its Create or Exec to its Delete.

    It has two notions of state.  An exit is *recorded* the moment it is reaped, so that State and
    Wait report it even while a verb is stuck in the runtime.  It is *published* (the lifecycle's
    EXIT, the event) under the lock, so that events keep their order.  Wait and the event come after
    the output.
    """

    def __init__(
        self,
        scope: Scope,
        stdio: Stdio,
        table: Table,
        *,
        id: str,
        state: State = State.CREATED,
    ) -> None:
        self.id = id
        self.stdio = stdio
        self.pid = 0  # 0: not started, as clients see it
        self.exit: Exit | None = None
        self._scope = scope
        self._steps = asyncio.Lock()  # held through each verb; reads and Kill do not take it
        self._life = Lifecycle(table, state)
        self._io: ProcessIO | None = None
        self._stdin_closed = False
        self._size: tuple[int, int] | None = None  # of a resize that came before the terminal
        self._ended = asyncio.Event()  # with an exit, or without one: see `_release`
        self._published = asyncio.Event()

    @property
    def state(self) -> State:
        """Return the state as a client sees it: stopped once the exit is recorded."""
        if self.exit is not None and self._life.state is not State.DELETED:
            return State.STOPPED
        return self._life.state

    def check(self, step: Step) -> None:
        """Raise if the state, as a client sees it, does not allow `step`."""
        self._life.check(step, self.state)

    # --- the exit ------------------------------------------------------------------------------

    def _track(self, pid: int, exited: "asyncio.Future[Exit]") -> None:
        """Note that the process runs as `pid`; record its exit as soon as `exited` is done."""
        self.pid = pid
        exited.add_done_callback(self._record)

    def _record(self, exited: "asyncio.Future[Exit]") -> None:
        if exited.cancelled():  # the daemon stops; the process lives on
            return
        self.exit = exited.result()
        self._write_record(self.exit)
        self._release()
        if self._io is not None:
            self._io.process_ended()

    def _write_record(self, ended: Exit) -> None:
        """Write the exit to disk, if `delete` may read it after a crash of the shim."""

    def _release(self) -> None:
        """Let each Wait return: with the exit, or without one if the process never ran."""
        self._ended.set()

    async def recorded(self) -> Exit | None:
        """Wait until the exit is recorded; None if the process never ran and never will."""
        await self._ended.wait()
        return self.exit

    async def wait(self) -> Exit | None:
        """Wait for the exit, after the output was read; None as in `recorded`."""
        ended = await self.recorded()
        await self._publishable()
        return ended

    async def _publishable(self) -> None:
        """Wait for all that has to come before the exit event and the answer of Wait.

        A connected client gets some time to read the output.  Reason: containerd and ctr close
        their ends at the exit, also if the FIFO still has output.
        """
        if self._io is not None:
            await self._io.output_read()

    async def publish_exit(self, before: Callable[[], None]) -> None:
        """Publish the recorded exit once the output was read and no verb holds the lock.

        `before` publishes an event that has to come directly before the exit: an OOM kill.
        """
        assert self.exit is not None
        await self._publishable()
        async with self._steps:  # a start may still be in the runtime: Started goes first
            await self._before_exit()
            before()
            self._life.take(Step.EXIT)
            self._scope.events.emit(Exited(self._scope.container_id, self.id, self.exit))
        self._published.set()

    async def _before_exit(self) -> None:
        """Run, under the lock, the steps between the last verb and the exit."""

    async def settled(self) -> None:
        """Wait until a recorded exit has been published.

        Raises:
            WrongState: it takes longer than SETTLE_LIMIT_S; the caller may try again.
        """
        if self.exit is None or self._published.is_set() or self._life.state is State.DELETED:
            return
        try:
            async with asyncio.timeout(SETTLE_LIMIT_S):
                await self._published.wait()
        except TimeoutError:
            raise WrongState("cannot delete a running process") from None

    # --- streams -------------------------------------------------------------------------------

    def _attach(self, io: ProcessIO) -> None:
        """Own `io` from here on; apply a CloseIO or a resize that came before it."""
        self._io = io
        if self._stdin_closed:
            io.close_stdin()
        if self._size is not None:
            io.resize(*self._size)
            self._size = None

    def close_stdin(self) -> None:
        """CloseIO: close the shim's own writer of stdin, now or once there is one."""
        self._stdin_closed = True
        if self._io is not None:
            self._io.close_stdin()

    def resize(self, width: int, height: int) -> None:
        """Set the terminal's size, in characters.  Without a terminal, or before Start: no effect.

        Raises:
            WrongState: a resize is not possible in this state.
        """
        self.check(Step.RESIZE)
        if self._io is not None:
            self._io.resize(width, height)
        elif self._steps.locked():
            self._size = width, height

    async def _close_io(self) -> None:
        """Write out the output of an ended process, then release the streams."""
        if self._io is None:
            return
        if self.exit is not None:
            await self._io.drain()
        await self._io.close()
