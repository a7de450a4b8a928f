"""One shim and its container, driven as containerd does, without an event loop."""

import contextlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from bench import action, proc
from bench.task import TaskCalls
from shimv2.shimctl import spec
from shimv2.shimctl.bundle import Bundle
from shimv2.shimctl.launch import Binary, ShimFailed
from shimv2.shimctl.reply import Generation, Reply, runc_options
from shimv2.values import paths
from shimv2.values.model import Stdio
from ttrpc import ConnectionClosed, StatusError

_EXIT_LIMIT_S: Final = 15.0
_TEXTS: Final = ("shim_cgroup", "binary_name", "root", "criu_image_path", "criu_work_path")
_NO_OPTIONS: Final = json.dumps(dict.fromkeys(_TEXTS, ""))


@dataclass(frozen=True, slots=True)
class Folders:
    """Where containers are made."""

    state: str  # bundles and FIFOs
    rootfs: str  # read-only, shared by all containers
    layers: str  # the upper layers

    def bundle(self, namespace: str, container_id: str, wanted: spec.Wanted) -> Bundle:
        """Make a bundle; nothing runs yet."""
        bundle = Bundle(self.state, namespace, container_id)
        bundle.make(spec.config(wanted, namespace=namespace, container_id=container_id))
        return bundle


