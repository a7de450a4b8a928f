"""Logging binaries: a program that reads the container's output from pipes.

The client names the program in the URI of a container's stdout, and the shim runs it as its own
user.  So only root, or that user, may own the program (CVE-2026-53488: this check was missing).
"""

import asyncio
import contextlib
import logging
import os
import signal
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from shimv2.aio.readiness import readable
from shimv2.gocompat.gotext import quote
from shimv2.io.fifo import Fd, reason
from shimv2.io.process_io import ProcessIO
from shimv2.io.uri import StdioUri
from shimv2.kernel.reaper import Reaper
from shimv2.kernel.spawn import spawn
from shimv2.values.errors import Refused
from shimv2.values.model import Exit

_STDOUT, _STDERR, _READY = 3, 4, 5  # the program's fds
_EOF_GRACE_S: Final = 0.5  # to read what is left, before the signal
_TERM_LIMIT_S: Final = 12.0  # the reference's; then SIGKILL
_MUST_CALL_READY: Final = "binary-v2"
_NOT_READY: Final = "logging binary did not call ready (it may have crashed or exited prematurely)"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LoggerHost:
    """The process whose output a logging binary reads, and the binaries that may run."""

    reaper: Reaper
    namespace: str
    id: str  # the container's, or the exec's
    allowed: tuple[str, ...] | None  # None: each that `_check_program` allows
    ready_limit_s: float  # the program has to report within this time that it is ready


class Logger:
    """One program and the shim's ends of its pipes."""

    def __init__(self, target: StdioUri, host: LoggerHost, *, called: str) -> None:
        """`called` is the name of the program in error texts, as in those of the Go shim."""
        self._target = target
        self._host = host
        self._called = called
        self._pid = 0
        self._is_ready = False
        self._ended: asyncio.Future[Exit] | None = None
        self._stdout = self._stderr = Fd(-1)  # the writing ends

    @property
    def fds(self) -> Mapping[int, int]:
        return {1: self._stdout.number, 2: self._stderr.number}

    def take_stdout(self) -> Fd:
        """Hand over the writing end of stdout, for a terminal's output; the caller owns it."""
        fd, self._stdout = self._stdout, Fd(-1)
        os.set_blocking(fd.number, False)
        return fd

    async def start(self) -> None:
        """Run the program and wait until it is ready.

        After an error or a cancellation the caller has to call `stop`.

        Raises:
            Refused: with the Go shim's text.  TimeoutError: the program is not ready in time.
        """
        with contextlib.ExitStack() as theirs:
            try:
                out, self._stdout = _pipe(theirs)
                err, self._stderr = _pipe(theirs)
                ready, ready_writer = _pipe(theirs, ours_reads=True)
            except OSError as exc:
                raise Refused(f"failed to create logging binary pipes: {reason(exc)}") from None
            theirs.callback(ready.close)
            self._spawn({_STDOUT: out.number, _STDERR: err.number, _READY: ready_writer.number})
            for fd in (out, err, ready_writer):
                fd.close()
            first_byte = await self._first_byte(ready)
        if not first_byte and self._target.scheme == _MUST_CALL_READY:
            raise Refused(_NOT_READY)
        self._is_ready = True

    def _spawn(self, fds: Mapping[int, int]) -> None:
        path, host = self._target.path, self._host
        failed = f"failed to start {self._called}: "
        env = {"CONTAINER_ID": host.id, "CONTAINER_NAMESPACE": host.namespace}
        try:
            _check_program(path, host.allowed)
            # No death signal: after a crash of the shim the program still logs what it can read.
            argv = [path, *self._target.arguments()]
            self._pid = spawn(argv, env=env, fds=fds, death_signal=None)
        except Refused as exc:
            raise Refused(f"{failed}{exc}") from None
        except OSError as exc:
            raise Refused(f"{failed}fork/exec {path}: {reason(exc)}") from None
        self._ended = host.reaper.claim(self._pid)

    async def _first_byte(self, ready: Fd) -> bytes:
        """Wait for a byte; b"" if the last writer has closed its end."""
        os.set_blocking(ready.number, False)
        limit_s = self._host.ready_limit_s
        try:
            async with asyncio.timeout(limit_s):
                await readable(ready.number)
        except TimeoutError:
            what = f"logging binary {self._target.path} was not ready"
            raise TimeoutError(f"{what} after {limit_s:g} s") from None
        return os.read(ready.number, 1)

    def release(self) -> None:
        """Close the pipes: the program reads to the end."""
        self._stdout.close()
        self._stderr.close()

    async def stop(self) -> None:
        """End the program: by end of file, then by SIGTERM, then by SIGKILL."""
        self.release()
        ended, self._ended = self._ended, None
        if ended is None:
            return
        try:
            if not self._is_ready:
                return  # nothing was written to it
            if await _happens(ended, _EOF_GRACE_S):
                return
            self._signal(ended, signal.SIGTERM)
            if await _happens(ended, _TERM_LIMIT_S - _EOF_GRACE_S):
                return
            log.warning("logging binary %s ignores SIGTERM: it is killed", self._target.path)
        finally:
            if not ended.done():  # also when the caller was cancelled
                self._signal(ended, signal.SIGKILL)

    def _signal(self, ended: "asyncio.Future[Exit]", number: int) -> None:
        if not ended.done():  # after its end the pid may belong to another process
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, number)


class LoggerIO(ProcessIO):
    """The container writes into the program's pipes; the shim copies nothing.  No stdin."""

    def __init__(self, logger: Logger) -> None:
        self._logger = logger

    @property
    def fds(self) -> Mapping[int, int]:
        return self._logger.fds

    async def prepare(self) -> None:
        await self._logger.start()

    async def close(self) -> None:
        await self._logger.stop()


def _check_program(path: str, allowed: tuple[str, ...] | None) -> None:
    """Refuse a program that other users than root and the shim's user own or can write to.

    Raises:
        Refused: the program may not run.  OSError: there is no such file.
    """
    if not os.path.isabs(path):
        raise _untrusted(path, "its path is not absolute")
    if allowed is not None and path not in allowed:
        raise _untrusted(path, "it is not among the logging_binaries of the settings")
    found = os.stat(path)
    if found.st_uid not in (0, os.geteuid()):
        raise _untrusted(path, "it does not belong to root")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise _untrusted(path, "other users than its owner can write to it")


def _untrusted(path: str, why: str) -> Refused:
    return Refused(f"{quote(path)} may not log: {why}")


def _pipe(stack: contextlib.ExitStack, *, ours_reads: bool = False) -> tuple[Fd, Fd]:
    """Make a pipe; return (reader, writer).  `stack` closes the program's end."""
    reader, writer = (Fd(number) for number in os.pipe2(os.O_CLOEXEC))
    stack.callback((writer if ours_reads else reader).close)
    return reader, writer


async def _happens(ended: "asyncio.Future[Exit]", limit_s: float) -> bool:
    await asyncio.wait([ended], timeout=limit_s)
    return ended.done()
