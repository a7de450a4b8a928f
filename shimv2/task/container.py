"""One container: its rootfs, its init, its execs, and the order in which exits are published."""

import asyncio
import json
import os
from collections.abc import Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from typing import Any, Final

from shimv2.aio.background import Background
from shimv2.cgroups import v1, v2
from shimv2.cgroups.oom import OomWatch
from shimv2.kernel.reaper import Reaper
from shimv2.mounts import rootfs as rootfs_mounts
from shimv2.runtime.criu import CriuOption
from shimv2.runtime.runc import Runc
from shimv2.task.exec_process import ExecProcess
from shimv2.task.exits import ExitRecords
from shimv2.task.init_process import InitProcess
from shimv2.task.process import Process, Scope
from shimv2.values import paths
from shimv2.values.errors import AlreadyExists, FailedPrecondition, NotFound, Refused
from shimv2.values.lifecycle import State, Step
from shimv2.values.model import (
    Created,
    CreateSpec,
    Deleted,
    EventSink,
    ExecAdded,
    ExecSpec,
    Exit,
    Oom,
    ProcessState,
)
from shimv2.values.settings import IoPolicy, Settings, io_policy


@dataclass(frozen=True, slots=True)
class Host:
    """The parts of the daemon that each container uses."""

    namespace: str
    reaper: Reaper
    events: EventSink
    background: Background
    settings: Settings
    criu_option: CriuOption


_STATUS: Final = {State.DELETED: "STOPPED", State.CREATED_CHECKPOINT: "CREATED"}


class Container:
    """A container that exists in the runtime: from Create's success to Delete's."""

    def __init__(self, spec: CreateSpec, scope: Scope, *, own_pid_namespace: bool) -> None:
        self.spec = spec
        self.init = InitProcess(scope, spec)
        self.execs: dict[str, ExecProcess] = {}
        self._scope = scope
        self._own_pid_namespace = own_pid_namespace
        self._oom: OomWatch | None = None
        self._running_execs = 0  # execs from their Start until their exit is published
        self._execs_idle = asyncio.Event()
        self._execs_idle.set()

    @classmethod
    async def create(
        cls, spec: CreateSpec, host: Host, undo: AsyncExitStack, *, deadline: float | None
    ) -> "Container":
        """Make the container.  Each step pushes its reversal on `undo`, for the caller to run.

        Raises:
            RuntimeFailed, Refused, OSError: with the Go shim's texts.
        """
        rootfs = _prepare_bundle(spec)
        if rootfs:
            await rootfs_mounts.mount_all(spec.rootfs, rootfs, host.reaper)
            undo.push_async_callback(rootfs_mounts.unmount_all, spec.rootfs, rootfs, host.reaper)
        config = _config(spec.bundle)
        policy = io_policy(_annotations(config), host.settings)
        records = ExitRecords(spec.bundle, spec.id)
        undo.callback(records.close)
        scope = _scope(spec, host, records, rootfs, policy)
        self = cls(spec, scope, own_pid_namespace=_has_own_pid_namespace(config))
        await self.init.create(undo, deadline=deadline)
        return self

    def announce(self) -> None:
        """Publish that the container was made, and start to wait for the exit of its init."""
        spec, scope = self.spec, self._scope
        scope.events.emit(
            Created(spec.id, spec.bundle, spec.rootfs, spec.stdio, spec.checkpoint, self.init.pid)
        )
        self._watch_cgroup()
        scope.background.start(self._watch_init(), what=f"watch of {spec.id}")

    def _watch_cgroup(self) -> None:
        """Start to watch the cgroup for OOM kills.  Call it once the cgroup exists."""
        cgroup, scope, id_ = self.init.cgroup, self._scope, self.spec.id
        if cgroup is None or self._oom is not None:
            return
        cgroup.enable_controllers()
        self._oom = OomWatch(cgroup, lambda: scope.events.emit(Oom(id_)), container_id=id_)
        self.init.saw_oom_kill = self._oom.has_killed

    # --- the order of exits --------------------------------------------------------------------

    async def _watch_init(self) -> None:
        if await self.init.recorded() is None:
            return  # deleted before it ran
        if self.init.state is not State.DELETED and not self._own_pid_namespace:
            await self.init.kill_leftovers()
        await self._execs_idle.wait()
        await self.init.publish_exit(self._look_for_oom)
        self._end_oom_watch()

    async def _watch_exec(self, process: ExecProcess) -> None:
        if await process.recorded() is not None:  # None: the container was deleted under it
            await process.publish_exit(self._look_for_oom)
        self._exec_done()

    def _look_for_oom(self) -> None:
        if self._oom:
            self._oom.check()

    def _end_oom_watch(self) -> None:
        if self._oom:
            self._oom.close()

    def _exec_done(self) -> None:
        self._running_execs -= 1
        if not self._running_execs:
            self._execs_idle.set()

    # --- verbs ---------------------------------------------------------------------------------

    def process(self, exec_id: str) -> Process:
        """Return the exec of that id, or the init if the id is empty.

        Raises:
            NotFound: there is no such exec.
        """
        return self.exec(exec_id) if exec_id else self.init

    def exec(self, exec_id: str) -> ExecProcess:
        try:
            return self.execs[exec_id]
        except KeyError:
            raise NotFound(f"process does not exist {exec_id}") from None

    def add_exec(self, spec: ExecSpec) -> None:
        """Record an additional process; nothing runs yet.

        Raises:
            AlreadyExists: the id is in use.  WrongState: the container is paused or stopped.
        """
        if spec.id in self.execs:
            raise AlreadyExists(f"id {spec.id}")
        self.init.check(Step.EXEC)
        self.execs[spec.id] = ExecProcess(self._scope, spec)
        self._scope.events.emit(ExecAdded(self.spec.id, spec.id))

    async def start(self) -> int:
        """Run the init, or restore a container that has an image; return the pid."""
        pid = await self.init.start()
        self._watch_cgroup()
        return pid

    async def start_exec(self, exec_id: str, *, deadline: float | None = None) -> int:
        """Run a recorded exec; return its pid.

        Raises:
            FailedPrecondition: the init has ended: no exec may start any more.
        """
        process = self.exec(exec_id)
        if self.init.exit is not None:
            raise FailedPrecondition(f"container {self.spec.id} init process is not running")
        self._running_execs += 1  # before the runtime runs: the init's exit waits for this one
        self._execs_idle.clear()
        try:
            pid = await process.start(deadline=deadline)
        except BaseException:
            self._exec_done()
            raise
        self._scope.background.start(self._watch_exec(process), what=f"watch of exec {exec_id}")
        return pid

    async def delete_exec(self, exec_id: str) -> tuple[int, Exit | None]:
        process = self.exec(exec_id)
        ended = await process.delete()
        if self.execs.get(exec_id) is process:
            del self.execs[exec_id]
        return process.pid, ended

    async def delete(self) -> tuple[int, Exit | None]:
        """Remove the container; return the init's pid and exit (None: it never ran)."""
        ended = await self.init.delete()
        self._end_oom_watch()
        for process in list(self.execs.values()):
            await process.abandon()
        self.execs.clear()
        self._scope.records.close()
        self._scope.events.emit(Deleted(self.spec.id, self.init.pid, ended))
        return self.init.pid, ended

    # --- answers from memory -------------------------------------------------------------------

    def state(self, exec_id: str) -> ProcessState:
        """Return the answer of State.  The execs of a paused container are paused too."""
        process = self.process(exec_id)
        state = process.state
        if exec_id and self.init.state in (State.PAUSED, State.PAUSING):
            state = self.init.state
        return ProcessState(
            id=process.id,
            bundle=self.spec.bundle,
            pid=process.pid,
            status=_STATUS.get(state, state.name),
            stdio=process.stdio,
            exit=process.exit,
        )

    def pids(self) -> list[tuple[int, str]]:
        """List (pid, exec id or "") of the container's processes, from its cgroup.

        Without a cgroup (rootless) the list has the processes that the shim started.  The list is
        never empty: a daemon kills a shim with an empty list, as a leaked one.

        Raises:
            Refused: the container is not restored yet; with runc's text.
        """
        if not self.init.pid:
            raise Refused("container does not exist")
        execs = {process.pid: exec_id for exec_id, process in self.execs.items() if process.pid}
        if self.init.cgroup:
            found = self.init.cgroup.pids() or [self.init.pid]
        else:
            running = [each.pid for each in self.execs.values() if each.pid and not each.exit]
            found = [self.init.pid, *running]
        return [(pid, execs.get(pid, "")) for pid in found]

    def stats(self) -> v1.Stats | v2.Stats:
        """Return the counters of the container's cgroup, in any state of the container.

        Raises:
            NotFound: the container does not have its own cgroup.
        """
        if self.init.cgroup is None:
            raise NotFound("cgroup does not exist")
        return self.init.cgroup.stats()


