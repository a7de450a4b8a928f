"""The child a zygote forks ahead of need: it takes one request and works it off.

It waits where the zygote listens.  What may differ between the launcher and it is applied
(attributes.py) before it says "ok"; until it has heard "go" nothing else has happened, so that the
launcher can go another way at any time.  From then on it is to its caller as if the launcher did
the work itself, and ends when the launcher does.
"""

import contextlib
import fcntl
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, NoReturn

from shimv2.pagesharing import memory
from shimv2.values.errors import Refused
from shimv2.zygote.attributes import become_like
from shimv2.zygote.protocol import TAKEN, TOUCHED, Given, Request

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

    from shimv2.daemon_config import IdleHook

FD_LIMIT: Final = 2**31 - 1  # close_range(2) takes what there is
_AGREE_LIMIT_S: Final = 1.0  # for the launcher's next word: it is waited for with nothing else


class Caller:
    """The launcher a request came from, while it waits for the outcome; a `bootstrap.Caller`."""

    def __init__(self, connection: socket.socket, zygote: socket.socket, oom_score: str) -> None:
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
        return memory.Reclaimer if memory.is_published() else None

    def let_go(self) -> None:
        self.tell(0)

    def tell(self, status: int) -> None:
        """Tell the exit status; from then on the launcher's end is not ours.

        Raises:
            OSError: it has gone before it was told.
        """
        _die_with(self._connection, on=False)
        self._connection.send(bytes([status]))
        self._connection.close()


Work = Callable[[Sequence[str], Caller], int]
"""What a spare does with a command line: the exit status, which it has not told yet."""


def serve_once(
    key: bytes, listener: socket.socket, zygote: socket.socket, work: Work, touched: bytes
) -> NoReturn:
    """Wait for a launcher with the same `key`, do its `work`, and end.

    `touched` is what another has told to have touched; empty if none has.
    """
    _close_all_but(listener.fileno(), zygote.fileno())
    if touched:
        memory.touch_ahead(touched)
    else:
        memory.tell_touched(lambda runs: _tell(zygote, TOUCHED + runs))
    while True:
        connection = _next_connection(listener, zygote)
        if connection is None:
            os._exit(0)
        with connection:
            request = _taken(connection, key)
            if request is None:
                continue
            zygote.send(TAKEN)
            listener.close()
            caller = Caller(connection, zygote, request.daemon_oom_score)
            status = 1
            try:
                status = work(request.argv, caller)
            finally:
                with contextlib.suppress(OSError):  # it has gone: nobody is left to tell
                    caller.tell(status)
                os._exit(status)


def _tell(zygote: socket.socket, word: bytes) -> None:
    with contextlib.suppress(OSError):  # it has gone, or has too much to read: it is not needed
        zygote.send(word, socket.MSG_DONTWAIT)


def _next_connection(listener: socket.socket, zygote: socket.socket) -> socket.socket | None:
    """Wait for a launcher; None when the zygote is gone and so is the reason to wait."""
    waiting = select.poll()
    waiting.register(listener, select.POLLIN)
    waiting.register(zygote, select.POLLIN)
    while True:
        ready = dict(waiting.poll())
        if zygote.fileno() in ready:
            return None
        try:
            return listener.accept()[0]
        except OSError:
            continue  # it has gone again


def _taken(connection: socket.socket, key: bytes) -> Request | None:
    """Agree with a launcher on its request and become like it; None when there is no agreement."""
    try:
        connection.settimeout(_AGREE_LIMIT_S)
        if _peer_uid(connection) != os.geteuid():
            return None
        request = Request.receive(connection)
        if request is None or request.key != key:
            return None
        become_like(request.state)
        connection.send(b"ok")
        given = Given.receive(connection)
        connection.settimeout(None)
    except (OSError, ValueError):
        return None
    if given is None:
        return None
    _put_on(request.environ, given)
    _die_with(connection, on=True)
    if select.select([connection], [], [], 0)[0]:  # it went just before
        os._exit(0)
    return request


def _peer_uid(connection: socket.socket) -> int:
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", raw)[1])


def _put_on(environ: Sequence[bytes], given: Given) -> None:
    """Take over the launcher's streams, folder and environment."""
    for number, fd in enumerate(given.streams):
        os.dup2(fd, number)
        os.close(fd)
    os.fchdir(given.folder)
    os.close(given.folder)
    os.environb.clear()
    for pair in environ:
        name, _, value = pair.partition(b"=")
        if name:
            os.environb[name] = value
    time.tzset()


def _die_with(connection: socket.socket, *, on: bool) -> None:
    """End (SIGIO's default) when the launcher closes its end: its caller has given up."""
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
