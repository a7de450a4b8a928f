"""Runs a shim's binary as each generation of containerd does: `start` and `delete`."""

import asyncio
import contextlib
import os
import signal
import time
from asyncio.subprocess import DEVNULL, PIPE, STDOUT
from collections.abc import Mapping
from dataclasses import dataclass, field

from google.protobuf import any_pb2

from protos import bootstrap_pb2, task_v2_pb2
from shimv2.shimctl.bundle import Bundle
from shimv2.shimctl.reply import Generation, Reply
from shimv2.values.model import Exit

_START_LIMIT_S = 30.0  # containerd has no limit, but a tool must not hang
_DELETE_LIMIT_S = 5.0  # containerd's io.containerd.timeout.shim.cleanup


class ShimFailed(Exception):
    """The binary exited with an error; the text is what containerd would show."""

    def __init__(self, action: str, exit_status: int, output: str) -> None:
        super().__init__(f"{action}: {output.strip()}: exit status {exit_status}")
        self.action = action
        self.exit_status = exit_status
        self.output = output


@dataclass(frozen=True, slots=True)
class Deleted:
    """The exit that `delete` reported, and its stderr."""

    exit: Exit
    stderr: str


@dataclass(frozen=True, slots=True)
class Binary:
    """A shim binary and the arguments that describe containerd to it."""

    path: str
    namespace: str
    grpc_address: str  # the shim only hashes it into its socket's name
    ttrpc_address: str
    containerd: str = "/usr/bin/containerd"  # -publish-binary, never run
    generation: Generation = Generation.V1_6
    env: Mapping[str, str] = field(default_factory=dict)
    debug: bool = False
    socket_dir: str = ""  # generation 2.3 only; "" = the shim's default

    async def start(self, bundle: Bundle, options: any_pb2.Any | None = None) -> Reply:
        """Run `start` in the bundle; wait for its exit and for the end of its combined output.

        Raises:
            ShimFailed: it exited with an error.
            BadReply: this generation of containerd does not accept its reply.
            TimeoutError: it did not end, or a process that it started holds its output open.
        """
        flags = ["-id", bundle.id, *(["-debug"] if self.debug else []), "start"]
        status, output, _ = await self.run(
            flags,
            cwd=bundle.path,
            stdin=self.start_input(bundle.id, options),
            combined=True,
            limit_s=_START_LIMIT_S,
        )
        if status != 0:
            raise ShimFailed("start", status, output.decode(errors="replace"))
        return Reply.parse(output, generation=self.generation)

    async def delete(self, bundle: Bundle) -> Deleted:
        """Run `delete`, as containerd does after a lost connection and after every removal.

        Raises:
            ShimFailed: it exited with an error.
            TimeoutError: it took longer than containerd's 5 s, and was killed.
        """
        debug = ["-debug"] if self.debug and self.generation is not Generation.V1_6 else []
        status, output, errors = await self.run(
            ["-id", bundle.id, "-bundle", bundle.path, *debug, "delete"],
            cwd=bundle.path,
            stdin=b"",
            combined=False,
            limit_s=_DELETE_LIMIT_S,
        )
        stderr = errors.decode(errors="replace")
        if status != 0:
            raise ShimFailed("delete", status, stderr)
        answer = task_v2_pb2.DeleteResponse.FromString(output)
        at_ns = answer.exited_at.seconds * 1_000_000_000 + answer.exited_at.nanos
        return Deleted(Exit(answer.pid, answer.exit_status, at_ns), stderr)

    def start_input(self, container_id: str, options: any_pb2.Any | None) -> bytes:
        """Return the bytes that this generation writes to the stdin of `start`."""
        if self.generation is not Generation.V2_3:
            return b"" if options is None else options.SerializeToString()
        params = bootstrap_pb2.BootstrapParams(
            instance_id=container_id,
            namespace=self.namespace,
            log_level=bootstrap_pb2.LOG_LEVEL_DEBUG if self.debug else bootstrap_pb2.LOG_LEVEL_INFO,
            containerd_version="v2.3.0",
            containerd_ttrpc_address=self.ttrpc_address,
            containerd_grpc_address=self.grpc_address,
            containerd_binary=self.containerd,
        )
        if self.socket_dir:
            params.socket_dir = self.socket_dir
        if options is not None:
            params.extensions.add().value.CopyFrom(options)
        return params.SerializeToString()

    def environment(self) -> dict[str, str]:
        """Return this process's environment with the variables that this generation adds."""
        env = {**os.environ, "GOMAXPROCS": "2", "TTRPC_ADDRESS": self.ttrpc_address}
        if self.generation is not Generation.V1_6:
            env["MAX_SHIM_VERSION"] = "2"  # 2 in every release of containerd
            env["GRPC_ADDRESS"] = self.grpc_address
            env["NAMESPACE"] = self.namespace
        return {**env, **self.env}

    def arguments(self, *rest: str) -> list[str]:
        """Return the whole command line: containerd's flags in its order, then `rest`."""
        daemon = ["-address", self.grpc_address, "-publish-binary", self.containerd]
        return [self.path, "-namespace", self.namespace, *daemon, *rest]

    async def run(
        self, flags: list[str], *, cwd: str, stdin: bytes, combined: bool, limit_s: float
    ) -> tuple[int, bytes, bytes]:
        """Run an action: `flags` follow containerd's own; return status, stdout, stderr.

        Raises:
            TimeoutError: it did not end within `limit_s` and was killed with its process group.
        """
        child = await asyncio.create_subprocess_exec(
            *self.arguments(*flags),
            cwd=cwd,
            env=self.environment(),
            stdin=PIPE if stdin else DEVNULL,
            stdout=PIPE,
            stderr=STDOUT if combined else PIPE,
            process_group=0,
        )
        started = time.monotonic()
        try:
            async with asyncio.timeout(limit_s):
                # Until end of file, not only until the exit: the server must close the output.
                output, errors = await child.communicate(stdin or None)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            await child.wait()
            msg = f"{flags[-1]} did not end within {time.monotonic() - started:.1f} s"
            raise TimeoutError(msg) from None
        assert child.returncode is not None
        return child.returncode, output, errors or b""
