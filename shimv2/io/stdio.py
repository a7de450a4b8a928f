"""Choose the kind of a process's streams from the strings that the client sent."""

from typing import Final

from shimv2.io import uri
from shimv2.io.logger import Logger, LoggerHost, LoggerIO
from shimv2.io.pipes import PipeIO
from shimv2.io.process_io import IoCounters, ProcessIO, StreamCounters
from shimv2.io.sinks import NoReader, create_file
from shimv2.io.terminal import COPY_FAILED, ConsoleIO
from shimv2.values.errors import Refused
from shimv2.values.model import Stdio
from shimv2.values.settings import IoPolicy

__all__ = [
    "IoCounters",
    "LoggerHost",
    "NoReader",
    "ProcessIO",
    "StreamCounters",
    "open_io",
]

_LOGGING: Final = ("binary", "binary-v2")


def open_io(
    stdio: Stdio, *, uid: int, gid: int, policy: IoPolicy, loggers: LoggerHost | None = None
) -> ProcessIO:
    """Make the process's side of its streams; the container's ends belong to uid:gid.

    Only stdout's scheme selects the kind, as in the Go shim.  `connect` opens the client's side,
    with two exceptions: a `file://` is opened here, and `prepare` starts a logging binary (for the
    process in `loggers`).

    Raises:
        Refused: with the Go shim's text; no fd is left open.
    """
    if not (stdio.stdin or stdio.stdout or stdio.stderr or stdio.terminal):
        return ProcessIO()
    target = _target(stdio)
    logger = None
    if target.scheme in _LOGGING:
        if loggers is None:
            raise Refused(f"unknown STDIO scheme {target.scheme}")
        called = "logging binary process" if stdio.terminal else "binary process"
        logger = Logger(target, loggers, called=called)
    if stdio.terminal:
        return ConsoleIO(stdio, policy=policy, logger=logger)
    if logger is not None:
        return LoggerIO(logger)
    if target.scheme in ("", "fifo"):
        return PipeIO(stdio, uid=uid, gid=gid, policy=policy)
    if target.scheme != "file":
        raise Refused(f"unknown STDIO scheme {target.scheme}")
    both = Stdio(stdin=stdio.stdin, stdout=target.path, stderr=target.path)
    return PipeIO(both, uid=uid, gid=gid, policy=policy, file=create_file(target.path))


def _target(stdio: Stdio) -> uri.StdioUri:
    try:
        return uri.parse(stdio.stdout)
    except Refused as error:
        if not stdio.terminal:
            raise
        raise Refused(f"{COPY_FAILED}{error}") from None
