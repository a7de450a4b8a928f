"""Finds out with inotify whether a process writes to a file, even to one that keeps no content."""

import ctypes
import os
import struct
from pathlib import Path
from typing import Final, Self

_IN_MODIFY: Final = 0x2
_EVENT: Final = struct.Struct("iIII")  # watch, mask, cookie, bytes of the name (a file has none)
_READ_BYTES: Final = 4096

_libc = ctypes.CDLL(None, use_errno=True)


class Writes:
    """A context manager that records writes to files; owns an inotify instance."""

    def __init__(self, *paths: Path) -> None:
        self._names: dict[int, str] = {}
        self._fd = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise _last_error("inotify")
        for path in paths:
            watch = _libc.inotify_add_watch(self._fd, os.fsencode(path), _IN_MODIFY)
            if watch < 0:
                os.close(self._fd)
                raise _last_error(str(path))
            self._names[watch] = path.name

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def seen(self) -> set[str]:
        """Return the names of the files that were written since the last call."""
        try:
            events = os.read(self._fd, _READ_BYTES)
        except BlockingIOError:
            return set()
        found = _EVENT.iter_unpack(events)
        return {self._names[watch] for watch, mask, _, _ in found if mask & _IN_MODIFY}


def _last_error(what: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), what)
