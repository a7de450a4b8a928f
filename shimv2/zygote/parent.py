"""The warm parent: a process that has imported everything and forks on request.

    cold `start` ── forks when it has answered ──► zygote ── forks ──► spare ... becomes a shim
    launcher ─────────────── SOCK_SEQPACKET ──────────────────────────►

The zygote itself takes no request: it keeps one *spare* child ahead of need, whose parent is 1
already, and the spare accepts.  So a `start` waits for no fork at all.  A spare that has taken a
request tells the zygote, which then forks the next one.  The pair of sockets between the two tells
all that either has to know of the other: a word says "taken", the end of file says "gone"; and the
first to come to rest says which pages it has touched until then, so that others do so in time.

A zygote serves launchers that are in every respect what its own caller was: the key, see
launcher.c.  One that is stopped or killed at any moment costs a launcher its patience and no
more.

It is no subreaper, it has no loop and no thread, and its death harms no shim.  When the last shim
has ended it lingers, then it removes its socket and ends.
"""

import contextlib
import fcntl
import os
import select
import shutil
import signal
import socket
from typing import TYPE_CHECKING, Any, Final, NoReturn

from shimv2.zygote.protocol import TAKEN, TOUCHED, Birth

if TYPE_CHECKING:
    from shimv2.zygote.child import Work

_BACKLOG: Final = 4096
_WAY_MS: Final = 15  # a `start` takes 3
_LONGEST_WORD: Final = 1 << 17  # bytes: a socket's buffer has room for more
_WARMING: Final = "warm-"  # and the pid of the zygote whose folder it is: see warmup.py
_TITLE: Final = "containerd-shim-pyrunc-zygote"


def leave_behind(birth: Birth, work: "Work", linger_s: float) -> None:
    """Fork a zygote that serves until nobody has needed it for `linger_s`; returns at once.

    Does nothing if one listens already.  What it imports it imports itself: the caller has answered
    and wants to end.
    """
    if os.fork() == 0:  # noqa: TID251 - no thread and no loop here, and none in the zygote
        try:
            if os.fork() == 0:  # noqa: TID251 - the second of the two of a daemon
                _become_zygote(birth, work, linger_s)
        finally:
            os._exit(0)


def _become_zygote(birth: Birth, work: "Work", linger_s: float) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for fd in range(3):  # first of all: the daemon reads `start`'s output to its end
        os.dup2(null, fd)
    from shimv2.kernel.title import set_title  # noqa: PLC0415
    from shimv2.zygote.child import FD_LIMIT  # noqa: PLC0415 - here and below: the caller need not wait

    os.closerange(3, FD_LIMIT)
    os.setsid()
    os.environ.clear()  # a shim gets its caller's
    set_title([_TITLE, birth.program])
    os.chdir("/")
    listener = _listen(birth.path)
    if listener is None:
        return
    with contextlib.suppress(FileNotFoundError), listener:
        from shimv2.zygote import warmup  # noqa: PLC0415 - all of the shim

        warmup.up(os.path.dirname(birth.path))
        set_title([_TITLE, birth.program])  # what was shown lies in a file's pages now
        try:
            _Zygote(birth, listener, work, linger_s).run()
        finally:
            os.unlink(birth.path)


def _listen(path: str) -> socket.socket | None:
    """Bind the zygote's socket; None when another zygote listens there.

    Raises:
        OSError: the folder is not ours alone, or cannot be made.
    """
    folder = os.path.dirname(path)
    os.makedirs(os.path.dirname(folder), mode=0o755, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        os.mkdir(folder, 0o700)
    found = os.lstat(folder)
    if found.st_uid != os.geteuid() or found.st_mode & 0o77:
        raise PermissionError(f"{folder} is not ours alone")
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)  # held for the few system calls below, by everybody
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with contextlib.ExitStack() as undo:
            undo.callback(listener.close)
            if _answers(path):
                return None
            _sweep(folder)
            listener.bind(path)
            listener.listen(_BACKLOG)
            undo.pop_all()
        return listener
    finally:
        os.close(lock)


def _sweep(folder: str) -> None:
    """Remove what killed zygotes have left, of an older key as well: nobody else will."""
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        if name.endswith(".sock") and not _answers(path):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        elif name.startswith(_WARMING) and not os.path.exists(f"/proc/{name[len(_WARMING) :]}"):
            shutil.rmtree(path, ignore_errors=True)


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(path)
        except BlockingIOError:
            return True
        except OSError:
            return False
    return True


class _Zygote:
    def __init__(
        self, birth: Birth, listener: socket.socket, work: "Work", linger_s: float
    ) -> None:
        self._birth = birth
        self._listener = listener
        self._work = work
        self._linger_s = linger_s
        self._children: dict[int, socket.socket] = {}  # shims and the spare, by fd
        self._poll = select.poll()
        self._actions: dict[int, Any] = {}  # of signals, as inherited: a caller may ignore SIGHUP
        self._touched = b""  # as the first shim has told

    def run(self) -> None:
        """Keep a spare until nobody has been there for the time to linger."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            self._actions[number] = signal.signal(number, _end)
        spare = self._fork()
        while True:
            lonely = self._children.keys() == {spare}
            ready = self._poll.poll(self._linger_s * 1000 if lonely else None)
            if not ready and lonely:
                return
            for fd, _ in ready:
                taken = self._hear(fd)
                if fd == spare and not taken:
                    return  # it ended for no reason: whatever is wrong, more forks do not mend it
                if fd == spare:
                    self._give_way()
                    spare = self._fork()

    def _give_way(self) -> None:
        """Let the spare that was taken do its work first, unless the next launcher is there.

        Two processors that are one in truth, or one that both are on: it would take half as long
        again.
        """
        waiting = select.poll()
        waiting.register(self._listener, select.POLLIN)
        waiting.poll(_WAY_MS)

    def _hear(self, fd: int) -> bool:
        """Listen to a child; whether it has taken a request."""
        try:
            word = self._children[fd].recv(_LONGEST_WORD)
        except ConnectionResetError:
            word = b""
        if not word:
            self._poll.unregister(fd)
            self._children.pop(fd).close()
        if word[:1] == TOUCHED and not self._touched:
            self._touched = word[1:]
        return word == TAKEN

    def _fork(self) -> int:
        """Fork a spare whose parent is 1; the fd of our end of the pair."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        middle = os.fork()  # noqa: TID251 - no thread, no loop
        if middle == 0:
            try:
                os.setsid()  # of which the spare is not the leader: no terminal can become its own
                if os.fork() == 0:  # noqa: TID251 - the one in the middle ends: so its parent is 1
                    from shimv2.zygote.child import serve_once  # noqa: PLC0415 - it has been imported

                    for number, action in self._actions.items():
                        signal.signal(number, action)
                    serve_once(self._birth.key, self._listener, theirs, self._work, self._touched)
            finally:
                os._exit(0)
        os.waitpid(middle, 0)  # noqa: TID251 - there is no reaper here
        theirs.close()
        self._children[ours.fileno()] = ours
        self._poll.register(ours, select.POLLIN)
        return ours.fileno()


def _end(_number: int, _frame: object) -> NoReturn:
    raise SystemExit(0)
