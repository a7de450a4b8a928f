"""The Task API in blocking calls, one by one or many at once on one connection.

An event loop in the client would take more time than the calls that are measured.
"""

import json
import os
import select
import socket
import time
from collections.abc import Iterable, Sequence
from typing import Final, TypeVar

from google.protobuf import any_pb2
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from protos import task_v2_pb2, types_pb2
from shimv2.shimctl import spec
from shimv2.shimctl.reply import Reply, pack
from shimv2.shimctl.task import PROCESS_URL
from shimv2.values.model import Mount, Stdio
from ttrpc import BlockingClient, StatusError
from ttrpc.client import result
from ttrpc.connection import ClientConnection
from ttrpc.events import ResponseReceived
from ttrpc.wire import HEADER

R = TypeVar("R", bound=Message)

_CONNECT_LIMIT_S: Final = 10.0
_CALL_LIMIT_S: Final = 180.0
_READ_BYTES: Final = 64 * 1024
_ID_STEP: Final = 2  # a client's streams have odd ids


class TaskCalls:
    """One connection to a shim's Task service.

    Every call raises what `ttrpc.BlockingClient.call` does.
    """

    def __init__(self, reply: Reply) -> None:
        self.service = f"containerd.task.v{reply.version}.Task"
        self._client = BlockingClient.connect(reply.path, timeout_s=_CONNECT_LIMIT_S)

    def close(self) -> None:
        self._client.close()

    def call(self, method: str, request: Message, response: type[R]) -> R:
        return self._client.call(self.service, method, request, response, timeout_s=_CALL_LIMIT_S)

    def create(
        self,
        container_id: str,
        bundle: str,
        *,
        stdio: Stdio,
        rootfs: Sequence[Mount],
        options: any_pb2.Any | None,
    ) -> int:
        request = task_v2_pb2.CreateTaskRequest(
            id=container_id,
            bundle=bundle,
            rootfs=[
                types_pb2.Mount(type=m.type, source=m.source, target=m.target, options=m.options)
                for m in rootfs
            ],
            terminal=stdio.terminal,
            stdin=stdio.stdin,
            stdout=stdio.stdout,
            stderr=stdio.stderr,
            options=options,
        )
        return self.call("Create", request, task_v2_pb2.CreateTaskResponse).pid

    def start(self, container_id: str, exec_id: str = "") -> int:
        request = task_v2_pb2.StartRequest(id=container_id, exec_id=exec_id)
        return self.call("Start", request, task_v2_pb2.StartResponse).pid

    def exec(self, container_id: str, exec_id: str, *args: str, stdio: Stdio) -> None:
        self.call("Exec", exec_request(container_id, exec_id, *args, stdio=stdio), Empty)

    def wait(self, container_id: str, exec_id: str = "") -> int:
        request = task_v2_pb2.WaitRequest(id=container_id, exec_id=exec_id)
        return self.call("Wait", request, task_v2_pb2.WaitResponse).exit_status

    def kill(self, container_id: str, number: int) -> None:
        self.call("Kill", task_v2_pb2.KillRequest(id=container_id, signal=number), Empty)

    def close_stdin(self, container_id: str) -> None:
        self.call("CloseIO", task_v2_pb2.CloseIORequest(id=container_id, stdin=True), Empty)

    def delete(self, container_id: str, exec_id: str = "") -> None:
        request = task_v2_pb2.DeleteRequest(id=container_id, exec_id=exec_id)
        self.call("Delete", request, task_v2_pb2.DeleteResponse)

    def shim_pid(self, container_id: str) -> int:
        request = task_v2_pb2.ConnectRequest(id=container_id)
        return self.call("Connect", request, task_v2_pb2.ConnectResponse).shim_pid

    def status(self, container_id: str) -> int:
        request = task_v2_pb2.StateRequest(id=container_id)
        return self.call("State", request, task_v2_pb2.StateResponse).status

    def shutdown(self, container_id: str) -> None:
        self.call("Shutdown", task_v2_pb2.ShutdownRequest(id=container_id), Empty)


def exec_request(
    container_id: str, exec_id: str, *args: str, stdio: Stdio
) -> task_v2_pb2.ExecProcessRequest:
    process = json.dumps(spec.process(spec.Wanted(args))).encode()
    return task_v2_pb2.ExecProcessRequest(
        id=container_id,
        exec_id=exec_id,
        stdin=stdio.stdin,
        stdout=stdio.stdout,
        stderr=stdio.stderr,
        spec=pack(PROCESS_URL, process),
    )


