"""The waiting child: a process that a zygote forks ahead of need, and that serves one launcher.

It waits where the zygote listens.  It checks that the launcher is what its key says and takes over
the launcher's state before it answers "ok".  Until it has received "go" nothing else has happened,
so that the launcher can make a cold start instead at any time.  From then on it stands in for the
launcher, and ends when the launcher ends.
"""

import contextlib
import fcntl
import os
import select
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NoReturn

from shimv2.pagesharing.prefault import prefault, report_used_pages_to
from shimv2.pagesharing.publish import is_published
from shimv2.pagesharing.reclaim import Reclaimer
from shimv2.settings import ENVIRONMENT, SettingsError, load
from shimv2.values.errors import Refused
from shimv2.values.settings import Settings
from shimv2.zygote.attributes import apply_state
from shimv2.zygote.peer import verified_pid
from shimv2.zygote.protocol import RETIRE, TAKEN, TOUCHED, Handover, Request

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

    from shimv2.daemon_config import IdleHook

FD_LIMIT: Final = 2**31 - 1  # close_range(2) takes what there is
# How long other launchers wait behind one that says nothing.
_REQUEST_LIMIT_S: Final = 0.2
_GO_LIMIT_S: Final = 1.0


class Caller:
    """The launcher that waits for the outcome; a `start.Caller`."""

    def __init__(
        self, connection: socket.socket, zygote: socket.socket, settings: Settings, oom_score: str
    ) -> None:
        self.settings = settings
        self.kept = (zygote,)  # it tells the zygote that the shim lives
        self._connection = connection
        self._oom_score = oom_score

    @property
    def daemon_oom_score(self) -> int:
        try:
            return int(self._oom_score)
        except ValueError:
            text = "failed to adjust OOM score for shim: get parent OOM score: it cannot be read"
            raise Refused(text) from None

    @property
    def idle_hook(self) -> "Callable[[AbstractEventLoop], IdleHook] | None":
        return Reclaimer if is_published() else None

    def let_go(self) -> None:
        self.send_status(0)

    def send_status(self, status: int) -> None:
        """Send the exit status; from then on this process outlives the launcher.

        Raises:
            OSError: the launcher has ended.
        """
        _end_with(self._connection, on=False)
        self._connection.send(bytes([status]))
        self._connection.close()


Work = Callable[[Sequence[str], Caller], int]
"""Does what a command line says; the exit status, which the caller has yet to be sent."""


@dataclass(frozen=True, slots=True)
class Service:
    """Whom a zygote serves, and what its children do."""

    key: bytes
    settings: Settings  # a start with others is not served
    work: Work


def serve_once(
    service: Service, listener: socket.socket, zygote: socket.socket, touched: bytes
) -> NoReturn:
    """Wait for a launcher, do its work, and end.

    `touched` is what the first shim of this zygote touched until it came to rest; empty for itself.
    """
    _close_all_but(listener.fileno(), zygote.fileno())
    if touched:
        prefault(touched)
    else:
        report_used_pages_to(lambda runs: _tell(zygote, TOUCHED + runs))
    while True:
        connection = _next_connection(listener, zygote)
        if connection is None:
            os._exit(0)
        with connection:
            request = _agreed(connection, zygote, service)
            if request is None:
                continue
            zygote.send(TAKEN)
            listener.close()
            caller = Caller(connection, zygote, service.settings, request.daemon_oom_score)
            status = 1
            try:
                status = service.work(request.argv, caller)
            finally:
                with contextlib.suppress(OSError):  # the launcher has ended
                    caller.send_status(status)
                os._exit(status)


def _tell(zygote: socket.socket, word: bytes) -> None:
    with contextlib.suppress(OSError):  # it has ended, or has too much to read: it can do without
        zygote.send(word, socket.MSG_DONTWAIT)


def _next_connection(listener: socket.socket, zygote: socket.socket) -> socket.socket | None:
    """Wait for a launcher; None when the zygote has ended, for then no launcher comes."""
    waiting = select.poll()
    waiting.register(listener, select.POLLIN)
    waiting.register(zygote, select.POLLIN)
    while True:
        ready = dict(waiting.poll())
        if zygote.fileno() in ready:
            return None
        try:
            return listener.accept()[0]
        except ConnectionAbortedError:
            continue  # the launcher has ended


def _agreed(connection: socket.socket, zygote: socket.socket, service: Service) -> Request | None:
    """Agree with a launcher on its request and take over its state; None without agreement."""
    try:
        connection.settimeout(_REQUEST_LIMIT_S)
        request = Request.receive(connection)
        if request is None or request.key != service.key:
            return None
        pid = verified_pid(connection, service.key)
        if pid is None:
            return None
        settings = _settings(request, pid)
    except (OSError, ValueError, SettingsError):
        return None  # a cold start says what is wrong with the settings
    if settings != service.settings:
        _leave(zygote, RETIRE)
    try:
        apply_state(request.state)
    except (OSError, ValueError, OverflowError):
        _leave(zygote, TAKEN)  # a part of it may be changed
    try:
        connection.send(b"ok")
        handover = _handover(connection)
        connection.settimeout(None)
    except OSError:
        return None
    if handover is None:
        return None
    _take_over(request.environ, handover)
    _end_with(connection, on=True)
    if select.select([connection], [], [], 0)[0]:  # it ended just before
        os._exit(0)
    return request


def _leave(zygote: socket.socket, word: bytes) -> NoReturn:
    """End without having done anything for the launcher, which makes a cold start."""
    zygote.send(word)
    os._exit(0)


def _settings(request: Request, pid: int) -> Settings:
    """Read the settings that the launcher's start is to have.

    Raises:
        SettingsError: they cannot be read.
    """
    named = request.variable(ENVIRONMENT)
    return load(os.path.join(f"/proc/{pid}/cwd", named) if named else None)


def _handover(connection: socket.socket) -> Handover | None:
    """Receive what follows "ok".

    Raises:
        OSError: nothing came.
    """
    connection.settimeout(_GO_LIMIT_S)
    try:
        return Handover.receive(connection)
    except TimeoutError:
        # The launcher may send it at this moment: after this it fails to, or it is here.
        connection.shutdown(socket.SHUT_RD)
        return Handover.receive(connection)


def _take_over(environ: Sequence[bytes], handover: Handover) -> None:
    """Take over the launcher's streams, working directory and environment."""
    for number, fd in enumerate(handover.streams):
        os.dup2(fd, number)
        os.close(fd)
    os.fchdir(handover.folder)
    os.close(handover.folder)
    os.environb.clear()
    for pair in environ:
        name, _, value = pair.partition(b"=")
        if name:
            os.environb[name] = value
    time.tzset()


def _end_with(connection: socket.socket, *, on: bool) -> None:
    """End, by SIGIO's default, when the launcher's end is closed: its caller has given up."""
    fd = connection.fileno()
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    fcntl.fcntl(fd, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(fd, fcntl.F_SETFL, flags | os.O_ASYNC if on else flags & ~os.O_ASYNC)


def _close_all_but(*kept: int) -> None:
    first = 3
    for number in sorted(kept):
        os.closerange(first, number)
        first = number + 1
    os.closerange(first, FD_LIMIT)
