"""One container and its shim, with the calls that containerd makes, in its order."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from google.protobuf import any_pb2

from shimv2.shimctl.bundle import Bundle
from shimv2.shimctl.launch import Binary, Deleted
from shimv2.shimctl.reply import Reply
from shimv2.shimctl.streams import Output
from shimv2.shimctl.task import TaskClient
from shimv2.values.model import Exit, Mount, Stdio
from ttrpc import ConnectionClosed, StatusError

_CONNECT_LIMIT_S = 5.0
_SHUTDOWN_LIMIT_S = 3.0  # containerd's io.containerd.timeout.shim.shutdown


class ShimGone(Exception):
    """No process listens at the address of a container's shim: only `delete` can clean up."""


@dataclass(frozen=True, slots=True)
class Removed:
    """The container's exit as reported by its shim, if it still answered, and by `delete`."""

    task: Exit | None
    action: Deleted

    @property
    def exit(self) -> Exit:
        return self.task or self.action.exit


class Container:
    """A bundle, its shim and the connection to the shim.

    `started` makes one with a new or a joined shim, `found` one of another client's container.  It
    owns the log FIFO's fd and the connection.  `disconnect` closes both and leaves the container
    running; `remove` ends everything.
    """

    def __init__(self, bundle: Bundle, binary: Binary, reply: Reply, task: TaskClient) -> None:
        self.bundle = bundle
        self.binary = binary
        self.reply = reply
        self.task = task
        self.stdout: Output | None = None
        self.stderr: Output | None = None
        self.log = bytearray()  # what the shim logged while connected
        self.wait_for_last_event: Callable[[str], Awaitable[None]] | None = None
        """Waits for a deleted container's last event, which its shim sends some time later."""
        self._log_fd = -1
        self._loop = asyncio.get_running_loop()

    @property
    def id(self) -> str:
        return self.bundle.id

    @classmethod
    async def started(
        cls, bundle: Bundle, binary: Binary, options: any_pb2.Any | None = None
    ) -> "Container":
        """Run `start` in an existing bundle, and connect to the address it prints."""
        log_fd = _open_log(bundle)
        try:
            reply = await binary.start(bundle, options)
            bundle.remember(binary.path, reply)
            task = await TaskClient.connect(
                reply.path, version=reply.version, timeout_s=_CONNECT_LIMIT_S
            )
        except BaseException:
            os.close(log_fd)
            raise
        container = cls(bundle, binary, reply, task)
        container._listen(log_fd)
        return container

    @classmethod
    async def found(cls, bundle: Bundle, binary: Binary) -> "Container":
        """Connect to the shim of another client's container, as containerd after its restart.

        Raises:
            NoSuchContainer: there is no such container.
            ShimGone: its shim does not answer any more.
        """
        _, reply = bundle.recall()
        log_fd = _open_log(bundle)
        try:
            task = await TaskClient.connect(
                reply.path, version=reply.version, timeout_s=_CONNECT_LIMIT_S
            )
        except OSError as error:
            os.close(log_fd)
            msg = f"the shim of {bundle.id} does not answer: {error.strerror or error}"
            raise ShimGone(msg) from None
        container = cls(bundle, binary, reply, task)
        container._listen(log_fd)
        return container

    def read(self, output: Callable[[str, str], Output], *, exec_id: str = "") -> None:
        """Open the output FIFOs for reading: before Create or Start, or when taking over."""
        self.stdout = output("stdout", self.bundle.fifo("stdout", exec_id=exec_id))
        self.stderr = output("stderr", self.bundle.fifo("stderr", exec_id=exec_id))

    async def outputs_ended(self) -> None:
        """Wait until everything the container wrote has been read."""
        for output in (self.stdout, self.stderr):
            if output is not None:
                await output.ended()

    async def create(
        self,
        *,
        rootfs: Sequence[Mount] = (),
        stdio: Stdio | None = None,
        options: any_pb2.Any | None = None,
        checkpoint: str = "",
        timeout_s: float | None = None,
    ) -> int:
        """Create the task, then call Connect as containerd does; return the pid it reports."""
        await self.task.create(
            self.id,
            self.bundle.path,
            stdio=stdio,
            rootfs=rootfs,
            options=options,
            checkpoint=checkpoint,
            timeout_s=timeout_s,
        )
        return (await self.task.connected(self.id)).task_pid

    async def kill_and_wait(self, number: int = signal.SIGKILL) -> Exit:
        """Signal the init and wait for its end; one that has ended already is no error."""
        with contextlib.suppress(StatusError):
            await self.task.kill(self.id, number)
        return await self.task.wait(self.id)

    async def remove(self) -> Removed:
        """Remove a stopped container as containerd does.

        The steps are Delete, Shutdown, close, the `delete` action, and the removal of the files.
        The last three are done even if an earlier one fails.
        """
        reported: Exit | None = None
        try:
            with contextlib.suppress(ConnectionClosed):  # the shim is dead: `delete` cleans up
                reported = await self._delete_task()
                await self._shutdown()
        finally:
            cleaned = await self._clean()
        return Removed(reported, cleaned)

    async def destroy(self) -> Removed:
        """Remove the container in any state: SIGKILL the shim, then clean up as after a crash."""
        with contextlib.suppress(ConnectionClosed, StatusError, ProcessLookupError):
            os.kill((await self.task.connected(self.id)).shim_pid, signal.SIGKILL)
            await self.task.client.wait_closed()
        return Removed(None, await self._clean())

    async def _clean(self) -> Deleted:
        await self.disconnect()
        return await clean(self.bundle, self.binary)

    async def disconnect(self) -> None:
        """Close the connection as a dying client would; the container keeps running."""
        await self.task.close()
        for output in (self.stdout, self.stderr):
            if output is not None:
                output.close()
        fd, self._log_fd = self._log_fd, -1
        if fd >= 0:
            self._loop.remove_reader(fd)
            os.close(fd)

    async def _delete_task(self) -> Exit | None:
        try:
            ended = await self.task.delete(self.id)
        except StatusError as error:
            if "not found" not in error.message:
                raise
            return None  # after a failed Create there is no task
        if self.wait_for_last_event is not None:
            await self.wait_for_last_event(self.id)
        return ended

    async def _shutdown(self) -> None:
        try:
            await self.task.shutdown(self.id, timeout_s=_SHUTDOWN_LIMIT_S)
        except ConnectionClosed:
            return  # usual: the shim exited before or while it answered

    def _listen(self, log_fd: int) -> None:
        self._log_fd = log_fd
        self._loop.add_reader(log_fd, self._take_log)

    def _take_log(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self.log += os.read(self._log_fd, 64 * 1024)


async def clean(bundle: Bundle, binary: Binary) -> Deleted:
    """Clean up as containerd does after the connection ended: the `delete` action, the files."""
    try:
        return await binary.delete(bundle)
    finally:
        bundle.remove()


def _open_log(bundle: Bundle) -> int:
    # O_RDWR, as containerd does: open does not wait for a writer, and there is no hang-up.
    return os.open(bundle.log, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
