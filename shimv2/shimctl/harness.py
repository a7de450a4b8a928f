"""A minimal containerd: a state directory, an events service, and the containers of one client."""

import contextlib
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Self

from google.protobuf import any_pb2

from shimv2.shimctl import spec
from shimv2.shimctl.bundle import Bundle
from shimv2.shimctl.container import Container, clean
from shimv2.shimctl.launch import Binary, Deleted
from shimv2.shimctl.reply import Generation, runc_options
from shimv2.shimctl.rootfs import make_rootfs
from shimv2.shimctl.sink import EventsSink
from shimv2.shimctl.streams import Capture, Output
from shimv2.values.model import Mount, Stdio

MakeOutput = Callable[[str, str], Output]  # stream's name, its FIFO


def captured(_stream: str, fifo: str) -> Output:
    return Capture(fifo)


@dataclass(frozen=True, slots=True)
class Setup:
    """The settings of a harness; the defaults are those of `shimctl`."""

    shim: str
    state: str
    namespace: str = "shimctl"
    runtime: str = ""  # "" = the shim's default, runc
    runtime_root: str = ""
    io_uid: int = 0  # the owner of the container's ends of its pipes
    io_gid: int = 0
    socket_dir: str = ""  # generation 2.3 only; "" = the shim's default
    rootfs: str = ""  # a directory; "" = a generated busybox root
    generation: Generation = Generation.V1_6
    sink: str = "events.sock"  # below the state directory
    env: Mapping[str, str] = field(default_factory=dict)
    debug: bool = False


class Harness:
    """Starts shims and calls them.  An async context manager.

    On exit it disconnects from all containers; those that run keep running.
    """

    def __init__(self, setup: Setup) -> None:
        os.makedirs(setup.state, mode=0o711, exist_ok=True)
        self.setup = setup
        self.sink = EventsSink(os.path.join(setup.state, setup.sink))
        self.binary = Binary(
            setup.shim,
            namespace=setup.namespace,
            grpc_address=os.path.join(setup.state, "containerd.sock"),
            ttrpc_address=self.sink.path,
            generation=setup.generation,
            env=setup.env,
            debug=setup.debug,
            socket_dir=setup.socket_dir,
        )
        self.containers: dict[str, Container] = {}

    async def __aenter__(self) -> Self:
        await self.sink.open()
        return self

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        for container in self.containers.values():
            await container.disconnect()
        await self.sink.close()

    @property
    def options(self) -> any_pb2.Any | None:
        setup = self.setup
        return runc_options(
            binary_name=setup.runtime,
            root=setup.runtime_root,
            io_uid=setup.io_uid,
            io_gid=setup.io_gid,
        )

    def bundle(self, container_id: str) -> Bundle:
        return Bundle(self.setup.state, self.setup.namespace, container_id)

    def make_bundle(self, container_id: str, wanted: spec.Wanted) -> Bundle:
        bundle = self.bundle(container_id)
        namespace = self.setup.namespace
        bundle.make(spec.config(wanted, namespace=namespace, container_id=container_id))
        return bundle

    async def start_shim(self, container_id: str, wanted: spec.Wanted) -> Container:
        """Make the bundle, run `start` in it and connect: all steps before Create."""
        bundle = self.make_bundle(container_id, wanted)
        try:
            container = await Container.started(bundle, self.binary, self.options)
        except BaseException:
            bundle.remove()
            raise
        return self._keep(container)

    async def create(
        self,
        container_id: str,
        wanted: spec.Wanted,
        *,
        stdin: bool = False,
        output: MakeOutput | None = captured,
        checkpoint: str = "",
        timeout_s: float | None = None,
    ) -> Container:
        """Start a shim and create the task; with `output=None` its stdio is /dev/null."""
        container = await self.start_shim(container_id, wanted)
        try:
            bundle = container.bundle
            bundle.make_fifos()
            stdio = Stdio(terminal=wanted.terminal)
            if output is not None:
                container.read(output)
                stdio = Stdio(
                    stdin=bundle.fifo("stdin") if stdin else "",
                    stdout=bundle.fifo("stdout"),
                    stderr="" if wanted.terminal else bundle.fifo("stderr"),
                    terminal=wanted.terminal,
                )
            await container.create(
                rootfs=[self.root_mount(bundle)],
                stdio=stdio,
                options=self.options,
                checkpoint=checkpoint,
                timeout_s=timeout_s,
            )
        except BaseException:
            del self.containers[container_id]
            await container.remove()
            raise
        return container

    async def run(
        self,
        container_id: str,
        *args: str,
        stdin: bool = False,
        output: MakeOutput | None = captured,
        wanted: spec.Wanted | None = None,
    ) -> Container:
        """Create and start a container with the command `args`, or the one in `wanted`."""
        wanted = wanted or spec.Wanted(args)
        container = await self.create(container_id, wanted, stdin=stdin, output=output)
        try:
            await container.task.start(container_id)
        except BaseException:
            del self.containers[container_id]
            await container.remove()
            raise
        return container

    async def found(self, container_id: str) -> Container:
        """Take over another client's container, with the shim binary it used.

        Raises:
            NoSuchContainer: there is no such container.
            ShimGone: its shim does not answer; call `cleaned`.
        """
        bundle = self.bundle(container_id)
        container = await Container.found(bundle, self._binary_of(bundle))
        return self._keep(container)

    def _keep(self, container: Container) -> Container:
        container.wait_for_last_event = self.sink.wait_for_last_event
        self.containers[container.id] = container
        return container

    async def cleaned(self, container_id: str) -> Deleted:
        """Clean up after a container whose shim is dead."""
        bundle = self.bundle(container_id)
        return await clean(bundle, self._binary_of(bundle))

    def _binary_of(self, bundle: Bundle) -> Binary:
        shim, _ = bundle.recall()
        return replace(self.binary, path=shim)

    def root_mount(self, bundle: Bundle) -> Mount:
        """Return the mount of the container's root: an overlay on the shared directory."""
        return bundle.overlay(self.setup.rootfs or self._busybox())

    def _busybox(self) -> str:
        folder = os.path.join(self.setup.state, ".busybox")
        if not os.path.isdir(folder):
            unfinished = f"{folder}.{os.getpid()}"
            make_rootfs(unfinished)
            try:
                os.rename(unfinished, folder)
            except OSError:  # another process was faster: its root is the same
                with contextlib.suppress(FileNotFoundError):
                    shutil.rmtree(unfinished)
        return folder
