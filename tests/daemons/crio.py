"""A small CRI-O: the calls of its `runtime_type = "vm"`, in its order, with its folders.

CRI-O differs from containerd as a client of shims.  It uses version 2 of the Task service only.  It
has no address for events.  The name of its bundle is not that of the container.  It mounts the root
before it starts the shim, and never runs the `delete` action.
"""

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from google.protobuf import any_pb2

from protos import runtimeoptions_pb2
from shimv2.shimctl import spec
from shimv2.shimctl.launch import Binary, ShimFailed
from shimv2.shimctl.reply import Generation, Reply
from shimv2.shimctl.streams import Capture
from shimv2.shimctl.task import TaskClient
from shimv2.values.model import Exit, Stdio
from tests.support.host import Host
from ttrpc import ConnectionClosed, StatusError

_NAMESPACE: Final = "default"  # of all its containers
_START_LIMIT_S: Final = 30.0
_CALL_LIMIT_S: Final = 60.0


class Process:
    """A process's FIFOs and the output read from them.  Owns the reading ends."""

    def __init__(self, stdio: Stdio) -> None:
        self.stdio = stdio
        self.stdout = Capture(stdio.stdout)
        self.stderr = Capture(stdio.stderr) if stdio.stderr else None

    @classmethod
    def made(cls, folder: str, *, terminal: bool, stdin: bool) -> "Process":
        """Make the FIFOs in a new folder, and open them before the shim, as CRI-O does."""
        os.makedirs(folder)
        names = ["stdout", *(["stdin"] if stdin else []), *([] if terminal else ["stderr"])]
        paths = {name: os.path.join(folder, name) for name in names}
        for path in paths.values():
            os.mkfifo(path, 0o700)
        return cls(Stdio(terminal=terminal, **paths))

    async def ended(self) -> None:
        """Wait until everything the process wrote has been read."""
        await self.stdout.ended()
        if self.stderr is not None:
            await self.stderr.ended()

    def close(self) -> None:
        self.stdout.close()
        if self.stderr is not None:
            self.stderr.close()


@dataclass(slots=True)
class CrioContainer:
    """One container of CRI-O, and the connection to its shim."""

    id: str
    bundle: str
    task: TaskClient
    init: Process
    execs: list[Process] = field(default_factory=list)

    async def exec(
        self, exec_id: str, *args: str, terminal: bool = False, stdin: bool = False
    ) -> Process:
        """Register a further process and start it, with streams of its own."""
        folder = os.path.join(self.bundle, f"fifo-{exec_id}")
        process = Process.made(folder, terminal=terminal, stdin=stdin)
        self.execs.append(process)
        wanted = spec.Wanted(args, terminal=terminal)
        await self.task.exec(self.id, exec_id, spec.process(wanted), stdio=process.stdio)
        await self.task.start(self.id, exec_id)
        return process

    async def alive(self) -> bool:
        """Return whether it runs, with signal 0."""
        try:
            await self.task.kill(self.id, 0)
        except StatusError:
            return False
        return True

    async def stop(self, number: int = signal.SIGTERM) -> Exit:
        await self.task.kill(self.id, number)
        return await self.task.wait(self.id, timeout_s=_CALL_LIMIT_S)

    async def remove(self) -> Exit:
        """Call Delete and Shutdown, the last calls of CRI-O."""
        for process in (self.init, *self.execs):
            process.close()
        ended = await self.task.delete(self.id, timeout_s=_CALL_LIMIT_S)
        await self.shut_down()
        return ended

    async def shut_down(self) -> None:
        with contextlib.suppress(ConnectionClosed):  # the usual end of that call
            await self.task.shutdown(self.id)

    async def reconnected(self) -> "CrioContainer":
        """Disconnect as a CRI-O that dies, and connect again as the next one does."""
        await self.task.close()
        self.init.close()
        reply = Reply(Path(self.bundle, "address").read_text().strip())
        task = await TaskClient.connect(reply.path)
        stdio = (await task.state(self.id)).stdio
        return replace(self, task=task, init=Process(stdio))

    async def close(self) -> None:
        await self.task.close()
        for process in (self.init, *self.execs):
            process.close()


