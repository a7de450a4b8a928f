"""A typed client of the Task API, version 2 or 3, on one connection to a shim."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from google.protobuf import any_pb2
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from protos import runc_pb2, task_types_pb2, task_v2_pb2, types_pb2
from shimv2.shimctl.reply import pack
from shimv2.values.model import Exit, Mount, ProcessState, Stdio
from ttrpc import Client

R = TypeVar("R", bound=Message)

PROCESS_URL: Final = "types.containerd.io/opencontainers/runtime-spec/1/Process"
RESOURCES_URL: Final = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources"


@dataclass(frozen=True, slots=True)
class Connected:
    shim_pid: int
    task_pid: int  # 0: the shim does not know the container


class TaskClient:
    """One connection to a shim's Task service.

    The messages of versions 2 and 3 have the same encoding; only the service's name differs.

    Raises:
        ttrpc.StatusError: the shim answered with an error, or the timeout expired.
        ttrpc.ConnectionClosed: the connection ended.
        TimeoutError: the timeout expired while connecting.
    """

    def __init__(self, client: Client, *, version: int = 2) -> None:
        self.client = client
        self.service = f"containerd.task.v{version}.Task"

    @classmethod
    async def connect(cls, path: str, *, version: int = 2, timeout_s: float = 5.0) -> "TaskClient":
        return cls(await Client.connect(path, timeout_s=timeout_s), version=version)

    async def close(self) -> None:
        await self.client.close()

    async def call(
        self, method: str, request: Message, response: type[R], timeout_s: float | None = None
    ) -> R:
        return await self.client.call(self.service, method, request, response, timeout_s=timeout_s)

    async def create(
        self,
        container_id: str,
        bundle: str,
        *,
        stdio: Stdio | None = None,
        rootfs: Sequence[Mount] = (),
        options: any_pb2.Any | None = None,
        checkpoint: str = "",
        timeout_s: float | None = None,
    ) -> int:
        """Create the container and return its init's pid: 0 when it comes from a checkpoint."""
        stdio = stdio or Stdio()
        request = task_v2_pb2.CreateTaskRequest(
            id=container_id,
            bundle=bundle,
            rootfs=[_mount(mount) for mount in rootfs],
            terminal=stdio.terminal,
            stdin=stdio.stdin,
            stdout=stdio.stdout,
            stderr=stdio.stderr,
            options=options,
            checkpoint=checkpoint,
        )
        answer = await self.call(
            "Create", request, task_v2_pb2.CreateTaskResponse, timeout_s=timeout_s
        )
        return answer.pid

    async def start(
        self, container_id: str, exec_id: str = "", *, timeout_s: float | None = None
    ) -> int:
        request = task_v2_pb2.StartRequest(id=container_id, exec_id=exec_id)
        answer = await self.call("Start", request, task_v2_pb2.StartResponse, timeout_s)
        return answer.pid

    async def exec(
        self,
        container_id: str,
        exec_id: str,
        process: Mapping[str, object],
        *,
        stdio: Stdio | None = None,
    ) -> None:
        """Register an additional process; it runs only after Start."""
        stdio = stdio or Stdio()
        request = task_v2_pb2.ExecProcessRequest(
            id=container_id,
            exec_id=exec_id,
            terminal=stdio.terminal,
            stdin=stdio.stdin,
            stdout=stdio.stdout,
            stderr=stdio.stderr,
            spec=pack(PROCESS_URL, json.dumps(process).encode()),
        )
        await self.call("Exec", request, Empty)

    async def wait(
        self, container_id: str, exec_id: str = "", *, timeout_s: float | None = None
    ) -> Exit:
        """Wait for the process's end.  The answer has no pid: it is 0 here."""
        request = task_v2_pb2.WaitRequest(id=container_id, exec_id=exec_id)
        answer = await self.call("Wait", request, task_v2_pb2.WaitResponse, timeout_s)
        return Exit(0, answer.exit_status, _ns(answer.exited_at))

    async def state(
        self, container_id: str, exec_id: str = "", *, timeout_s: float | None = None
    ) -> ProcessState:
        request = task_v2_pb2.StateRequest(id=container_id, exec_id=exec_id)
        answer = await self.call("State", request, task_v2_pb2.StateResponse, timeout_s)
        status = task_types_pb2.Status.Name(answer.status)
        stdio = Stdio(answer.stdin, answer.stdout, answer.stderr, answer.terminal)
        # For a running process the time is Go's zero time, the year 1: a negative number.
        ended = answer.exited_at.seconds > 0
        how = Exit(answer.pid, answer.exit_status, _ns(answer.exited_at)) if ended else None
        return ProcessState(answer.id, answer.bundle, answer.pid, status, stdio, how)

    async def pids(self, container_id: str) -> list[int]:
        request = task_v2_pb2.PidsRequest(id=container_id)
        answer = await self.call("Pids", request, task_v2_pb2.PidsResponse)
        return [process.pid for process in answer.processes]

    async def kill(
        self, container_id: str, signal: int, exec_id: str = "", *, everything: bool = False
    ) -> None:
        request = task_v2_pb2.KillRequest(
            id=container_id, exec_id=exec_id, signal=signal, all=everything
        )
        await self.call("Kill", request, Empty)

    async def close_io(self, container_id: str, exec_id: str = "") -> None:
        request = task_v2_pb2.CloseIORequest(id=container_id, exec_id=exec_id, stdin=True)
        await self.call("CloseIO", request, Empty)

    async def delete(
        self, container_id: str, exec_id: str = "", *, timeout_s: float | None = None
    ) -> Exit:
        request = task_v2_pb2.DeleteRequest(id=container_id, exec_id=exec_id)
        answer = await self.call("Delete", request, task_v2_pb2.DeleteResponse, timeout_s)
        return Exit(answer.pid, answer.exit_status, _ns(answer.exited_at))

    async def connected(self, container_id: str, *, timeout_s: float | None = 5.0) -> Connected:
        request = task_v2_pb2.ConnectRequest(id=container_id)
        answer = await self.call("Connect", request, task_v2_pb2.ConnectResponse, timeout_s)
        return Connected(answer.shim_pid, answer.task_pid)

    async def shutdown(self, container_id: str, *, timeout_s: float | None = 3.0) -> None:
        request = task_v2_pb2.ShutdownRequest(id=container_id)
        await self.call("Shutdown", request, Empty, timeout_s)

    async def pause(self, container_id: str) -> None:
        await self.call("Pause", task_v2_pb2.PauseRequest(id=container_id), Empty)

    async def resume(self, container_id: str) -> None:
        await self.call("Resume", task_v2_pb2.ResumeRequest(id=container_id), Empty)

    async def resize_pty(
        self, container_id: str, exec_id: str = "", *, width: int, height: int
    ) -> None:
        request = task_v2_pb2.ResizePtyRequest(
            id=container_id, exec_id=exec_id, width=width, height=height
        )
        await self.call("ResizePty", request, Empty)

    async def update(self, container_id: str, resources: Mapping[str, object]) -> None:
        request = task_v2_pb2.UpdateTaskRequest(
            id=container_id, resources=pack(RESOURCES_URL, json.dumps(resources).encode())
        )
        await self.call("Update", request, Empty)

    async def checkpoint(
        self, container_id: str, path: str, options: runc_pb2.CheckpointOptions | None = None
    ) -> None:
        """Write a checkpoint of the container to the directory `path`."""
        packed = None
        if options is not None:
            packed = pack(options.DESCRIPTOR.full_name, options.SerializeToString())
        request = task_v2_pb2.CheckpointTaskRequest(id=container_id, path=path, options=packed)
        await self.call("Checkpoint", request, Empty)

    async def stats(self, container_id: str) -> any_pb2.Any:
        request = task_v2_pb2.StatsRequest(id=container_id)
        return (await self.call("Stats", request, task_v2_pb2.StatsResponse)).stats


def _mount(mount: Mount) -> types_pb2.Mount:
    return types_pb2.Mount(
        type=mount.type, source=mount.source, target=mount.target, options=mount.options
    )


def _ns(stamp: Timestamp) -> int:
    return stamp.seconds * 1_000_000_000 + stamp.nanos
