"""An additional process of a container: recorded by Exec, run by Start."""

import asyncio
import os
import signal as signals
from contextlib import AsyncExitStack, suppress

from shimv2.runtime.interface import read_pid_file
from shimv2.task.process import Process, Scope, time_to_open
from shimv2.values import paths
from shimv2.values.errors import FailedPrecondition, NotFound, Refused
from shimv2.values.lifecycle import EXEC, Step
from shimv2.values.model import ExecSpec, ExecStarted, Exit


class ExecProcess(Process):
    def __init__(self, scope: Scope, spec: ExecSpec) -> None:
        super().__init__(scope, spec.stdio, EXEC, id=spec.id)
        self._process = spec.process

    async def start(self, *, deadline: float | None) -> int:
        """Run the process in the container; return its pid.  A failure leaves nothing behind.

        Raises:
            WrongState: it was started before.  RuntimeFailed, Refused: with the Go shim's texts;
            the state is unchanged, and Wait returns without an exit.
        """
        async with self._steps:
            self.check(Step.START)
            if self._ended.is_set():  # an earlier start failed
                self._ended = asyncio.Event()
            async with self._scope.background.all_or_nothing(f"exec {self.id}") as undo:
                await self._run(undo, deadline)
            self._life.take(Step.START)
            self._scope.events.emit(ExecStarted(self._scope.container_id, self.id, self.pid))
            return self.pid

    async def _run(self, undo: AsyncExitStack, deadline: float | None) -> None:
        scope = self._scope
        undo.callback(self._release)
        limit_s = scope.settings.exec_s
        io = await scope.open_io(self.stdio, id=self.id, limit_s=limit_s, undo=undo)
        pid_file = paths.exec_pid_file(scope.bundle, self.id)
        with suppress(OSError):  # of an earlier exec with this id: it would be read as the new one
            os.unlink(pid_file)
        undo.callback(self._kill_started, pid_file)
        with scope.reaper.launching():
            await scope.runtime.exec(
                scope.container_id,
                process=self._process,
                pid_file=pid_file,
                fds=io.fds,
                spawned=io.spawned,
                console_socket=io.console_socket,
                timeout_s=scope.settings.exec_s,
            )
            pid = read_pid_file(pid_file, whose="exec")
            exited = scope.reaper.claim(pid)
        await io.connect(timeout_s=time_to_open(deadline))
        self._attach(io)
        self._track(pid, exited)

    def _kill_started(self, pid_file: str) -> None:
        """Kill the process of a start that failed.  It may already be a child of the shim."""
        with suppress(Refused, ChildProcessError):  # there was no process, or it was reaped already
            pid = read_pid_file(pid_file, whose="exec")
            if not self._scope.reaper.claim(pid).done():
                os.kill(pid, signals.SIGKILL)

    def kill(self, signal: int) -> None:
        """Send `signal` to the process; takes no lock.

        No pidfd is needed: only the shim reaps its children, so a pid whose exit is not recorded
        cannot have been given to another process.

        Raises:
            FailedPrecondition: the process was not started.  NotFound: it has ended.
        """
        self.check(Step.KILL)
        if not self.pid:
            raise FailedPrecondition("process not created")
        try:
            os.kill(self.pid, signal)
        except ProcessLookupError:
            raise NotFound("exec kill error: process already finished") from None
        except OverflowError:
            raise _unknown("invalid argument") from None
        except OSError as error:
            raise _unknown((error.strerror or str(error)).lower()) from None

    async def delete(self) -> Exit | None:
        """Remove the process, which has ended or never started; return its exit.

        Raises:
            WrongState: the process runs.
        """
        await self.settled()
        async with self._steps:
            self.check(Step.DELETE)
            await self._close_io()
            with suppress(OSError):  # never started, or the bundle is gone already
                os.unlink(paths.exec_pid_file(self._scope.bundle, self.id))
            self._life.take(Step.DELETE)
            self._release()
            return self.exit

    async def abandon(self) -> None:
        """Release all resources, in any state: the container is gone."""
        self._release()
        if self._io is not None:
            await self._io.close()


def _unknown(why: str) -> Refused:
    return Refused(f"exec kill error: unknown error after kill: {why}")
