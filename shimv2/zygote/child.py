"""The waiting child: a process that a zygote forks in advance, and that serves one launcher.

1. It accepts a connection on the zygote's socket.
2. It checks that the launcher has the attributes in its key, and takes over the launcher's state.
3. It answers "ok".  Until the launcher has sent "go", the launcher can still make a cold start,
   because the child has changed nothing outside itself.
4. After "go" it does the launcher's work, and ends if the launcher ends.
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
from shimv2.zygote.protocol import FORK_NEXT, RETIRE, USED_PAGES, Handover, Request

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

    from shimv2.daemon_config import IdleHook

FD_LIMIT: Final = 2**31 - 1  # close_range(2) accepts a limit above the highest fd
# If a launcher sends nothing, other launchers wait for this time.
_REQUEST_LIMIT_S: Final = 0.2
_GO_LIMIT_S: Final = 1.0


class Caller:
    """The launcher, which waits for the exit status; a `start.Caller`."""

    def __init__(
        self, connection: socket.socket, zygote: socket.socket, settings: Settings, oom_score: str
    ) -> None:
        self.settings = settings
        self.kept = (zygote,)  # end of file shows the zygote that the shim has ended
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

    def report_success(self) -> None:
        self.send_status(0)

    def send_status(self, status: int) -> None:
        """Send the exit status.  After that this process does not end with the launcher any more.

        Raises:
            OSError: the launcher has ended.
        """
        _end_with(self._connection, on=False)
        self._connection.send(bytes([status]))
        self._connection.close()


Work = Callable[[Sequence[str], Caller], int]
"""Runs a command line and returns its exit status, which is not sent to the caller yet."""


@dataclass(frozen=True, slots=True)
class Service:
    """Which launchers a zygote serves, and the work of its children."""

    key: bytes
    settings: Settings  # a start with other settings is not served
    work: Work


def serve_once(
    service: Service, listener: socket.socket, zygote: socket.socket, used_pages: bytes
) -> NoReturn:
    """Wait for a launcher, do its work, and end.

    `used_pages` are the pages that the start of the zygote's first shim used; empty until that shim
    has reported them.
    """
    _close_all_but(listener.fileno(), zygote.fileno())
    if used_pages:
        prefault(used_pages)
    else:
        report_used_pages_to(lambda runs: _send_if_possible(zygote, USED_PAGES + runs))
    while True:
        connection = _next_connection(listener, zygote)
        if connection is None:
            os._exit(0)
        with connection:
            request = _accept_request(connection, zygote, service)
            if request is None:
                continue
            zygote.send(FORK_NEXT)
            listener.close()
            caller = Caller(connection, zygote, service.settings, request.daemon_oom_score)
            status = 1
            try:
                status = service.work(request.argv, caller)
            finally:
                with contextlib.suppress(OSError):  # the launcher has ended
                    caller.send_status(status)
                os._exit(status)


def _send_if_possible(zygote: socket.socket, word: bytes) -> None:
    with contextlib.suppress(OSError):  # the zygote has ended, or its buffer is full: not needed
        zygote.send(word, socket.MSG_DONTWAIT)


def _next_connection(listener: socket.socket, zygote: socket.socket) -> socket.socket | None:
    """Wait for a launcher; None if the zygote has ended: then no launcher can come."""
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


def _accept_request(
    connection: socket.socket, zygote: socket.socket, service: Service
) -> Request | None:
    """Check a launcher's request and take over its state; None if the request is not served."""
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
        return None  # the cold start reports what is wrong with the settings
    if settings != service.settings:
        _decline(zygote, RETIRE)
    try:
        apply_state(request.state)
    except (OSError, ValueError, OverflowError):
        _decline(zygote, FORK_NEXT)  # this child may have a part of the state: it is not reused
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
    if select.select([connection], [], [], 0)[0]:  # the launcher ended before O_ASYNC was on
        os._exit(0)
    return request


def _decline(zygote: socket.socket, word: bytes) -> NoReturn:
    """End before any work is done: the launcher then makes a cold start."""
    zygote.send(word)
    os._exit(0)


def _settings(request: Request, pid: int) -> Settings:
    """Read the settings for the launcher's start.

    Raises:
        SettingsError: they cannot be read.
    """
    named = request.variable(ENVIRONMENT)
    return load(os.path.join(f"/proc/{pid}/cwd", named) if named else None)


def _handover(connection: socket.socket) -> Handover | None:
    """Receive the message after "ok".

    Raises:
        OSError: no message came.
    """
    connection.settimeout(_GO_LIMIT_S)
    try:
        return Handover.receive(connection)
    except TimeoutError:
        # The launcher may send "go" at this moment.  After the shutdown its send has failed, or its
        # message is in our buffer.
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
    """Let this process end, or not any more, when the launcher closes the connection.

    End of file then sends SIGIO, whose default action ends a process.  The launcher's end of the
    socket closes when the launcher is killed.
    """
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
