"""A container's init: made by the runtime at Create, run by Start; or restored by Start."""

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from typing import Final

from shimv2.cgroups.tree import Cgroup
from shimv2.kernel.proc import is_namespace_init, start_time_of
from shimv2.mounts import rootfs as rootfs_mounts
from shimv2.runtime.interface import read_pid_file
from shimv2.task import checkpoints
from shimv2.task.process import Process, Scope, log, time_to_open
from shimv2.values import paths
from shimv2.values.errors import Refused, RuntimeFailed, ShimError
from shimv2.values.lifecycle import INIT, State, Step
from shimv2.values.model import CheckpointSpec, CreateSpec, Exit, Paused, Resumed, Started

_KILLED_BY: Final = 128  # an exit status above: the number of a signal
_SIGKILLED: Final = 128 + 9


class InitProcess(Process):
    def __init__(self, scope: Scope, spec: CreateSpec) -> None:
        first = State.CREATED_CHECKPOINT if spec.checkpoint else State.CREATED
        super().__init__(scope, spec.stdio, INIT, id=spec.id, state=first)
        self._spec = spec
        self.cgroup: Cgroup | None = None  # known once there is a pid
        self._start_time: int | None = None  # in clock ticks after boot
        self.saw_oom_kill: Callable[[], bool] = bool  # False, until an OomWatch is there
        self._kills = 0  # not answered yet
        self._kills_answered = asyncio.Event()
        self._kills_answered.set()

    async def create(self, undo: AsyncExitStack, *, deadline: float | None) -> None:
        """Make the container in the runtime; its init then waits for Start.

        For a container from an image only the streams are made, because the runtime makes and runs
        it in one step.  Each step pushes its reversal on `undo`; the caller runs it on errors.
        `deadline` is the caller's, in loop time.

        Raises:
            RuntimeFailed, Refused: with the Go shim's texts.
            TimeoutError: no client opened the other ends of the FIFOs.
        """
        scope, spec = self._scope, self._spec
        limit_s = scope.settings.create_s
        io = await scope.open_io(spec.stdio, id=spec.id, limit_s=limit_s, undo=undo)
        if spec.checkpoint:
            self._attach(io)
            return
        with scope.reaper.launching():
            # Another shim has made a container with this id: do not remove that one.
            if not scope.runtime.has_container(spec.id):
                undo.push_async_callback(self._remove)
            await scope.runtime.create(
                spec.id,
                bundle=spec.bundle,
                pid_file=paths.init_pid_file(spec.bundle),
                fds=io.fds,
                spawned=io.spawned,
                no_pivot=spec.options.no_pivot_root,
                no_new_keyring=spec.options.no_new_keyring,
                console_socket=io.console_socket,
                timeout_s=scope.settings.create_s,
            )
            pid = read_pid_file(paths.init_pid_file(spec.bundle))
            exited = scope.reaper.claim(pid)
        await io.connect(timeout_s=time_to_open(deadline))
        self._attach(io)
        self._track(pid, exited)

    def _track(self, pid: int, exited: "asyncio.Future[Exit]") -> None:
        self.cgroup = Cgroup.of(pid)
        self._start_time = start_time_of(pid)
        super()._track(pid, exited)

    async def _remove(self) -> None:
        scope = self._scope
        try:
            await scope.runtime.delete(self.id, force=True, timeout_s=scope.settings.delete_s)
        except ShimError as error:
            log.warning(
                "what is left of a failed create or restore could not be removed: %s",
                error,
                extra={"container": self.id},
            )

    def _write_record(self, ended: Exit) -> None:
        oom = ended.status == _SIGKILLED and self.saw_oom_kill()
        self._scope.records.write_init(ended, start_time=self._start_time, oom=oom)

    async def start(self) -> int:
        """Start the created init, or restore the container; return the pid.

        Raises:
            WrongState: the init is not in state CREATED.
            RuntimeFailed, Refused, TimeoutError: the state is unchanged.
        """
        scope = self._scope
        async with self._steps:
            self.check(Step.START)
            if self._life.state is State.CREATED_CHECKPOINT:
                async with scope.background.all_or_nothing(f"restore of {self.id}") as undo:
                    await self._restore(undo)
            else:
                await scope.runtime.start(self.id, timeout_s=scope.settings.start_s)
            self._life.take(Step.START)
            scope.events.emit(Started(self.id, self.pid))
            return self.pid

    async def _restore(self, undo: AsyncExitStack) -> None:
        scope, io, self._io = self._scope, self._io, None
        if io is None:  # an earlier attempt has used the streams that Create made
            io = await scope.open_io(
                self.stdio, id=self.id, limit_s=scope.settings.restore_s, undo=undo
            )
        else:
            undo.push_async_callback(io.close)
        undo.push_async_callback(self._unmake, known=scope.runtime.has_container(self.id))
        pid, exited = await checkpoints.restore(scope, self._spec, io)
        await io.connect()
        self._attach(io)
        self._track(pid, exited)

    async def _unmake(self, *, known: bool) -> None:
        """Undo a restore.  With `known` another shim made the container: do not remove it."""
        if not known and await checkpoints.unmount_leftovers(self._scope):
            await self._remove()

    async def checkpoint(self, spec: CheckpointSpec) -> None:
        """Write the container's image.  Without `spec.exit` its state does not change.

        Raises:
            WrongState: there are no processes.  RuntimeFailed, Refused: the state is unchanged.
        """
        async with self._steps:
            self.check(Step.CHECKPOINT)
            try:
                await checkpoints.dump(self._scope, spec)
            except RuntimeFailed:
                await self._freeze_as_before()
                raise

    async def _freeze_as_before(self) -> None:
        """Freeze or thaw as before a failed checkpoint: CRIU changes this, and may be killed."""
        paused = self._life.state is State.PAUSED
        if self.cgroup is None or self.exit is not None or self.cgroup.is_frozen() is paused:
            return
        if not paused:
            await self._thaw("resume after a failed checkpoint")
            return
        scope = self._scope
        try:
            await scope.runtime.pause(self.id, timeout_s=scope.settings.pause_s)
        except ShimError as error:
            what = "failed to pause again after a failed checkpoint: %s"
            log.error(what, error, extra={"container": self.id})

    async def pause(self) -> None:
        """Freeze the container's processes; meanwhile its state is PAUSING.

        Raises:
            WrongState: the container does not run.  RuntimeFailed: it still runs.
        """
        scope = self._scope
        async with self._steps:
            self.check(Step.PAUSE)
            self._life.take(Step.PAUSE)
            done = Step.PAUSE_FAILED
            try:
                await scope.runtime.pause(self.id, timeout_s=scope.settings.pause_s)
            except RuntimeFailed as error:
                if error.exit_status > _KILLED_BY:
                    # The runtime may have frozen the container, and no client could resume it then.
                    await self._thaw("resume after a pause that was killed")
                raise
            else:
                done = Step.PAUSED
            finally:
                self._life.take(done)
            scope.events.emit(Paused(self.id))

    async def resume(self) -> None:
        """Thaw the processes of a paused container.

        Raises:
            WrongState: the container is not paused.  RuntimeFailed: it is still paused.
        """
        scope = self._scope
        async with self._steps:
            self.check(Step.RESUME)
            await scope.runtime.resume(self.id, timeout_s=scope.settings.resume_s)
            self._life.take(Step.RESUME)
            scope.events.emit(Resumed(self.id))

    async def _before_exit(self) -> None:
        """Thaw the processes of a container whose init ended while paused, without an event."""
        if self._life.state is State.PAUSED:
            await self._thaw("resume an ended container")

    async def _thaw(self, why: str) -> None:
        scope = self._scope
        try:
            await scope.runtime.resume(self.id, timeout_s=scope.settings.resume_s)
        except ShimError as error:
            log.error("failed to %s: %s", why, error, extra={"container": self.id})

    async def update(self, resources: Mapping[str, object]) -> None:
        """Change the limits of the container: an OCI LinuxResources.

        Raises:
            WrongState: the container has ended.  RuntimeFailed: with the runtime's text.
        """
        scope = self._scope
        async with self._steps:
            self.check(Step.UPDATE)
            await scope.runtime.update(
                self.id, resources=resources, timeout_s=scope.settings.update_s
            )

    async def kill(self, signal: int, *, all: bool) -> None:
        """Send `signal` to the init, or to all processes of the container; takes no lock.

        Raises:
            NotFound: the init has ended.  (With `all`, its remaining processes get the signal.)
        """
        if not (all and self.exit is not None):
            self.check(Step.KILL)
        if not all and self._signal_directly(signal):
            return
        scope = self._scope
        await scope.runtime.kill(self.id, signal, all=all, timeout_s=scope.settings.kill_s)

    @contextlib.contextmanager
    def answered_first(self) -> Iterator[None]:
        """Delay the exit until each Kill that may be its cause is answered.

        Reason: after the exit event a client may close its connection, and the answer would be
        lost.  containerd's CRI plugin does this.
        """
        self._kills += 1
        self._kills_answered.clear()
        try:
            yield
        finally:
            self._kills -= 1
            if not self._kills:
                self._kills_answered.set()

    async def _publishable(self) -> None:
        await super()._publishable()
        await self._kills_answered.wait()

    def _signal_directly(self, signal: int) -> bool:
        """Send `signal` without the runtime, if that has the same effect; return whether it did.

        It has the same effect for the first process of a pid namespace: all others end with it.
        The runtime is needed if processes are frozen (it thaws them first), and for a signal that
        cannot be sent (clients get its text).  The pid cannot be reused here: only the shim reaps,
        and the exit is not recorded yet.
        """
        if self.cgroup is None or self.cgroup.is_frozen():
            return False
        if not is_namespace_init(self.pid):
            return False
        if not self._scope.runtime.has_init(self.id, self.pid):
            return False
        try:
            os.kill(self.pid, signal)
        except (OSError, OverflowError):
            return False
        return True

    async def kill_leftovers(self) -> None:
        """Kill the processes that remain after the init.

        If the init was pid 1 of a namespace, the kernel kills them, and this call is not needed.
        """
        scope = self._scope
        try:
            await scope.runtime.kill(self.id, 9, all=True, timeout_s=scope.settings.kill_s)
        except ShimError as error:
            log.error("failed to kill init's children: %s", error, extra={"container": self.id})

    async def delete(self) -> Exit | None:
        """Remove the container (ended or never started) from the runtime; return its exit.

        Raises:
            WrongState: it runs.  RuntimeFailed: the state is unchanged, and Delete can be repeated.
        """
        scope = self._scope
        await self.settled()
        async with self._steps:
            self.check(Step.DELETE)
            ended = self.exit
            await self._close_io()
            await scope.runtime.delete(self.id, timeout_s=scope.settings.delete_s)
            if self.cgroup is not None:
                self.cgroup.remove()
            await self._unmount()
            self._life.take(Step.DELETE)
            self._release()
            return ended

    async def _unmount(self) -> None:
        if not self._scope.rootfs:
            return
        try:
            await rootfs_mounts.unmount_recursive(self._scope.rootfs, self._scope.reaper)
        except (OSError, Refused) as error:
            raise Refused(f"failed rootfs umount: {error}") from error