def _scope(
    spec: CreateSpec, host: Host, records: ExitRecords, rootfs: str, policy: IoPolicy
) -> Scope:
    options = spec.options
    return Scope(
        container_id=spec.id,
        namespace=host.namespace,
        bundle=spec.bundle,
        rootfs=rootfs,
        runtime=Runc(
            reaper=host.reaper,
            binary=options.binary_name,
            root=paths.runtime_root(options.root, host.namespace),
            log_path=paths.runtime_log(spec.bundle),
            systemd_cgroup=options.systemd_cgroup,
            criu_path=options.criu_path,
            criu_option=host.criu_option,
        ),
        reaper=host.reaper,
        background=host.background,
        events=host.events,
        records=records,
        settings=host.settings,
        io_uid=options.io_uid,
        io_gid=options.io_gid,
        io_policy=policy,
    )


def _prepare_bundle(spec: CreateSpec) -> str:
    """Write the files for `delete`, make the mount point; return its path, "" without a mount."""
    rootfs = ""
    if spec.rootfs:
        rootfs = paths.rootfs(spec.bundle)
        with suppress(FileExistsError):
            os.mkdir(rootfs, 0o711)
    _write_private(paths.options_file(spec.bundle), spec.options.to_json())
    _write_private(paths.runtime_file(spec.bundle), spec.options.binary_name)
    return rootfs


def _write_private(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with open(fd, "w", encoding="utf-8") as file:
        file.write(text)


def _config(bundle: str) -> Any:
    """Parse the container's configuration; None if it is not valid: the runtime reports why."""
    try:
        with open(paths.config_file(bundle), "rb") as file:
            return json.load(file)
    except (OSError, ValueError, RecursionError):
        return None


def _annotations(config: Any) -> Mapping[str, str]:
    try:
        items = config["annotations"].items()
    except (KeyError, TypeError, AttributeError):
        return {}
    return {key: value for key, value in items if isinstance(value, str)}


def _has_own_pid_namespace(config: Any) -> bool:
    """Return whether the kernel ends the container's processes together with its init.

    If the configuration is not valid, the result is False: then the shim kills all processes, as
    the Go shim does.
    """
    try:
        namespaces = config["linux"]["namespaces"]
        return any(each["type"] == "pid" and not each.get("path") for each in namespaces)
    except (KeyError, TypeError, AttributeError):
        return False
