"""Watches a container's cgroup for processes that the kernel's OOM killer ends."""

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

_REMOVED: Final = (errno.ENOENT, errno.ENODEV)
_RECHECKS_S: Final = (0.01, 0.04, 0.16, 0.64)
"""Delays of the further checks after a v1 signal: the kernel signals before it counts the kill."""


class OomWatch:
    """Reports each increase of the cgroup's count of OOM kills, with one call per increase.

    The kernel counts from the creation of the cgroup, so no kill before the watch is lost.  Before
    an exit is published, `check` must be called, so that the OOM event comes first.  The watch uses
    no thread and no CPU time while nothing happens.  It owns one fd (v1) or two (v2) until `close`
    or until the cgroup is removed.
    """

    def __init__(self, cgroup: Cgroup, publish: Callable[[], None], *, container_id: str) -> None:
        """Begin to watch `cgroup`.  If that is impossible, log it and report nothing."""
        self._publish = publish
        self._fields = {"container": container_id}
        self._reported = 0
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._source: _Source | None = None
        try:
            self._source = _source(cgroup)
        except OSError as error:
            log.warning("cannot watch for OOM kills: %s", error, extra=self._fields)
        if self._source is not None:
            self._loop.add_reader(self._source.fd, self._signalled)

    def check(self, *, signalled: bool = False) -> None:
        """Publish once if processes were killed since the last check."""
        if self._source is None:
            return
        try:
            kills = self._source.kills()
        except OSError as error:
            if error.errno not in _REMOVED:  # the kernel signals the removal of a cgroup as well
                log.warning("stopped watching for OOM kills: %s", error, extra=self._fields)
            self.close()
            return
        if kills is None:
            grown = signalled  # Linux before 4.13 has no counter, only the signal
        else:
            grown, self._reported = kills > self._reported, kills
        if grown:
            self._publish()

    def has_killed(self) -> bool:
        """Whether the kernel has counted a kill in this cgroup, published or not."""
        try:
            return bool(self._source and self._source.kills())
        except OSError:
            return False

    def _signalled(self) -> None:
        source = self._source
        if source is None:
            return
        source.acknowledge()
        self.check(signalled=True)
        if source.signals_before_it_counts:
            self._schedule_recheck(0)

    def _schedule_recheck(self, turn: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._source is not None and turn < len(_RECHECKS_S):
            self._timer = self._loop.call_later(_RECHECKS_S[turn], self._recheck, turn)

    def _recheck(self, turn: int) -> None:
        self._timer = None
        self.check()
        self._schedule_recheck(turn + 1)

    def close(self) -> None:
        """Stop watching.  Idempotent."""
        source, self._source = self._source, None
        if source is not None:
            self._loop.remove_reader(source.fd)
            source.close()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class _Source(Protocol):
    """One cgroup version's notification (`fd`) and counter of OOM kills."""

    fd: int
    signals_before_it_counts: bool

    def acknowledge(self) -> None: ...

    def kills(self) -> int | None:
        """Return how many processes were killed; None if the kernel has no counter.

        Raises:
            OSError: ENOENT or ENODEV: the cgroup was removed.
        """
        ...

    def close(self) -> None: ...


def _source(cgroup: Cgroup) -> _Source | None:
    if cgroup.controllers is None:
        return FileEvents(f"{cgroup.directory}/memory.events", "oom_kill")
    folder = cgroup.controllers.get("memory")
    return _EventFd(folder) if folder else None


class _EventFd:
    """An eventfd registered with a v1 cgroup's `memory.oom_control`.

    The kernel signals it when the cgroup is out of memory, even if it kills no process, and when
    the cgroup is removed (Documentation/admin-guide/cgroup-v1/memory.rst).
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
        # The kernel needs this fd only during the write to cgroup.event_control.
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
    """A cgroup v2 file that notifies of changes, and one counter in it.

    The notification is EPOLLPRI, which lasts until the file is read through the same fd.  inotify
    is not used: a user has 128 instances for all shims (fs.inotify.max_user_instances).  The file
    has its own epoll fd, registered for EPOLLPRI only: the file itself is always readable.
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
        """Do nothing: `kills` reads the file, which ends the notification."""

    def kills(self) -> int | None:
        return v2.counter(self._file, self._key)

    def close(self) -> None:
        self._changes.close()
        os.close(self._file)