class Crio:
    """Makes containers; `config_path` is the runtime's file of options, "" for none."""

    def __init__(self, host: Host, *, rootfs: str, config_path: str) -> None:
        self.folder = os.path.join(host.folder, "crio")
        self._mark = host.mark
        self._rootfs = rootfs
        self._config_path = config_path
        self._binary = Binary(
            host.shim,
            namespace=_NAMESPACE,
            grpc_address="",
            ttrpc_address="",
            containerd="/usr/bin/crio",
            generation=Generation.V1_6,
            env=host.env,
        )

    @contextlib.asynccontextmanager
    async def container(
        self, name: str, *args: str, terminal: bool = False, stdin: bool = False
    ) -> AsyncIterator[CrioContainer]:
        """Yield a created container; the block has to remove it."""
        async with self.shim(name, *args, terminal=terminal, stdin=stdin) as container:
            await self.create(container)
            yield container

    @contextlib.asynccontextmanager
    async def shim(
        self, name: str, *args: str, terminal: bool = False, stdin: bool = False
    ) -> AsyncIterator[CrioContainer]:
        """Yield a container as `container` does, without the Create."""
        id_ = f"{self._mark}-{name}"
        with self._bundle(id_, spec.Wanted(args, terminal=terminal)) as bundle:
            task = await self._started(id_, bundle)
            folder = os.path.join(bundle, "fifo")
            init = Process.made(folder, terminal=terminal, stdin=stdin)
            container = CrioContainer(id_, bundle, task, init)
            try:
                yield container
            finally:
                await container.close()

    async def create(self, container: CrioContainer) -> int:
        """Create the task without mounts, with the options in the handler's file."""
        return await container.task.create(
            container.id,
            container.bundle,
            stdio=container.init.stdio,
            options=self._options(),
            timeout_s=_CALL_LIMIT_S,
        )

    async def _started(self, id_: str, bundle: str) -> TaskClient:
        status, output, _ = await self._binary.run(
            ["-id", id_, "start"], cwd=bundle, stdin=b"", combined=True, limit_s=_START_LIMIT_S
        )
        if status:
            raise ShimFailed("start", status, output.decode(errors="replace"))
        return await TaskClient.connect(Reply.parse(output, generation=Generation.V1_6).path)

    def _options(self) -> any_pb2.Any | None:
        if not self._config_path:
            return None
        options = runtimeoptions_pb2.Options(config_path=self._config_path)
        name = options.DESCRIPTOR.full_name
        return any_pb2.Any(type_url=name, value=options.SerializeToString())

    @contextlib.contextmanager
    def _bundle(self, id_: str, wanted: spec.Wanted) -> Iterator[str]:
        """Make what CRI-O prepares before it starts the shim, and remove it after the shim has
        exited."""
        bundle, root = (os.path.join(self.folder, id_, name) for name in ("userdata", "merged"))
        os.makedirs(bundle)
        os.makedirs(root)
        config = spec.config(wanted, namespace=self._mark, container_id=id_)
        config["root"] = {"path": root, "readonly": True}
        with open(os.path.join(bundle, "config.json"), "w", encoding="utf-8") as file:
            json.dump(config, file)
        os.mkfifo(os.path.join(bundle, "log"), 0o700)
        log = os.open(os.path.join(bundle, "log"), os.O_RDONLY | os.O_NONBLOCK)
        subprocess.run(["mount", "--bind", self._rootfs, root], check=True)
        try:
            yield bundle
        finally:
            # CRI-O owns the root: this fails if the shim has unmounted it.
            subprocess.run(["umount", root], check=True)
            os.close(log)