class Burst:
    """A connection with many calls in flight at once, as in a daemon."""

    def __init__(self, reply: Reply) -> None:
        self._service = f"containerd.task.v{reply.version}.Task"
        self._connection = ClientConnection()
        self._sock = _connected(reply.path)

    def close(self) -> None:
        self._sock.close()

    def calls(self, method: str, requests: Sequence[Message], response: type[Message]) -> None:
        """Make all calls, and wait for all answers.

        Raises:
            StatusError: a call was refused.
            TimeoutError: a call was not answered.
        """
        frames = [
            self._connection.request(self._service, method, request.SerializeToString())[1]
            for request in requests
        ]
        self._sock.sendall(b"".join(frames))
        left = len(requests)
        while left:
            while (event := self._connection.next_event()) is None:
                chunk = self._sock.recv(_READ_BYTES)
                if not chunk:
                    raise ConnectionError(f"the connection ended with {left} calls of {method}")
                self._connection.feed(chunk)
            if isinstance(event, ResponseReceived):
                result(event, response)
                left -= 1


class Reading:
    """A client that reads streams at once while it waits for an answer."""

    def __init__(self, reply: Reply, streams: Iterable[int]) -> None:
        self.came = b""
        self._service = f"containerd.task.v{reply.version}.Task"
        self._connection = ClientConnection()
        self._sock = _connected(reply.path)
        self._poll = select.epoll()
        self._poll.register(self._sock, select.EPOLLIN)
        for fd in streams:
            self._poll.register(fd, select.EPOLLIN)

    def close(self) -> None:
        self._poll.close()
        self._sock.close()

    def call(self, method: str, request: Message, response: type[Message]) -> None:
        """Make a call and wait for the answer.

        Raises:
            StatusError: it was refused.
            TimeoutError: neither an answer nor stream data arrived.
        """
        frame = self._connection.request(self._service, method, request.SerializeToString())[1]
        self._sock.sendall(frame)
        while (event := self._connection.next_event()) is None:
            ready = self._poll.poll(_CALL_LIMIT_S)
            if not ready:
                raise TimeoutError(f"no answer to {method} within {_CALL_LIMIT_S} s")
            for fd, _ in ready:
                if fd == self._sock.fileno():
                    self._connection.feed(self._sock.recv(_READ_BYTES))
                elif chunk := os.read(fd, _READ_BYTES):
                    self.came += chunk
                else:
                    self._poll.unregister(fd)
        assert isinstance(event, ResponseReceived), f"{event} is no answer to {method}"
        result(event, response)


class Repeated:
    """Repeats one small call.  Its bytes are encoded in advance, and its answers are not decoded.

    So the time is that of the shim and the kernel; the client's own work would distort the ratio.
    """

    def __init__(
        self, reply: Reply, method: str, request: Message, response: type[Message]
    ) -> None:
        service = f"containerd.task.v{reply.version}.Task"
        self.sock = _connected(reply.path)
        connection = ClientConnection()
        self._id, frame = connection.request(service, method, request.SerializeToString())
        self._length, _, self._kind, self._flags = HEADER.unpack_from(frame)
        self._body = frame[HEADER.size :]
        self.sock.sendall(frame)
        connection.feed(self.sock.recv(_READ_BYTES))
        event = connection.next_event()
        if not isinstance(event, ResponseReceived):
            raise StatusError(2, f"no answer to {method}")
        result(event, response)  # the first answer is checked

    def close(self) -> None:
        self.sock.close()

    def frames(self, count: int) -> list[bytes]:
        """Return the bytes of the next calls."""
        ids = range(self._id + _ID_STEP, self._id + _ID_STEP * (count + 1), _ID_STEP)
        self._id += _ID_STEP * count
        return [
            HEADER.pack(self._length, number, self._kind, self._flags) + self._body
            for number in ids
        ]

    def times(self, count: int) -> list[float]:
        """Make calls one after the other; return the seconds of each."""
        send, recv, clock = self.sock.send, self.sock.recv, time.perf_counter
        taken = []
        for frame in self.frames(count):
            began = clock()
            send(frame)
            recv(_READ_BYTES)
            taken.append(clock() - began)
        return taken


def _connected(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(_CALL_LIMIT_S)
        sock.connect(os.fspath(path))
    except BaseException:
        sock.close()
        raise
    return sock
