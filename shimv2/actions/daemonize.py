"""Makes the server a daemon: with its own session, OOM score and cgroup.

    fork_server:    start ── fork ──► child ── DaemonContext: fork, setsid, fork ──► server
                      └────────────────── one socket pair ─────────────────────────────┘

    become_server:  a zygote's waiting child becomes the server; its parent is process 1 already

`fork_server`: only the child opens the DaemonContext, because that ends the process that opens it,
and `start` has to answer later.  The server sets its own OOM score and cgroup, because it knows its
own pid.  It reports over the socket pair, then it waits for `start` to send "go".  If "go" does not
come (`start` failed to answer, or was killed), no client knows this server, and it ends.

Imports: a waiting child has imported all modules of the server.  After a cold start the server
imports them after the answer and before the first call.  It imports nothing later, because an
upgrade may replace the files of a running shim.
"""

import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NoReturn

from daemon import DaemonContext

from shimv2.daemon_config import DaemonConfig
from shimv2.gocompat.gotext import os_error, strerror
from shimv2.kernel.title import server_args, set_title
from shimv2.values.errors import Refused
from shimv2.values.model import Identity

READY_LIMIT_S: Final = 10.0
_REPORT_LIMIT_BYTES: Final = 4096
_READY: Final = b"ready"  # any other report is the text of an error
_GO: Final = b"go"

_OOM_SCORE_RANGE: Final = (-1000, 1000)


@dataclass(frozen=True, slots=True)
class Place:
    """The OOM score and the cgroup of the server."""

    oom_score_adj: int | None  # None: as inherited
    cgroup: str  # "": as inherited


def fork_server(config: DaemonConfig, place: Place, answer: Callable[[], None]) -> None:
    """Fork the server and call `answer`; after that the server serves.  Closes this listener.

    Raises:
        Refused, or an error of `answer`: then there is no server.
    """
    with _forked_server(config, place):
        answer()
    config.listener.close()


def become_server(
    config: DaemonConfig,
    place: Place,
    answer: Callable[[], None],
    *,
    release: Callable[[], None],
    kept: Sequence[socket.socket],
) -> NoReturn:
    """Become the server in this process, which was forked for it.  Calls `answer` first.

    `release` lets the caller end.  If it fails, the caller has ended already, and so does the
    server.  The sockets in `kept` stay open.

    Raises:
        Refused, or an error of `answer`: this process has to end then.
    """
    os.setpgid(0, 0)
    _unlink_on_stop_signals(config, signal.SIGIO)
    _apply(place, config.identity)
    answer()
    status = 1
    try:
        _close_streams()  # containerd reads the output of `start` until end of file
        release()
        signal.signal(signal.SIGIO, signal.SIG_DFL)
        _detach([config.listener, *kept], forking=False)
        status = _serve(config)
    except Exception:
        config.unlink_socket()
        logging.getLogger(__name__).critical("the shim ends", exc_info=True)
    finally:
        os._exit(status)


