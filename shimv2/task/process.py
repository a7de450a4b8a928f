"""What a container's init and its execs have in common: a life, an exit, streams."""

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
"""How long Delete waits for an exit that is recorded but not yet told (kill-all, execs first)."""

ROLL_BACK_S: Final = 0.5
"""What the undoing of a create or exec usually stays below."""


@dataclass(frozen=True, slots=True)
class Scope:
    """What the processes of one container share."""

    container_id: str
    namespace: str
    bundle: str
    rootfs: str  # what the shim mounted and unmounts; "" = nothing, the daemon does it itself
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
        """Make the streams of the process `id`, ready for the runtime.

        Raises:
            Refused: with the reference's text, which says `init` for an exec, too.
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
    """How long a client's side may take to be opened, so that the caller still hears why it failed.

    What was begun is undone before the answer, which must be out by `deadline` (loop time).
    """
    if deadline is None:
        return None
    left_s = max(0.0, deadline - asyncio.get_running_loop().time())
    return left_s - min(ROLL_BACK_S, left_s / 2)


class Process:
    """A process from its recording in the shim to its Delete.

    Two notions of state, on purpose: an exit is *recorded* the moment it is reaped, in memory and
    on disk, so that State and Wait tell it even while a verb is stuck in the runtime; it is *told*
    (the lifecycle's EXIT, the event) under the lock, so that events keep their order.  Wait and the
    event come after the output.
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
        self.pid = 0  # 0: it never ran, as far as a client is told
        self.exit: Exit | None = None
        self._scope = scope
        self._steps = asyncio.Lock()  # held through each verb; reads and Kill do not take it
        self._life = Lifecycle(table, state)
        self._io: ProcessIO | None = None
        self._stdin_closed = False
        self._size: tuple[int, int] | None = None  # asked for during a start, before the terminal
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._told = asyncio.Event()

    @property
    def state(self) -> State:
        """The state as a client sees it: stopped from the moment the exit is recorded."""
        if self.exit is not None and self._life.state is not State.DELETED:
            return State.STOPPED
        return self._life.state

    def check(self, step: Step) -> None:
        """Raise the state table's refusal of `step`, judged by what a client sees."""
        self._life.check(step, self.state)

    # --- the exit ------------------------------------------------------------------------------

    def _track(self, pid: int, exited: "asyncio.Future[Exit]") -> None:
        """The process runs as `pid`; record its exit as soon as `exited` tells it."""
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
        """Write the exit to disk, where something may ask for it after a crash of the shim."""

    def _release(self) -> None:
        """Let every Wait return: with the exit, or with none because it never ran."""
        if not self._ended.done():
            self._ended.set_result(None)

    async def recorded(self) -> Exit | None:
        """Wait for the exit to be recorded; None when the process never ran and never will."""
        await asyncio.shield(self._ended)
        return self.exit

    async def wait(self) -> Exit | None:
        """Wait for the exit as a client does: told after the output before it; None as above."""
        ended = await self.recorded()
        await self._may_be_told()
        return ended

    async def _may_be_told(self) -> None:
        """Wait for what has to come before the exit, by whichever way that is told.

        A client that is there is given a moment to take the output: it may close its end when told.
        containerd and ctr do, whatever is still in the FIFO then.
        """
        if self._io is not None:
            await self._io.taken()

    async def tell_exit(self, before: Callable[[], None]) -> None:
        """Tell the recorded exit once the output before it was taken and no step is under way.

        `before` tells what has to come right before it: an OOM kill.
        """
        assert self.exit is not None
        await self._may_be_told()
        async with self._steps:  # a start may still be in the runtime: Started goes first
            await self._before_exit_is_told()
            before()
            self._life.take(Step.EXIT)
            self._scope.events.emit(Exited(self._scope.container_id, self.id, self.exit))
        self._told.set()

    async def _before_exit_is_told(self) -> None:
        """What has to be done under the lock, between the last step and the exit."""

    async def settled(self) -> None:
        """Wait until a recorded exit has been told.

        Raises:
            WrongState: it takes longer than SETTLE_LIMIT_S; the caller may ask again.
        """
        if self.exit is None or self._life.state is State.DELETED:
            return
        try:
            async with asyncio.timeout(SETTLE_LIMIT_S):
                await self._told.wait()
        except TimeoutError:
            raise WrongState("cannot delete a running process") from None

    # --- streams -------------------------------------------------------------------------------

    def _attach(self, io: ProcessIO) -> None:
        """Own `io` from here on; a CloseIO or a resize that came too early is made good."""
        self._io = io
        if self._stdin_closed:
            io.close_stdin()
        if self._size is not None:
            io.resize(*self._size)
            self._size = None

    def close_stdin(self) -> None:
        """CloseIO: give up the shim's own writer of stdin, now or once there is one."""
        self._stdin_closed = True
        if self._io is not None:
            self._io.close_stdin()

    def resize(self, width: int, height: int) -> None:
        """Set the size of the terminal; without one, or before its start, that is nothing.

        Raises:
            WrongState: the process is not in a state for it.
        """
        self.check(Step.RESIZE)
        if self._io is not None:
            self._io.resize(width, height)
        elif self._steps.locked():
            self._size = width, height

    async def _close_io(self) -> None:
        """Give up the streams, after what an ended process wrote was handed on."""
        if self._io is None:
            return
        if self.exit is not None:
            await self._io.drain()
        await self._io.close()
