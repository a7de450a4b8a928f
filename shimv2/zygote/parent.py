"""The zygote: a process that has imported everything, and forks shims for launchers.

    cold `start` ── forks, after its answer ──► zygote ── forks ──► waiting child ... becomes a shim
    launcher ─────────────────── SOCK_SEQPACKET ───────────────────────►

The zygote itself takes no request: it keeps one waiting child, whose parent is 1 already, and that
child accepts.  So no `start` waits for a fork.  A child that has taken a request tells the zygote,
which then forks the next one.  A pair of sockets connects the two: a word says "taken", the end of
file says "ended"; and the first child to come to rest says which pages it has touched until then,
so that later children prefault them.

A zygote serves launchers that have its own caller's key (description.c) and settings.  When it is
stopped or killed, at any moment, a launcher loses a little time and makes a cold start.

It is no subreaper, it has no loop and no thread, and its end harms no shim.  After the last shim
has ended it lingers, then it removes its socket and ends.
"""

import os
import select
import signal
import socket
from typing import Any, Final, NoReturn

from shimv2.zygote.child import Service, serve_once
from shimv2.zygote.protocol import TAKEN, TOUCHED

_FORK_DELAY_MS: Final = 15  # a `start` takes 3
_LONGEST_WORD: Final = 1 << 17  # bytes: a socket's buffer has room for more


class Zygote:
    """Keeps a waiting child at `listener`; ends `linger_s` after the last of its shims."""

    def __init__(self, service: Service, listener: socket.socket, linger_s: float) -> None:
        self._service = service
        self._listener = listener
        self._linger_s = linger_s
        self._children: dict[int, socket.socket] = {}  # shims and the waiting child, by fd
        self._poll = select.poll()
        self._actions: dict[int, Any] = {}  # of signals, as inherited: a caller may ignore SIGHUP
        self._touched = b""  # as the first shim has told

    def run(self) -> None:
        """Serve until no launcher has come and no shim has lived for `linger_s`."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            self._actions[number] = signal.signal(number, _end)
        waiting = self._fork()
        while True:
            is_idle = self._children.keys() == {waiting}
            ready = self._poll.poll(self._linger_s * 1000 if is_idle else None)
            if not ready and is_idle:
                return
            for fd, _ in ready:
                word = self._receive(fd)
                if fd != waiting:
                    continue
                if word != TAKEN:
                    return  # RETIRE, or it was killed: whatever is wrong, a cold start is right
                self._delay_fork()
                waiting = self._fork()

    def _delay_fork(self) -> None:
        """Let the child that was taken do its work first, unless the next launcher has come.

        Where two processors share a core, or a memory bus, a fork at the same time makes the
        `start` under way take half as long again.
        """
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        poll.poll(_FORK_DELAY_MS)

    def _receive(self, fd: int) -> bytes:
        """Receive a child's word; empty when it has ended."""
        try:
            word = self._children[fd].recv(_LONGEST_WORD)
        except ConnectionResetError:
            word = b""
        if not word:
            self._poll.unregister(fd)
            self._children.pop(fd).close()
        if word[:1] == TOUCHED and not self._touched:
            self._touched = word[1:]
        return word

    def _fork(self) -> int:
        """Fork a waiting child whose parent is 1; the fd of this end of the pair."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        middle = os.fork()  # noqa: TID251 - no thread, no loop
        if middle == 0:
            try:
                os.setsid()  # the child does not lead it: no terminal can become its own
                if os.fork() == 0:  # noqa: TID251 - the one in the middle ends: so its parent is 1
                    for number, action in self._actions.items():
                        signal.signal(number, action)
                    serve_once(self._service, self._listener, theirs, self._touched)
            finally:
                os._exit(0)
        os.waitpid(middle, 0)  # noqa: TID251 - there is no reaper here
        theirs.close()
        self._children[ours.fileno()] = ours
        self._poll.register(ours, select.POLLIN)
        return ours.fileno()


def _end(_number: int, _frame: object) -> NoReturn:
    raise SystemExit(0)
