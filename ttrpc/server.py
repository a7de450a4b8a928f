"""A ttrpc server: accepts connections, checks the peers, runs sessions, shuts down in order."""

import asyncio
import functools
import itertools
import logging
import os
import socket
from collections.abc import Callable
from typing import Final

from ttrpc import errors
from ttrpc.call import PeerCredentials
from ttrpc.codes import Code
from ttrpc.errors import StatusError
from ttrpc.registry import Registry
from ttrpc.session import Session
from ttrpc.transport import peer_credentials

log = logging.getLogger("ttrpc")

ACCEPTS_PER_STEP: Final = 64
BACKOFF_S: Final = (0.001, 1.0)  # after a failed accept: first and longest pause
# Pauses between two checks while shutting down.  Usually only the reply to Shutdown is left.  It is
# written after one iteration of the loop, so the first pauses are 0.
IDLE_PAUSES_S: Final = (0, 0, 0, 0, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.05)
HANDLERS_END_S: Final = 5.0  # handlers have to end within this time after cancellation


def same_user(peer: PeerCredentials) -> bool:
    """Allow a peer with this process's effective uid and gid; the Go shims check the same."""
    return peer.uid == os.geteuid() and peer.gid == os.getegid()


def to_status(exc: Exception) -> StatusError:
    """Map the usual errors to their codes.  Any other error is a bug: log its traceback."""
    status = errors.to_status(exc)
    if status.code == Code.UNKNOWN and status is not exc:
        log.error("unexpected error in a handler", exc_info=exc)
    return status


class Server:
    """Serves a registry on any number of sockets, until `close` or `shutdown`."""

    def __init__(
        self,
        registry: Registry,
        *,
        to_status: Callable[[Exception], StatusError] = to_status,
        allow_peer: Callable[[PeerCredentials], bool] = same_user,
    ) -> None:
        self._registry = registry
        self._to_status = to_status
        self._allow_peer = allow_peer
        self._listeners: dict[socket.socket, asyncio.TimerHandle | None] = {}
        self._backoff_s = BACKOFF_S[0]
        self._sessions: set[Session] = set()
        self._ending: set[asyncio.Task[None]] = set()

    @property
    def connections(self) -> int:
        return len(self._sessions)

    @property
    def calls(self) -> int:
        """Calls of all connections that are not answered yet."""
        return sum(session.calls for session in self._sessions)

    def listen(self, sock: socket.socket) -> None:
        """Accept connections from a listening Unix socket.  The server owns it from now on."""
        sock.setblocking(False)
        self._listeners[sock] = None
        self._watch(sock)

    def stop_listening(self) -> None:
        """Close the listeners.  Connections stay open.  The caller has to unlink the paths."""
        loop = asyncio.get_running_loop()
        for sock, pause in self._listeners.items():
            if pause is None:
                loop.remove_reader(sock.fileno())
            else:
                pause.cancel()
            sock.close()
        self._listeners.clear()

    async def flush(self, timeout_s: float) -> None:
        """Wait until the kernel has accepted all replies that were written before this call."""
        try:
            async with asyncio.timeout(timeout_s):
                for session in list(self._sessions):
                    await session.flush()
        except TimeoutError:
            log.warning("a client did not read its replies in time")

    async def shutdown(self, timeout_s: float) -> None:
        """Accept no more connections, and close each open one as soon as it is idle.

        After `timeout_s` close the others as `close` does.
        """
        self.stop_listening()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        pauses_s = itertools.chain(IDLE_PAUSES_S, itertools.repeat(IDLE_PAUSES_S[-1]))
        for pause_s in pauses_s:
            for session in [session for session in self._sessions if session.idle]:
                session.close()
            if not self._sessions or loop.time() >= deadline:
                break
            await asyncio.sleep(pause_s)
        await self.close()

    async def close(self) -> None:
        """Close all connections and cancel all handlers.  Returns when the handlers have ended.

        If a handler takes longer than `HANDLERS_END_S`, that is logged, and it is not awaited.
        """
        self.stop_listening()
        for session in list(self._sessions):
            session.close()
        current = asyncio.current_task()
        tasks = {task for task in self._ending if task is not current}
        if tasks:
            _, left = await asyncio.wait(tasks, timeout=HANDLERS_END_S)
            for task in left:
                log.error("a cancelled handler does not end", extra={"task": repr(task)})

    def _watch(self, sock: socket.socket) -> None:
        self._listeners[sock] = None
        loop = asyncio.get_running_loop()
        loop.add_reader(sock.fileno(), functools.partial(self._accept, sock))

    def _accept(self, sock: socket.socket) -> None:
        for _ in range(ACCEPTS_PER_STEP):
            try:
                connected, _address = sock.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as exc:
                self._back_off(sock, exc)
                return
            self._backoff_s = BACKOFF_S[0]
            self._open(connected)

    def _back_off(self, sock: socket.socket, exc: OSError) -> None:
        """Pause accepting after a temporary error: no fds, no memory, or a client that left.

        Clients in the backlog wait.  Without the pause the loop would retry without end.
        """
        pause_s = self._backoff_s
        self._backoff_s = min(pause_s * 2, BACKOFF_S[1])
        log.warning("accept failed", extra={"error": str(exc), "pause_s": pause_s})
        loop = asyncio.get_running_loop()
        loop.remove_reader(sock.fileno())
        self._listeners[sock] = loop.call_at(loop.time() + pause_s, self._watch, sock)

    def _open(self, sock: socket.socket) -> None:
        peer = peer_credentials(sock)
        if not self._allow_peer(peer):
            who = {"peer_pid": peer.pid, "uid": peer.uid, "gid": peer.gid}
            log.warning("ttrpc: refusing connection after handshake", extra=who)
            sock.close()
            return
        sock.setblocking(False)
        session = Session(
            asyncio.get_running_loop(),
            sock,
            peer,
            registry=self._registry,
            to_status=self._to_status,
            ending=self._ending,
            on_end=self._sessions.discard,
        )
        self._sessions.add(session)
        session.start()
