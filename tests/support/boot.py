"""Runs the shim's binary as a daemon does, and finds the servers that it starts."""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

from protos.bootstrap_pb2 import BootstrapParams, BootstrapResult
from protos.task_v2_pb2 import ConnectRequest, ConnectResponse
from shimv2.shimctl.testbed.programs import run_by
from shimv2.shimctl.testbed.until import until
from ttrpc import BlockingClient, ConnectionClosed

NAME: Final = "containerd-shim-pyrunc-v2"
RUNTIME: Final = "io.containerd.pyrunc.v2"
SOCKETS: Final = "/run/containerd/s"
_LIMIT_S: Final = 30.0
_ROOT: Final = Path(__file__).resolve().parents[2]
_SCRIPT: Final = """{first}
import sys
import warnings

warnings.simplefilter("error")
sys.path.insert(0, {root!r})
from shimv2.cli import main

sys.exit(main())
"""

Done = subprocess.CompletedProcess[bytes]


def install(path: Path, flags: str = "-I") -> Path:
    """Write the shim's script; its file name decides the runtime's name, and warnings are
    errors."""
    path.write_text(_SCRIPT.format(first=run_by(sys.executable, flags), root=str(_ROOT)))
    path.chmod(0o755)
    return path


class Boot:
    """A shim binary, bundles with a log, and a namespace by which its servers are found.

    At the end all that is left is killed and removed.  A test for leftovers has to check before.
    """

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="b", dir="/tmp"))  # short, for sockets
        self.namespace = f"t{secrets.token_hex(4)}"
        self.shim = install(self.folder / NAME)
        self.socket_dir = str(self.folder / "s")
        self.state = self.folder / "state"
        self.state.mkdir()
        self.address = str(self.folder / "c.sock")
        self._logs: dict[Path, int] = {}
        self._sockets: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for pid in self.servers():
            os.kill(pid, signal.SIGKILL)
        until(lambda: not self.servers(), "the servers to be gone")
        for fd in self._logs.values():
            os.close(fd)
        for path in self._sockets:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        shutil.rmtree(self.folder)
        with contextlib.suppress(OSError):
            os.rmdir(f"/run/containerd/runc/{self.namespace}")

    # --- bundles -------------------------------------------------------------------------------

    def bundle(self, id_: str, config: str = "{}", *, log: bool = True) -> Path:
        path = self.state / id_
        path.mkdir()
        (path / "config.json").write_text(config)
        if log:
            os.mkfifo(path / "log", 0o700)
            # Open for reading and writing, as in the daemon.
            self._logs[path] = os.open(path / "log", os.O_RDWR | os.O_NONBLOCK)
        return path

    def log(self, bundle: Path) -> str:
        """Read the lines that were logged since the last call."""
        try:
            return os.read(self._logs[bundle], 1 << 20).decode()
        except BlockingIOError:
            return ""

    # --- the binary ----------------------------------------------------------------------------

    def args(self, id_: str, *rest: str) -> list[str]:
        head = [str(self.shim), "-namespace", self.namespace, "-address", self.address]
        return [*head, "-publish-binary", "/usr/bin/containerd", "-id", id_, *rest]

    def run(
        self,
        args: Sequence[str],
        *,
        cwd: Path | None = None,
        stdin: bytes = b"",
        env: Mapping[str, str] = {},
        setup: Callable[[], object] | None = None,
    ) -> Done:
        """Run until both outputs reach end of file: no process has them open any more."""
        done = subprocess.run(
            args,
            cwd=cwd or self.state,
            input=stdin,
            capture_output=True,
            check=False,
            timeout=_LIMIT_S,
            env={**os.environ, "TTRPC_ADDRESS": f"{self.address}.ttrpc", **env},
            process_group=0,
            preexec_fn=setup,
        )
        if done.stdout.startswith(b"unix://"):
            self._sockets.add(done.stdout.decode().removeprefix("unix://"))
        return done

    def start(self, id_: str, *flags: str, **options: Any) -> Done:
        """Run `start` as containerd 1.6 to 2.2."""
        return self.run(self.args(id_, *flags, "start"), cwd=self.state / id_, **options)

    def new_start(self, id_: str, *, params: Mapping[str, object] = {}, **options: Any) -> Done:
        """Run `start` as containerd 2.3, with sockets in a folder of the test."""
        return self.start(id_, stdin=self.params(id_, **params), **options)

    def popen_start(self, id_: str) -> "subprocess.Popen[bytes]":
        """Run `start` without waiting for it."""
        stdin = self.folder / f"stdin-{id_}"
        stdin.write_bytes(self.params(id_))
        with stdin.open("rb") as file:
            return subprocess.Popen(
                self.args(id_, "start"),
                cwd=self.state / id_,
                stdin=file,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )

    def delete(self, id_: str, *flags: str, **options: Any) -> Done:
        cwd = options.pop("cwd", self.state / id_)
        return self.run(self.args(id_, *flags, "delete"), cwd=cwd, **options)

    def params(self, id_: str, **given: Any) -> bytes:
        known = {
            "instance_id": id_,
            "namespace": self.namespace,
            "containerd_grpc_address": self.address,
            "socket_dir": self.socket_dir,
        }
        return BootstrapParams(**{**known, **given}).SerializeToString()

    # --- the servers ---------------------------------------------------------------------------

    def servers(self) -> list[int]:
        """List the servers of this namespace, by their command lines."""
        found = []
        for name in filter(str.isdecimal, os.listdir("/proc")):
            words = arguments(int(name))
            if words[:1] == [str(self.shim)] and self.namespace in words:
                found.append(int(name))
        return found

    def server(self) -> int:
        """Return the only server."""
        (pid,) = self.servers()
        return pid

    def served(self, path: str) -> int:
        """Wait until the only server answers, which is the last step of its start; return its
        pid."""
        until(lambda: answers(path), "the server to answer")
        return self.server()

    def forget_sockets(self, paths: Iterable[str]) -> None:
        """Remove these at the end too: the sockets of servers that were started in another way."""
        self._sockets.update(paths)

    def stop_all(self) -> None:
        """End all servers, and wait for their exits."""
        for pid in self.servers():
            os.kill(pid, signal.SIGTERM)
        until(lambda: not self.servers(), "the servers to be gone")

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Signal the only server and wait for its exit."""
        os.kill(self.server(), number)
        until(lambda: not self.servers(), "the server to be gone")


def path_of(done: Done) -> str:
    """Return the socket in the reply of a `start`, in the form of any generation."""
    assert done.returncode == 0, done.stderr
    if done.stdout.startswith(b"unix://"):
        return done.stdout.decode().removeprefix("unix://")
    return BootstrapResult.FromString(done.stdout).address.removeprefix("unix://")


def arguments(pid: int) -> list[str]:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read().rstrip(b"\0").decode(errors="replace").split("\0")
    except OSError:
        return []


def fds(pid: int) -> dict[int, str]:
    """Return the open files of a process, without those that it closes meanwhile."""
    folder, found = f"/proc/{pid}/fd", {}
    for name in os.listdir(folder):
        with contextlib.suppress(FileNotFoundError):
            found[int(name)] = os.readlink(f"{folder}/{name}")
    return found


def fds_at_rest(pid: int) -> dict[int, str]:
    """Return the open files of a shim outside of a reclaim, for which it opens its page map."""
    found: dict[int, str] = {}

    def rests() -> bool:
        found.clear()
        found.update(fds(pid))
        return not {f"/proc/{pid}/pagemap", f"/proc/{pid}/maps"} & set(found.values())

    until(rests, "its page map to be closed", found=lambda: found)
    return found


def threads(pid: int) -> int:
    """Count a process's threads."""
    return len(os.listdir(f"/proc/{pid}/task"))


def shim_pid(path: str, version: int = 2) -> int:
    """Ask the server at `path` for its pid, which shows that it serves."""
    end = time.monotonic() + _LIMIT_S
    with BlockingClient.connect(path, timeout_s=_LIMIT_S) as client:
        response = client.call(
            f"containerd.task.v{version}.Task",
            "Connect",
            ConnectRequest(id="nobody"),
            ConnectResponse,
            timeout_s=end - time.monotonic(),
        )
    return response.shim_pid


def answers(path: str, version: int = 2) -> bool:
    """Whether a server at `path` answers a call of the task service."""
    try:
        return shim_pid(path, version) > 0
    except (OSError, ConnectionClosed):
        return False


@contextlib.contextmanager
def listening(path: str) -> Iterator[socket.socket]:
    """Listen at `path` and accept nothing."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.bind(path)
        sock.listen()
        yield sock


def dead_socket(path: str) -> None:
    """Make the socket file that a killed shim leaves behind."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.bind(path)
