"""Watches a container's cgroup for processes that the kernel kills for want of memory."""

import asyncio
import contextlib
import errno
import logging
import os
import select
from collections.abc import Callable
from typing import Final, Protocol

from shimv2.cgroups import v1, v2
from shimv2.cgroups.tree import Cgroup

log = logging.getLogger(__name__)

_GONE: Final = (errno.ENOENT, errno.ENODEV)
_LOOK_AGAIN_S: Final = (0.01, 0.04, 0.16, 0.64)
"""When a v1 cgroup is looked at again after a signal, which comes before the kill is counted."""


class OomWatch:
    """Tells each growth of the number of kills: once for several that are counted together.

    Kills are counted from the cgroup's making on, so none is lost before the watch begins; whoever
    tells an exit calls `look` before, so that the kill is told first.  Uses no thread and nothing
    while nothing happens; owns one fd, on v2 two, until `close` or the end of the cgroup.
    """

    def __init__(self, cgroup: Cgroup, tell: Callable[[], None], *, who: str) -> None:
        """Begin to watch; where that is not possible, it is logged and nothing is told."""
        self._tell = tell
        self._who = {"container": who}
        self._told = 0
        self._loop = asyncio.get_running_loop()
        self._again: asyncio.TimerHandle | None = None
        self._source: _Source | None = None
        try:
            self._source = _source(cgroup)
        except OSError as error:
            log.warning("OOM kills are not seen: %s", error, extra=self._who)
        if self._source is not None:
            self._loop.add_reader(self._source.fd, self._signalled)

    def look(self, *, signalled: bool = False) -> None:
        """Tell what has been killed since the last look."""
        if self._source is None:
            return
        try:
            kills = self._source.kills()
        except OSError as error:
            if error.errno not in _GONE:  # removed: the kernel signals that too, and it is no kill
                log.warning("OOM kills are not seen any more: %s", error, extra=self._who)
            self.close()
            return
        if kills is None:
            grown = signalled  # Linux before 4.13 does not count: the signal is all there is
        else:
            grown, self._told = kills > self._told, kills
        if grown:
            self._tell()

    def has_killed(self) -> bool:
        """Whether a kill is counted, told or not yet; the cgroup is looked at."""
        try:
            return bool(self._source and self._source.kills())
        except OSError:
            return False

    def _signalled(self) -> None:
        source = self._source
        if source is None:
            return
        source.acknowledge()
        self.look(signalled=True)
        if source.signals_before_it_counts:
            self._look_again(0)

    def _look_again(self, turn: int) -> None:
        if self._again is not None:
            self._again.cancel()
            self._again = None
        if self._source is not None and turn < len(_LOOK_AGAIN_S):
            self._again = self._loop.call_later(_LOOK_AGAIN_S[turn], self._later, turn)

    def _later(self, turn: int) -> None:
        self._again = None
        self.look()
        self._look_again(turn + 1)

    def close(self) -> None:
        """Stop watching.  Idempotent."""
        source, self._source = self._source, None
        if source is not None:
            self._loop.remove_reader(source.fd)
            source.close()
        if self._again is not None:
            self._again.cancel()
            self._again = None


class _Source(Protocol):
    """What one generation of cgroups offers: a signal to wait for, and a counter."""

    fd: int
    signals_before_it_counts: bool

    def acknowledge(self) -> None: ...

    def kills(self) -> int | None:
        """How many processes were killed; None when that is not counted.

        Raises:
            OSError: with ENOENT or ENODEV when the cgroup was removed.
        """
        ...

    def close(self) -> None: ...


def _source(cgroup: Cgroup) -> _Source | None:
    if cgroup.controllers is None:
        return FileEvents(f"{cgroup.directory}/memory.events", "oom_kill")
    folder = cgroup.controllers.get("memory")
    return _EventFd(folder) if folder else None


class _EventFd:
    """An eventfd registered with a v1 cgroup: signalled when its memory is used up.

    Also when nobody is killed for it, and when the cgroup is removed.
    """

    signals_before_it_counts = True

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        try:
            self._register()
        except OSError:
            os.close(self.fd)
            raise

    def _register(self) -> None:
        # The kernel needs the file only while it is named to it.
        control = os.open(f"{self._folder}/memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
        try:
            events = os.open(f"{self._folder}/cgroup.event_control", os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(events, b"%d %d" % (self.fd, control))
            finally:
                os.close(events)
        finally:
            os.close(control)

    def acknowledge(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.fd)

    def kills(self) -> int | None:
        return v1.oom_kills(self._folder)

    def close(self) -> None:
        os.close(self.fd)


class FileEvents:
    """A file of cgroup v2 that signals its changes, and one number in it.

    By EPOLLPRI, which lasts until the file is read again through the same fd.  Not by inotify: of
    its instances a user has 128, for all shims of the machine (fs.inotify.max_user_instances).
    An epoll of its own, because the file is always readable: only the outer one waits for that.
    """

    signals_before_it_counts = False

    def __init__(self, path: str, key: str) -> None:
        self._key = key
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._changes = select.epoll()
        self.fd = self._changes.fileno()
        try:
            self._changes.register(self._file, select.EPOLLPRI)
        except OSError:
            self.close()
            raise

    def acknowledge(self) -> None:
        """Nothing: `kills` reads the file."""

    def kills(self) -> int | None:
        return v2.counter(self._file, self._key)

    def close(self) -> None:
        self._changes.close()
        os.close(self._file)
