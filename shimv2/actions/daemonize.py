"""Leaves the server behind: from a child of `start` to a daemon in its place.

    start ── fork ──► child ── DaemonContext: fork, setsid, fork ──► server      (leave)
      └────────────────── one socket pair ─────────────────────────────┘

    a zygote's waiting child, whose parent is 1 already, itself                  (stay)

Only the child opens the DaemonContext: opening it ends the process that does, and `start` has
still to answer.  The server knows its own pid, so it takes its place (OOM score, cgroup) by itself
and reports over the pair; then it waits for a word from `start`.  Without one - `start` failed to
answer, or was killed - no client can learn of this server, and it ends.

A waiting child has imported everything that the server needs.  After a cold start the server
imports it first, after the answer and before the first call: an upgrade may replace the files under
a running shim.
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
from shimv2.kernel.title import server_words, set_title
from shimv2.values.errors import Refused
from shimv2.values.model import Identity

READY_LIMIT_S: Final = 10.0
_REPORT_LIMIT_BYTES: Final = 4096
_READY: Final = b"ready"  # else the report is the text of an error
_GO: Final = b"go"

_OOM_SCORE_RANGE: Final = (-1000, 1000)


@dataclass(frozen=True, slots=True)
class Place:
    """Where the server belongs."""

    oom_score_adj: int | None  # None: as inherited
    cgroup: str  # "" = as inherited


def leave(config: DaemonConfig, place: Place, answer: Callable[[], None]) -> None:
    """Fork the server and `answer`; it serves once the answer is out.  Closes our listener.

    Raises:
        Refused, or what `answer` raises: there is no server then.
    """
    with _left_behind(config, place):
        answer()
    config.listener.close()


def stay(
    config: DaemonConfig,
    place: Place,
    answer: Callable[[], None],
    *,
    told: Callable[[], None],
    kept: Sequence[socket.socket],
) -> NoReturn:
    """Become the server in this process, which was forked for it; `answer` first.

    `told` lets the caller go; if that fails there is none, and so no server.  `kept` stay open.

    Raises:
        Refused, or what `answer` raises: this process is then to end.
    """
    os.setpgid(0, 0)
    _end_tidily(config, signal.SIGIO)
    _take(place, config.identity)
    answer()
    status = 1
    try:
        _let_go_of_streams()  # the daemon reads `start`'s output to its end
        told()
        signal.signal(signal.SIGIO, signal.SIG_DFL)
        _detach([config.listener, *kept], forking=False)
        status = _serve(config)
    except Exception:
        config.unlink_socket()
        logging.getLogger(__name__).critical("the shim ends", exc_info=True)
    finally:
        os._exit(status)


@contextlib.contextmanager
def _left_behind(config: DaemonConfig, place: Place) -> Iterator[None]:
    """Fork the server, in its place when the block begins; it serves when the block has ended.

    If the block fails, the server ends and removes its socket.

    Raises:
        Refused: it could not be made or take its place; it is gone.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        with theirs:
            try:
                pid = os.fork()  # noqa: TID251 - where every shim comes from: no thread, no loop yet
            except OSError as error:
                raise Refused(f"fork: {os_error(error)}") from None
            if pid == 0:
                _become_server(config, place, theirs)
        report = _report(ours)
        os.waitpid(pid, 0)  # noqa: TID251 - the first of the three; there is no reaper here
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


def _become_server(config: DaemonConfig, place: Place, start: socket.socket) -> NoReturn:
    status = 1
    try:
        if _settle(config, place, start):
            start.close()
            status = _serve(config)
    except Exception:
        # `start` does not listen any more; the log may be there by now.
        logging.getLogger(__name__).critical("the shim ends", exc_info=True)
    finally:
        os._exit(status)


def _serve(config: DaemonConfig) -> int:
    # A waiting child has imported it.  In a cold start it takes the most time, and `start` has to
    # answer first; all is imported before the first call is served.
    from shimv2.daemon import serve  # noqa: PLC0415

    return serve(config)


def _settle(config: DaemonConfig, place: Place, start: socket.socket) -> bool:
    """Become a daemon, take the place, report; whether to serve."""
    try:
        _detach([config.listener, start], forking=True)
        os.setpgid(0, 0)
        _end_tidily(config)
        _take(place, config.identity)
        start.send(_READY)
        if start.recv(len(_GO)) == _GO:
            return True
    except Exception as error:  # noqa: BLE001 - whatever it is, `start` has to tell it
        with contextlib.suppress(OSError):  # `start` is gone
            text = os_error(error) if isinstance(error, OSError) else str(error)
            start.send(text.encode("utf-8", "replace")[:_REPORT_LIMIT_BYTES])
    config.unlink_socket()  # `start` does the same, if it lives
    return False


def _end_tidily(config: DaemonConfig, *more: int) -> None:
    """Until the server handles them itself, let stop signals remove the socket, too."""

    def stop(*_: object) -> None:
        config.unlink_socket()
        os._exit(0)

    for number in (signal.SIGTERM, signal.SIGINT, *more):
        signal.signal(number, stop)


def _detach(kept: Sequence[socket.socket], *, forking: bool) -> None:
    """Leave all fds but `kept` behind, and parent and session (`forking`); keep what children
    should inherit.

    The defaults of python-daemon would set the umask to 0, the hard core limit to 0, and ignore the
    stop signals: containers would get all three.
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


def _let_go_of_streams() -> None:
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for fd in range(3):
        os.dup2(null, fd)
    os.close(null)


def _umask() -> int:
    current = os.umask(0o077)  # the only way to read it is to set it
    os.umask(current)
    return current


def _take(place: Place, identity: Identity) -> None:
    os.environ["GOMAXPROCS"] = "4"  # as the reference: runtimes written in Go see it
    os.environ["OTEL_SERVICE_NAME"] = f"containerd-shim-{identity.id}"
    set_title([sys.argv[0], *server_words(identity)])
    if place.cgroup:
        join_cgroup(place.cgroup)
    if place.oom_score_adj is not None:
        _set_oom_score(place.oom_score_adj)


# --- the place ----------------------------------------------------------------------------------


def join_cgroup(path: str) -> None:
    """Move this process to the cgroup the options name: with v1 in every hierarchy that has it.

    Raises:
        Refused: none has it, or the kernel refuses; v2, with one hierarchy, says what was tried.
    """
    from shimv2.cgroups import tree  # noqa: PLC0415 - seldom asked for

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
    """Return the OOM score of a shim whose daemon has `score`: one more, so the shim goes first."""
    low, high = _OOM_SCORE_RANGE
    return max(low, min(high, score + 1))


def _set_oom_score(score: int) -> None:
    try:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write(str(score))
    except PermissionError:
        pass  # below what we inherited, and without CAP_SYS_RESOURCE: rootless, or a small machine
    except OSError as error:
        why = f"set shim OOM score: {os_error(error)}"
        raise Refused(f"failed to adjust OOM score for shim: {why}") from None