class Running:
    """The calls from `start` to the `delete` action.  A context manager that removes everything.

    Owns the log FIFO's and the streams' fds, the connection and a pidfd of the shim.  `follow` is
    called with the path of its log, `forget` once the shim and its files are removed.
    """

    def __init__(
        self,
        folders: Folders,
        binary: Binary,
        bundle: Bundle,
        *,
        runtime: str,
        follow: Callable[[str], None],
        forget: "Callable[[Running], None]",
    ) -> None:
        self._folders = folders
        self._follow = follow
        self._on_exit = forget
        self.binary = binary
        self.bundle = bundle
        self.options = runc_options(binary_name=runtime)
        self.start_s = 0.0  # how long `start` took
        self.pid = 0  # the shim's
        self.init_pid = 0
        self.reply: Reply | None = None
        self.outputs: dict[str, int] = {}  # the reading ends of the streams opened last
        self._task: TaskCalls | None = None
        self._undo = contextlib.ExitStack()
        self._pidfd = -1
        self._is_down = False

    @property
    def id(self) -> str:
        return self.bundle.id

    @property
    def address(self) -> Reply:
        assert self.reply is not None, "`start` comes first"
        return self.reply

    @property
    def task(self) -> TaskCalls:
        assert self._task is not None, "`connect` comes first"
        return self._task

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.remove()
        else:
            self.destroy()

    # --- making it ---------------------------------------------------------------------------

    def start_shim(self) -> None:
        """Run `start`.  The bundle is there; no client is connected yet."""
        log = os.open(self.bundle.log, os.O_RDWR | os.O_NONBLOCK)  # as containerd holds it
        self._undo.callback(os.close, log)
        self._follow(self.bundle.log)
        stdin = self.binary.start_input(self.id, self.options)
        self.reply, self.start_s = action.start(self.binary, self.bundle, stdin)

    def connect(self) -> None:
        """Connect, and make the first call."""
        self._task = TaskCalls(self.address)
        self._undo.callback(self._task.close)
        self.pid = self._task.shim_pid(self.id)
        self._hold()

    def _hold(self) -> None:
        """Open a pidfd of the shim: its pid may be recycled once it has ended."""
        self._pidfd = os.pidfd_open(self.pid)
        self._undo.callback(os.close, self._pidfd)

    def create(self, *, streams: bool = True, stdin: bool = False, terminal: bool = False) -> None:
        stdio = Stdio()
        if streams:
            stdio = self.open_streams(stdin=stdin, terminal=terminal)
        self.init_pid = self.task.create(
            self.id,
            self.bundle.path,
            stdio=stdio,
            rootfs=[self.bundle.overlay(self._folders.rootfs, layers=self._folders.layers)],
            options=self.options,
        )

    def open_streams(
        self, *, exec_id: str = "", stdin: bool = False, terminal: bool = False
    ) -> Stdio:
        """Make FIFOs and hold their reading ends open, without reading."""
        self.bundle.make_fifos(exec_id=exec_id)
        fifos = {name: self.bundle.fifo(name, exec_id=exec_id) for name in ("stdout", "stderr")}
        if terminal:
            fifos["stderr"] = ""
        self.outputs = {
            name: os.open(path, os.O_RDONLY | os.O_NONBLOCK) for name, path in fifos.items() if path
        }
        for fd in self.outputs.values():
            self._undo.callback(os.close, fd)
        return Stdio(
            stdin=self.bundle.fifo("stdin", exec_id=exec_id) if stdin else "",
            stdout=fifos["stdout"],
            stderr=fifos["stderr"],
            terminal=terminal,
        )

    def begin(self) -> None:
        self.task.start(self.id)

    def up(self, *, streams: bool = True, stdin: bool = False, terminal: bool = False) -> None:
        """Do all steps up to a running container."""
        self.start_shim()
        self.connect()
        self.create(streams=streams, stdin=stdin, terminal=terminal)
        self.begin()

    # --- removing it -------------------------------------------------------------------------

    def end_task(self) -> None:
        """Call Kill, Wait and Delete, as far as they apply to the state of the task."""
        with contextlib.suppress(StatusError):
            self.task.kill(self.id, signal.SIGKILL)
        with contextlib.suppress(StatusError):
            self.task.wait(self.id)
            self.task.delete(self.id)

    def shut_down(self) -> None:
        with contextlib.suppress(ConnectionClosed):  # it may exit before it has answered
            self.task.shutdown(self.id)

    def wait_closed(self) -> None:
        """Wait for the end of the connection: a daemon runs `delete` then."""
        with contextlib.suppress(ConnectionClosed):
            while True:
                self.task.shim_pid(self.id)

    def delete_action(self) -> float:
        """Run `delete` after the exit of the shim; return the seconds it took."""
        taken_s = action.delete(self.binary, self.bundle)
        self._is_down = True
        return taken_s

    def wait_exit(self) -> None:
        if self._pidfd >= 0:
            proc.wait_exit(self._pidfd, _EXIT_LIMIT_S)

    def remove(self) -> None:
        """Remove everything that exists, in a daemon's order."""
        with _undisturbed():
            try:
                if self._task is not None and not self._is_down:
                    self.end_task()
                    self.shut_down()
                    self.wait_exit()
                    self._give_delete_its_files()
                    self.delete_action()
            finally:
                self.destroy()

    def destroy(self) -> None:
        """Remove it in any state, as a daemon does after a crash of the shim.

        Does nothing if it was removed already.
        """
        with _undisturbed():
            try:
                if not self._is_down:
                    self._kill()
            finally:
                self._forget()

    def _kill(self) -> None:
        if self._pidfd < 0:
            self._find()
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            self.wait_exit()
        if self.reply:
            self._give_delete_its_files()
            with contextlib.suppress(ShimFailed):
                self.delete_action()
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.reply.path)  # newer Go shims leave it

    def _find(self) -> None:
        """Find the process of a shim without a connection, or whose reply was not read."""
        if self.reply is None:
            path = paths.socket_path(self.binary.grpc_address, self.bundle.namespace, self.id)
            if not os.path.exists(path):
                return
            version = 3 if self.binary.generation is Generation.V2_0 else 2
            self.reply = Reply(paths.address_of(path), version)
        with contextlib.suppress(OSError, ConnectionClosed):  # it has exited
            with contextlib.closing(TaskCalls(self.reply)) as asked:
                self.pid = asked.shim_pid(self.id)
            self._hold()

    def _give_delete_its_files(self) -> None:
        """Write the files of Create: without them the `delete` of older Go shims fails.

        The `delete` of the Rust shim needs every string field of the options.
        """
        for name, text in (("runtime", ""), ("options.json", _NO_OPTIONS)):
            path = os.path.join(self.bundle.path, name)
            if not os.path.exists(path):
                with open(path, "w", encoding="ascii") as file:
                    file.write(text)

    def _forget(self) -> None:
        self._task, self._pidfd = None, -1
        self._undo.close()
        self.bundle.remove()
        self._on_exit(self)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Delay signals until the block has ended, so that a removal is not interrupted."""
    before = signal.pthread_sigmask(
        signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    )
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def timed(act: Callable[[], object]) -> float:
    """Return the seconds that `act` takes."""
    began = time.perf_counter()
    act()
    return time.perf_counter() - began
