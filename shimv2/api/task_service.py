"""The Task API: a message in, one call of the domain, a message out."""

import asyncio
import os
from collections.abc import Callable, Coroutine
from typing import Any, Final

from google.protobuf.empty_pb2 import Empty

from protos import runc_pb2, task_types_pb2
from protos import task_v3_pb2 as pb
from shimv2.aio.background import Verbs
from shimv2.api import metrics, requests
from shimv2.api.events import exited_at
from shimv2.api.publisher import Publisher
from shimv2.gocompat.anyurl import pack
from shimv2.task.containers import Containers
from shimv2.task.init_process import InitProcess
from shimv2.values.errors import Refused
from shimv2.values.lifecycle import Step
from shimv2.values.model import Exit
from ttrpc import Call, Registry

SERVICES: Final = ("containerd.task.v2.Task", "containerd.task.v3.Task")
"""One set of handlers for both: the messages are identical on the wire, field by field."""


class TaskService:
    """Handlers of `containerd.task.v2.Task` and `v3`.

    Handlers that answer from memory are plain functions, and the server answers in the callback
    that read the request.  `shutdown` is called when a client asks for it and no container is left.
    """

    def __init__(
        self,
        containers: Containers,
        *,
        verbs: Verbs,
        publisher: Publisher,
        shutdown: Callable[[], Coroutine[Any, Any, None]],
    ) -> None:
        self._containers = containers
        self._verbs = verbs
        self._publisher = publisher
        self._shutdown = shutdown

    def register(self, registry: Registry) -> None:
        for service in SERVICES:
            registry.unary(service, "State", pb.StateRequest, self.state)
            registry.unary(service, "Create", pb.CreateTaskRequest, self.create)
            registry.unary(service, "Start", pb.StartRequest, self.start)
            registry.unary(service, "Delete", pb.DeleteRequest, self.delete)
            registry.unary(service, "Pids", pb.PidsRequest, self.pids)
            registry.unary(service, "Kill", pb.KillRequest, self.kill)
            registry.unary(service, "Exec", pb.ExecProcessRequest, self.exec)
            registry.unary(service, "ResizePty", pb.ResizePtyRequest, self.resize_pty)
            registry.unary(service, "CloseIO", pb.CloseIORequest, self.close_io)
            registry.unary(service, "Wait", pb.WaitRequest, self.wait)
            registry.unary(service, "Connect", pb.ConnectRequest, self.connect)
            registry.unary(service, "Shutdown", pb.ShutdownRequest, self.shutdown)
            registry.unary(service, "Pause", pb.PauseRequest, self.pause)
            registry.unary(service, "Resume", pb.ResumeRequest, self.resume)
            registry.unary(service, "Update", pb.UpdateTaskRequest, self.update)
            registry.unary(service, "Stats", pb.StatsRequest, self.stats)
            registry.unary(service, "Checkpoint", pb.CheckpointTaskRequest, self.checkpoint)

    # --- answered from memory ------------------------------------------------------------------

    def state(self, request: pb.StateRequest, _: Call) -> pb.StateResponse:
        state = self._containers.get(request.id).state(request.exec_id)
        return pb.StateResponse(
            id=state.id,
            bundle=state.bundle,
            pid=state.pid,
            status=getattr(task_types_pb2, state.status),
            stdin=state.stdio.stdin,
            stdout=state.stdio.stdout,
            stderr=state.stdio.stderr,
            terminal=state.stdio.terminal,
            exit_status=state.exit.status if state.exit else 0,
            exited_at=exited_at(state.exit),
        )

    def connect(self, request: pb.ConnectRequest, _: Call) -> pb.ConnectResponse:
        """Reply with both pids; never an error, because containerd uses it as a liveness check."""
        pid = self._containers.pid_of(request.id)
        return pb.ConnectResponse(shim_pid=os.getpid(), task_pid=pid)

    def pids(self, request: pb.PidsRequest, _: Call) -> pb.PidsResponse:
        processes = []
        for pid, exec_id in self._containers.get(request.id).pids():
            info = pack(runc_pb2.ProcessDetails(exec_id=exec_id)) if exec_id else None
            processes.append(task_types_pb2.ProcessInfo(pid=pid, info=info))
        return pb.PidsResponse(processes=processes)

    def stats(self, request: pb.StatsRequest, _: Call) -> pb.StatsResponse:
        stats = self._containers.get(request.id).stats()
        return pb.StatsResponse(stats=pack(metrics.message(stats)))

    def exec(self, request: pb.ExecProcessRequest, _: Call) -> Empty:
        container = self._containers.get(request.id)
        self._publisher.check_room()
        container.add_exec(requests.exec_spec(request))
        return Empty()

    def resize_pty(self, request: pb.ResizePtyRequest, _: Call) -> Empty:
        """Set the terminal's size; without a terminal do nothing, and return no error."""
        process = self._containers.get(request.id).process(request.exec_id)
        process.resize(request.width, request.height)
        return Empty()

    def close_io(self, request: pb.CloseIORequest, _: Call) -> Empty:
        """Close stdin; the request's flag is ignored, as in the reference."""
        self._containers.get(request.id).process(request.exec_id).close_stdin()
        return Empty()

    # --- verbs ---------------------------------------------------------------------------------

    async def create(self, request: pb.CreateTaskRequest, call: Call) -> pb.CreateTaskResponse:
        """Create a container.  If the caller leaves, roll back: containerd forgets it then."""
        self._publisher.check_room()
        self._verbs.forget(_delete_key(request.id))
        container = await self._containers.create(
            requests.create_spec(request), deadline=call.deadline
        )
        return pb.CreateTaskResponse(pid=container.init.pid)

    async def start(self, request: pb.StartRequest, call: Call) -> pb.StartResponse:
        container = self._containers.get(request.id)
        if request.exec_id:
            return pb.StartResponse(
                pid=await container.start_exec(request.exec_id, deadline=call.deadline)
            )
        if call.deadline is not None and call.deadline <= asyncio.get_running_loop().time():
            # Go's text if a call ends before its child is spawned.  The state is unchanged.
            raise Refused("OCI runtime start failed: context deadline exceeded: <nil>")
        key = ("start", request.id)
        return pb.StartResponse(pid=await self._verbs.run(key, container.start))

    async def delete(self, request: pb.DeleteRequest, _: Call) -> pb.DeleteResponse:
        id_, exec_id = request.id, request.exec_id
        key = _delete_key(id_, exec_id)
        if exec_id:
            container = self._containers.get(id_)
            pid, ended = await self._verbs.run(key, lambda: container.delete_exec(exec_id))
        else:
            pid, ended = await self._verbs.run(key, lambda: self._containers.delete(id_), keep=True)
        return pb.DeleteResponse(
            pid=pid, exit_status=ended.status if ended else 0, exited_at=exited_at(ended)
        )

    async def kill(self, request: pb.KillRequest, _: Call) -> Empty:
        container = self._containers.get(request.id)
        if request.exec_id:
            container.exec(request.exec_id).kill(request.signal)
        else:
            init: InitProcess = container.init
            key = ("kill", request.id, request.signal, request.all)
            with init.answered_first():  # the answer is written as this returns
                await self._verbs.run(key, lambda: init.kill(request.signal, all=request.all))
        return Empty()

    async def pause(self, request: pb.PauseRequest, _: Call) -> Empty:
        init = self._containers.get(request.id).init
        self._publisher.check_room()  # not in `resume`: each follows a Pause
        await self._verbs.run(("pause", request.id), init.pause)
        return Empty()

    async def resume(self, request: pb.ResumeRequest, _: Call) -> Empty:
        init = self._containers.get(request.id).init
        await self._verbs.run(("resume", request.id), init.resume)
        return Empty()

    async def update(self, request: pb.UpdateTaskRequest, _: Call) -> Empty:
        init = self._containers.get(request.id).init
        init.check(Step.UPDATE)  # before the resources are parsed, as in the reference
        resources = requests.resources(request)
        key = ("update", request.id, request.resources.value)  # joined only for the same resources
        await self._verbs.run(key, lambda: init.update(resources))
        return Empty()

    async def checkpoint(self, request: pb.CheckpointTaskRequest, _: Call) -> Empty:
        init = self._containers.get(request.id).init
        spec = requests.checkpoint_spec(request)
        await self._verbs.run(("checkpoint", request.id, spec), lambda: init.checkpoint(spec))
        return Empty()

    async def wait(self, request: pb.WaitRequest, _: Call) -> pb.WaitResponse:
        process = self._containers.get(request.id).process(request.exec_id)
        ended: Exit | None = await process.wait()
        return pb.WaitResponse(exit_status=ended.status if ended else 0, exited_at=exited_at(ended))

    async def shutdown(self, _request: pb.ShutdownRequest, _: Call) -> Empty:
        """End the shim if it has no container; otherwise do nothing, and return no error."""
        await self._verbs.run("shutdown", self._shut_down_if_empty)
        return Empty()

    async def _shut_down_if_empty(self) -> None:
        await self._containers.settled()
        if not self._containers:
            await self._shutdown()
        else:
            self._containers.call_if_given_up(self._shutdown)


def _delete_key(container_id: str, exec_id: str = "") -> tuple[str, ...]:
    return ("delete", container_id, exec_id)