@contextlib.contextmanager
def _forked_server(config: DaemonConfig, place: Place) -> Iterator[None]:
    """Fork the server.  It is ready when the block begins, and serves after the block has ended.

    If the block fails, the server ends and removes its socket.

    Raises:
        Refused: the server could not be forked, or could not set its OOM score or cgroup.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        with theirs:
            try:
                pid = os.fork()  # noqa: TID251 - a cold start's fork: no thread, no loop yet
            except OSError as error:
                raise Refused(f"fork: {os_error(error)}") from None
            if pid == 0:
                _run_server(config, place, theirs)
        report = _report(ours)
        os.waitpid(pid, 0)  # noqa: TID251 - the first child; there is no reaper here
        if report != _READY:
            raise Refused(report.decode("utf-8", "replace") or "the server ended at once")
        yield
        ours.send(_GO)


def _report(ours: socket.socket) -> bytes:
    ours.settimeout(READY_LIMIT_S)
    try:
        return ours.recv(_REPORT_LIMIT_BYTES)
    except TimeoutError:
        return f"the server was not ready after {READY_LIMIT_S:.0f} s".encode()


# --- in the child -------------------------------------------------------------------------------


def _run_server(config: DaemonConfig, place: Place, start: socket.socket) -> NoReturn:
    status = 1
    try:
        if _settle(config, place, start):
            start.close()
            status = _serve(config)
    except Exception:
        # `start` does not read reports any more; the log may exist by now.
        logging.getLogger(__name__).critical("the shim ends", exc_info=True)
    finally:
        os._exit(status)


def _serve(config: DaemonConfig) -> int:
    # A waiting child has imported it already.  After a cold start this import takes the most time.
    # So it comes after the answer of `start`, but before the first call.
    from shimv2.daemon import serve  # noqa: PLC0415

    return serve(config)


def _settle(config: DaemonConfig, place: Place, start: socket.socket) -> bool:
    """Become a daemon, set OOM score and cgroup, report; return whether to serve."""
    try:
        _detach([config.listener, start], forking=True)
        os.setpgid(0, 0)
        _unlink_on_stop_signals(config)
        _apply(place, config.identity)
        start.send(_READY)
        if start.recv(len(_GO)) == _GO:
            return True
    except Exception as error:  # noqa: BLE001 - `start` reports any error
        with contextlib.suppress(OSError):  # `start` is gone
            text = os_error(error) if isinstance(error, OSError) else str(error)
            start.send(text.encode("utf-8", "replace")[:_REPORT_LIMIT_BYTES])
    config.unlink_socket()  # `start` does the same if it still runs
    return False


def _unlink_on_stop_signals(config: DaemonConfig, *more: int) -> None:
    """Make stop signals remove the socket file, until the server has its own handlers."""

    def stop(*_: object) -> None:
        config.unlink_socket()
        os._exit(0)

    for number in (signal.SIGTERM, signal.SIGINT, *more):
        signal.signal(number, stop)


def _detach(kept: Sequence[socket.socket], *, forking: bool) -> None:
    """Close all fds but `kept`.  With `forking` also leave the parent and the session.

    Not with the defaults of python-daemon: these set the umask to 0 and the hard core limit to 0,
    and ignore the stop signals, and containers would inherit all three.
    """
    with open(os.devnull, "r+b", buffering=0) as null:
        for name in ("stdin", "stdout", "stderr"):
            if getattr(sys, name) is None:  # it was closed when the interpreter started
                setattr(
                    sys, name, os.fdopen(("stdin", "stdout", "stderr").index(name), closefd=False)
                )
        DaemonContext(
            detach_process=forking,
            prevent_core=False,
            working_directory=".",
            umask=_umask(),
            signal_map={},
            files_preserve=[*kept],
            stdin=null,
            stdout=null,
            stderr=null,
        ).open()


def _close_streams() -> None:
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for fd in range(3):
        os.dup2(null, fd)
    os.close(null)


def _umask() -> int:
    current = os.umask(0o077)  # the only way to read it is to set it
    os.umask(current)
    return current


def _apply(place: Place, identity: Identity) -> None:
    os.environ["GOMAXPROCS"] = "4"  # as the Go shim: runtimes written in Go read it
    os.environ["OTEL_SERVICE_NAME"] = f"containerd-shim-{identity.id}"
    set_title([sys.argv[0], *server_args(identity)])
    if place.cgroup:
        join_cgroup(place.cgroup)
    if place.oom_score_adj is not None:
        _set_oom_score(place.oom_score_adj)


# --- the place ----------------------------------------------------------------------------------


def join_cgroup(path: str) -> None:
    """Move this process to the cgroup `path`: with cgroup v1 in each hierarchy that has it.

    Raises:
        Refused: no hierarchy has it, or the kernel refuses.
    """
    from shimv2.cgroups import tree  # noqa: PLC0415 - rarely used

    unified = tree.is_unified()
    if not path.startswith("/") or ".." in path.split("/"):
        why = "invalid group path" if unified else "cgroup deleted"
        raise Refused(f"failed to load cgroup {path}: cgroups: {why}")
    folders = tree.folders(path)
    if not unified:
        folders = [folder for folder in folders if os.path.isdir(folder)]
        if not folders:
            raise Refused(f"failed to load cgroup {path}: cgroups: cgroup deleted")
    for folder in folders:
        name = f"{folder}/cgroup.procs"
        trying = "open"
        try:
            with open(name, "w", encoding="ascii") as file:
                trying = "write"
                file.write(str(os.getpid()))
        except OSError as error:
            why = f"{trying} {name}: {strerror(error.errno or 0)}"
            raise Refused(f"failed to join cgroup {path}: {why}") from None


def oom_score_of(pid: int) -> int:
    """Read the OOM score of the daemon `pid`.

    Raises:
        Refused: it cannot be read.
    """
    try:
        with open(f"/proc/{pid}/oom_score_adj", encoding="ascii") as file:
            return int(file.read())
    except OSError as error:
        why = f"get parent OOM score: {os_error(error)}"
        raise Refused(f"failed to adjust OOM score for shim: {why}") from None


def oom_score_above(score: int) -> int:
    """Return the OOM score of a shim whose daemon has `score`.

    It is one more: the kernel kills the shim before the daemon.
    """
    low, high = _OOM_SCORE_RANGE
    return max(low, min(high, score + 1))


def _set_oom_score(score: int) -> None:
    try:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write(str(score))
    except PermissionError:
        pass  # below the inherited score and without CAP_SYS_RESOURCE: rootless
    except OSError as error:
        why = f"set shim OOM score: {os_error(error)}"
        raise Refused(f"failed to adjust OOM score for shim: {why}") from None
