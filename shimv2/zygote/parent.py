"""The zygote: a process with all modules imported, which forks shims for launchers.

    cold `start` ── forks, after its answer ──► zygote ── forks ──► waiting child ... becomes a shim
    launcher ─────────────────── SOCK_SEQPACKET ───────────────────────►

The zygote accepts no connection.  It keeps one waiting child, and that child accepts.  So no
`start` waits for a fork.  The parent of the waiting child is process 1 from the beginning.

A socket pair connects each child and the zygote.  When the child has a request, it sends FORK_NEXT,
and the zygote forks the next child.  End of file shows that the child has ended.  The first shim
sends the pages that its start has used.  Later children prefault them.

A zygote serves launchers that have the key (description.c) and the settings of the `start` that
made it.  If it is stopped or killed, at any moment, a launcher makes a cold start after a short
time.

The zygote is no subreaper, and it has no loop and no thread.  If it ends, its shims continue.
After the last shim has ended it lingers, then it removes its socket and ends.
"""

import os
import select
import signal
import socket
from typing import Any, Final, NoReturn

from shimv2.zygote.child import Service, serve_once
from shimv2.zygote.protocol import FORK_NEXT, USED_PAGES

_FORK_DELAY_MS: Final = 15  # a `start` takes 3 ms
_LONGEST_WORD: Final = 1 << 17  # bytes; the socket's buffer is larger


class Zygote:
    """Keeps a waiting child at `listener`; ends `linger_s` after the last of its shims."""

    def __init__(self, service: Service, listener: socket.socket, linger_s: float) -> None:
        self._service = service
        self._listener = listener
        self._linger_s = linger_s
        self._children: dict[int, socket.socket] = {}  # shims and the waiting child, by fd
        self._poll = select.poll()
        self._actions: dict[int, Any] = {}  # by signal, as inherited: a caller may ignore SIGHUP
        self._used_pages = b""  # the first shim's report

    def run(self) -> None:
        """Serve until there was no launcher and no shim for `linger_s`."""
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
                if word != FORK_NEXT:
                    return  # RETIRE, or the child was killed: cold starts are right in both cases
                self._delay_fork()
                waiting = self._fork()

    def _delay_fork(self) -> None:
        """Wait until the last child has done its work, or until the next launcher comes.

        If two processors share a core, or a memory bus, a fork during a `start` makes that `start`
        50 % longer.
        """
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        poll.poll(_FORK_DELAY_MS)

    def _receive(self, fd: int) -> bytes:
        """Receive a child's message; empty if the child has ended."""
        try:
            word = self._children[fd].recv(_LONGEST_WORD)
        except ConnectionResetError:
            word = b""
        if not word:
            self._poll.unregister(fd)
            self._children.pop(fd).close()
        if word[:1] == USED_PAGES and not self._used_pages:
            self._used_pages = word[1:]
        return word

    def _fork(self) -> int:
        """Fork a waiting child whose parent is process 1; return our fd of the socket pair."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        middle = os.fork()  # noqa: TID251 - no thread, no loop
        if middle == 0:
            try:
                os.setsid()  # the child is no session leader: it cannot get a controlling terminal
                if os.fork() == 0:  # noqa: TID251 - `middle` ends: the child's parent is then 1
                    for number, action in self._actions.items():
                        signal.signal(number, action)
                    serve_once(self._service, self._listener, theirs, self._used_pages)
            finally:
                os._exit(0)
        os.waitpid(middle, 0)  # noqa: TID251 - there is no reaper here
        theirs.close()
        self._children[ours.fileno()] = ours
        self._poll.register(ours, select.POLLIN)
        return ours.fileno()


def _end(_number: int, _frame: object) -> NoReturn:
    raise SystemExit(0)
