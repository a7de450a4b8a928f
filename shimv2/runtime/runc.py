"""runc, or any runtime with its command line (crun): one process per verb."""

import contextlib
import errno
import functools
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from shimv2.gocompat.gotext import os_error
from shimv2.kernel.reaper import Reaper
from shimv2.runtime import runclog
from shimv2.runtime.command import DEFAULT_BINARY, CommandFailed, global_args, is_compiled
from shimv2.runtime.criu import CriuOption
from shimv2.runtime.run import run
from shimv2.runtime.runclog import KillResult
from shimv2.values.errors import NotFound, RuntimeFailed
from shimv2.values.model import CheckpointSpec

LOG_LIMIT_BYTES: Final = 1024 * 1024
"""How many bytes of one call's log entries are read, from their end."""

_STATE_FILES: Final = (("state.json", "init_process_pid"), ("status", "pid"))  # runc's, crun's

CREATE_GRACE_S: Final = 2.0
"""How long a create may still take after its caller was cancelled, before it is killed: many times
what it needs.  A create that ends by itself can be undone by a forced delete.  A killed one leaves
no state in the runtime, and its cgroup stays."""


class Runc:
    """A runtime's command line for one container; the options do not change during its life.

    Calls may overlap.  Then one call may report an error that the other wrote to the log; the Go
    shim, which uses one log file too, has the same limit.
    """

    def __init__(
        self,
        *,
        reaper: Reaper,
        binary: str,
        root: str,
        log_path: str,
        systemd_cgroup: bool = False,
        criu_path: str = "",
        criu_option: CriuOption | None = None,
    ) -> None:
        self._reaper = reaper
        self._binary = binary
        self._root = root
        self._log_path = log_path
        self._criu = criu_path
        self._criu_option = criu_option
        self._global_args = functools.partial(
            global_args, binary, root=root, log_path=log_path, systemd_cgroup=systemd_cgroup
        )

    def folder_of(self, container_id: str) -> str:
        return os.path.join(self._root, container_id)

    def has_container(self, container_id: str) -> bool:
        return os.path.lexists(self.folder_of(container_id))

    def has_init(self, container_id: str, pid: int) -> bool:
        folder = self.folder_of(container_id)
        return is_compiled(self._binary or DEFAULT_BINARY) and any(
            _pid_in(os.path.join(folder, name), key) == pid for name, key in _STATE_FILES
        )

    # --- verbs ---------------------------------------------------------------------------------

    async def create(
        self,
        container_id: str,
        *,
        bundle: str,
        pid_file: str,
        fds: Mapping[int, int],
        spawned: Callable[[], None],
        no_pivot: bool = False,
        no_new_keyring: bool = False,
        console_socket: str = "",
        timeout_s: float,
    ) -> None:
        args = ["create", "--bundle", bundle, "--pid-file", os.path.abspath(pid_file)]
        args += _console(console_socket)
        args += ["--no-pivot"] if no_pivot else []
        args += ["--no-new-keyring"] if no_new_keyring else []
        with self._explained("create", "OCI runtime create failed"):
            # With a console `fds` is unused, so the runtime's own output can be captured.
            given = None if console_socket else fds
            await self._run(
                [*args, container_id],
                timeout_s=timeout_s,
                fds=given,
                spawned=spawned,
                grace_s=CREATE_GRACE_S,
            )

    async def start(self, container_id: str, *, timeout_s: float) -> None:
        with self._explained("start", "OCI runtime start failed"):
            await self._run(["start", container_id], timeout_s=timeout_s)

    async def exec(
        self,
        container_id: str,
        *,
        process: Mapping[str, object],
        pid_file: str,
        fds: Mapping[int, int],
        spawned: Callable[[], None],
        console_socket: str = "",
        timeout_s: float,
    ) -> None:
        with (
            self._explained("exec", "OCI runtime exec failed"),
            _process_file(process) as process_path,
        ):
            args = ["exec", "--process", process_path, *_console(console_socket)]
            args += ["--detach", "--pid-file", os.path.abspath(pid_file), container_id]
            given = None if console_socket else fds
            await self._run(args, timeout_s=timeout_s, fds=given, spawned=spawned)

    async def kill(
        self,
        container_id: str,
        signal: int,
        *,
        all: bool = False,
        timeout_s: float,
    ) -> None:
        args = ["kill", *(["--all"] if all else []), container_id, str(signal)]
        try:
            await self._run(args, timeout_s=timeout_s)
        except CommandFailed as error:
            result = runclog.kill_result(str(error))
            if result is KillResult.FINISHED:
                raise NotFound("process already finished") from None
            if result is KillResult.UNKNOWN_CONTAINER or self._is_unknown(container_id, error):
                raise NotFound("no such container") from None
            raise _failed(f"unknown error after kill: {error}", "kill", error) from None

    async def delete(
        self,
        container_id: str,
        *,
        force: bool = False,
        timeout_s: float,
    ) -> None:
        args = ["delete", *(["--force"] if force else []), container_id]
        with self._explained("delete", "failed to delete task"):
            try:
                await self._run(args, timeout_s=timeout_s)
            except CommandFailed as error:
                if "does not exist" not in str(error) and not self._is_unknown(container_id, error):
                    raise

    async def pause(self, container_id: str, *, timeout_s: float) -> None:
        with self._explained("pause", "OCI runtime pause failed"):
            await self._run(["pause", container_id], timeout_s=timeout_s)

    async def resume(self, container_id: str, *, timeout_s: float) -> None:
        with self._explained("resume", "OCI runtime resume failed"):
            await self._run(["resume", container_id], timeout_s=timeout_s)

    async def update(
        self,
        container_id: str,
        *,
        resources: Mapping[str, object],
        timeout_s: float,
    ) -> None:
        stdin = json.dumps(resources, separators=(",", ":")).encode() + b"\n"
        try:
            args = ["update", "--resources=-", container_id]
            await self._run(args, timeout_s=timeout_s, stdin=stdin)
        except CommandFailed as error:  # as in the Go shim: unchanged, the last newline included
            raise _failed(str(error), "update", error) from None

    async def checkpoint(
        self, container_id: str, spec: CheckpointSpec, *, work_path: str, timeout_s: float
    ) -> None:
        args = ["checkpoint", "--image-path", spec.path, "--work-path", work_path]
        args += ["--parent-path", spec.parent_path] if spec.parent_path else []
        args += ["--tcp-established"] if spec.open_tcp else []
        args += ["--ext-unix-sk"] if spec.external_unix_sockets else []
        args += ["--shell-job"] if spec.terminal else []
        args += ["--file-locks"] if spec.file_locks else []
        for name in spec.empty_namespaces:
            args += ["--empty-ns", name]
        args += [] if spec.exit else ["--leave-running"]
        criu_path = await self._criu_path()
        try:
            await self._run(
                [*args, container_id], timeout_s=timeout_s, unwind=True, criu_path=criu_path
            )
        except CommandFailed as error:
            raise _failed(str(error), "checkpoint", error) from None

    async def restore(
        self,
        container_id: str,
        *,
        image_path: str,
        work_path: str,
        bundle: str,
        pid_file: str,
        fds: Mapping[int, int],
        spawned: Callable[[], None],
        no_pivot: bool = False,
        console_socket: str = "",
        timeout_s: float,
    ) -> None:
        args = ["restore", "--image-path", image_path, "--work-path", work_path]
        args += ["--detach", "--pid-file", os.path.abspath(pid_file), *_console(console_socket)]
        args += ["--no-pivot"] if no_pivot else []
        args += ["-no-subreaper", "--bundle", bundle, container_id]  # one dash, as go-runc has it
        criu_path = await self._criu_path()
        with self._explained("restore", "OCI runtime restore failed"):
            await self._run(
                args,
                timeout_s=timeout_s,
                fds=fds,
                spawned=spawned,
                unwind=True,
                criu_path=criu_path,
            )

    # --- how a verb is run ---------------------------------------------------------------------

    async def _run(
        self,
        args: Sequence[str],
        *,
        timeout_s: float,
        fds: Mapping[int, int] | None = None,
        spawned: Callable[[], None] | None = None,
        stdin: bytes = b"",
        grace_s: float = 0.0,
        unwind: bool = False,
        criu_path: str = "",
    ) -> None:
        """Run one verb.

        Raises:
            CommandFailed: go-runc's text.
        """
        await run(
            self._reaper,
            [*self._global_args(criu_path=criu_path), *args],
            timeout_s=timeout_s,
            fds=fds,
            spawned=spawned,
            stdin=stdin,
            grace_s=grace_s,
            unwind=unwind,
        )

    async def _criu_path(self) -> str:
        """Return the value for the runtime's `--criu`; "" = leave the option out."""
        if not self._criu or self._criu_option is None:
            return ""
        return self._criu if await self._criu_option.is_supported_by(self._binary) else ""

    # --- error texts ---------------------------------------------------------------------------

    @contextlib.contextmanager
    def _explained(self, verb: str, prefix: str) -> Iterator[None]:
        """Turn CommandFailed into RuntimeFailed with the reason from the runtime's log.

        Only what this call adds to the log is read.  Otherwise a runtime that logs nothing would
        be reported with the error of an earlier call.
        """
        before = self._log_size()
        try:
            yield
        except CommandFailed as error:
            failure = str(error)
            try:
                text = runclog.explain(prefix, failure, self._read_log(before))
            except OSError as why:
                op = "read" if why.errno == errno.EISDIR else "open"  # Go can open a directory
                text = runclog.unexplained(prefix, failure, os_error(why, op=op))
            raise _failed(text, verb, error) from None

    def _log_size(self) -> int:
        try:
            return os.stat(self._log_path).st_size
        except OSError:
            return 0

    def _read_log(self, start: int) -> bytes:
        with open(self._log_path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size < start:  # the file was truncated or replaced
                start = 0
            if size - start <= LOG_LIMIT_BYTES:
                file.seek(start)
                return file.read(LOG_LIMIT_BYTES)
            file.seek(size - LOG_LIMIT_BYTES)
            return file.read(LOG_LIMIT_BYTES).partition(b"\n")[2]

    def _is_unknown(self, container_id: str, error: CommandFailed) -> bool:
        """Whether the error means that the container's state is gone.

        crun then reports a missing file below its state directory.
        """
        text = str(error)
        folder = os.path.join(self._root, container_id)
        is_missing = folder in text and "no such file" in text.lower()
        return is_missing and not self.has_container(container_id)


def _pid_in(path: str, key: str) -> object:
    try:
        with open(path, "rb") as file:
            return json.load(file)[key]
    except (OSError, ValueError, KeyError, TypeError):
        return None  # another runtime's file, or the container is gone


def _console(socket_path: str) -> list[str]:
    return ["--console-socket", socket_path] if socket_path else []


def _failed(text: str, verb: str, error: CommandFailed) -> RuntimeFailed:
    return RuntimeFailed(text, verb=verb, exit_status=error.exit_status, detail=str(error))


@contextlib.contextmanager
def _process_file(process: Mapping[str, object]) -> Iterator[str]:
    """Write an OCI process to a temporary file and yield its path; the file is always removed.

    Raises:
        CommandFailed: the file cannot be written.
    """
    folder = os.environ.get("XDG_RUNTIME_DIR") or os.environ.get("TMPDIR") or "/tmp"  # noqa: S108 - created O_EXCL, 0600
    path = os.path.join(folder, f"runc-process{int.from_bytes(os.urandom(6))}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        fd = os.open(path, flags, 0o600)
    except OSError as error:
        raise CommandFailed(os_error(error)) from None
    try:
        try:
            with open(fd, "wb") as file:
                file.write(json.dumps(process, separators=(",", ":")).encode())
        except OSError as error:
            error.filename = path
            raise CommandFailed(os_error(error, op="write")) from None
        yield path
    finally:
        with contextlib.suppress(OSError):
            os.unlink(path)
