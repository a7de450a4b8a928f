"""Choose what is behind a process's streams, from the strings the client sent."""

from shimv2.errors import Refused, Unsupported
from shimv2.io import uri
from shimv2.io.pipes import PipeIO
from shimv2.io.process_io import IoCounters, IoPolicy, ProcessIO, StreamCounters
from shimv2.io.sinks import NoReader, create_file
from shimv2.model import Stdio

__all__ = [
    "IoCounters",
    "IoPolicy",
    "NoReader",
    "ProcessIO",
    "StreamCounters",
    "open_io",
]


def open_io(stdio: Stdio, *, uid: int, gid: int, policy: IoPolicy) -> ProcessIO:
    """Make the process's side of its streams; the container's ends belong to uid:gid.

    Only stdout's scheme selects anything, as with the reference.  The client's side is opened by
    `connect`, but for a `file://`, which is made here.

    Raises:
        Refused: with the reference's text; nothing is left open.
        Unsupported: a terminal or a logging binary.
    """
    if stdio.terminal:
        raise Unsupported("terminals are not supported yet")
    if not (stdio.stdin or stdio.stdout or stdio.stderr):
        return ProcessIO()
    target = uri.parse(stdio.stdout)
    if target.scheme in ("", "fifo"):
        return PipeIO(stdio, uid=uid, gid=gid, policy=policy)
    if target.scheme in ("binary", "binary-v2"):
        raise Unsupported(f"{target.scheme}:// logging is not supported yet")
    if target.scheme != "file":
        raise Refused(f"unknown STDIO scheme {target.scheme}")
    both = Stdio(stdin=stdio.stdin, stdout=target.path, stderr=target.path)
    return PipeIO(both, uid=uid, gid=gid, policy=policy, file=create_file(target.path))
