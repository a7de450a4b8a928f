"""The exit status of a container's init on disk: `<bundle>/exits/init.json`.

The record is written when the exit is reaped, before any client gets the exit.  After a crash of
the shim the `delete` action reports the recorded exit.  Without a record it has to report 137,
which looks like an OOM kill.  Execs have no record, because `delete` reports the init's exit only.

A record has the pid and the start time of the process that ended.  `delete` uses the record under
two conditions:

* The record's pid is the pid in `init.pid`.  If a bundle is used a second time, it gets a new
  `init.pid`, and a new init could have the old pid.  So `ExitRecords` removes the old record before
  the runtime writes the new `init.pid`.
* No living process has this pid and this start time.  If one has, the record is false.  If a living
  process has this pid and another start time, the kernel reused the pid.

There is no fsync: a record has to outlive the shim, not the machine.  /run is a tmpfs anyway.
"""

import contextlib
import json
import logging
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from shimv2.gocompat.gotext import os_error, rfc3339
from shimv2.kernel.proc import start_time_of
from shimv2.values import paths
from shimv2.values.model import Exit

log = logging.getLogger(__name__)

_RECORD_LIMIT_BYTES: Final = 8192
_FOLDER_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class ExitRecord:
    """The file's content.  `signal` is derived: an exit with status 137 looks like a SIGKILL."""

    id: str  # of the container
    pid: int
    start_time: int | None  # clock ticks after boot; None: it ended before the shim read it
    code: int  # as clients get it: 0..255; 128 + number after a signal
    time_ns: int  # CLOCK_REALTIME
    oom: bool = False

    @property
    def exit(self) -> Exit:
        return Exit(self.pid, self.code, self.time_ns)

    def to_json(self) -> bytes:
        text = {
            "id": self.id,
            "pid": self.pid,
            "start_time": self.start_time,
            "code": self.code,
            "signal": max(0, self.code - 128),
            "time": rfc3339(self.time_ns),
            "oom": self.oom,
        }
        return json.dumps(text).encode() + b"\n"

    @classmethod
    def from_json(cls, data: bytes) -> "ExitRecord":
        """Read a record.

        Raises:
            ValueError: `data` is not a record.
        """
        text = json.loads(data)
        match text:
            case {
                "id": str(id_),
                "pid": int(pid),
                "start_time": int() | None as start_time,
                "code": int(code),
                "time": str(when),
                "oom": bool(oom),
            } if pid > 0 and 0 <= code <= 255:
                return cls(id_, pid, start_time, code, _nanoseconds(when), oom)
        raise ValueError("not an exit record")


class ExitRecords:
    """Writes the record of one container.  Owns an fd of the bundle until `close`.

    Writing raises no error.  If a record cannot be written (the disk is full), that is logged.  The
    status is lost only if the shim crashes as well.
    """

    def __init__(self, bundle: str, container_id: str) -> None:
        """Open the bundle of a container that is not made yet, and remove an old record.

        Raises:
            OSError: there is no such folder.
        """
        self._id = container_id
        self._bundle_fd = os.open(bundle, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._remove_earlier()  # of a container made from this bundle before

    def close(self) -> None:
        fd, self._bundle_fd = self._bundle_fd, -1
        if fd >= 0:
            os.close(fd)

    def write_init(self, ended: Exit, *, start_time: int | None = None, oom: bool = False) -> None:
        """Write the record; it replaces an earlier one.

        `start_time` is in clock ticks after boot, None if it is not known.
        """
        if self._bundle_fd < 0:  # deleted in state CREATED: no `delete` will read it
            return
        record = ExitRecord(self._id, ended.pid, start_time, ended.status, ended.at_ns, oom)
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(paths.EXITS_DIR, 0o700, dir_fd=self._bundle_fd)
            with _folder(self._bundle_fd) as folder_fd:
                _replace(folder_fd, paths.INIT_RECORD, record.to_json())
        except OSError as error:
            log.warning(
                "the exit status %d of %s could not be recorded: %s",
                ended.status,
                self._id,
                os_error(error),
                extra={"container": self._id, "pid": ended.pid},
            )

    def _remove_earlier(self) -> None:
        try:
            with _folder(self._bundle_fd) as folder_fd:
                os.unlink(paths.INIT_RECORD, dir_fd=folder_fd)
        except FileNotFoundError:
            pass
        except OSError as error:
            log.warning(
                "an earlier exit record could not be removed: %s",
                os_error(error, op="unlink"),
                extra={"container": self._id},
            )


@contextlib.contextmanager
def _folder(bundle_fd: int) -> Iterator[int]:
    fd = os.open(paths.EXITS_DIR, _FOLDER_FLAGS, dir_fd=bundle_fd)
    try:
        yield fd
    finally:
        os.close(fd)


def _replace(folder_fd: int, name: str, content: bytes) -> None:
    """Replace a file atomically."""
    temporary = f".{name}.new"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(temporary, flags, 0o600, dir_fd=folder_fd)
    except FileExistsError:  # of a shim that crashed at this point
        os.unlink(temporary, dir_fd=folder_fd)
        fd = os.open(temporary, flags, 0o600, dir_fd=folder_fd)
    try:
        with open(fd, "wb") as file:
            file.write(content)
        os.rename(temporary, name, src_dir_fd=folder_fd, dst_dir_fd=folder_fd)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temporary, dir_fd=folder_fd)
        raise


# --- for `delete` ------------------------------------------------------------------------------


def recorded_exit(bundle: str, *, container_id: str, init_pid: int) -> Exit | None:
    """Return the exit of an init whose shim has crashed; None if it is not known.

    Call it before the runtime's `delete --force`, which would end an init that still runs.
    """
    record = _read_init(bundle)
    if record is None:
        return None
    if record.id != container_id or record.pid != init_pid:
        log.warning("the exit record in %s is of another process: it is not used", bundle)
        return None
    if record.start_time is not None and start_time_of(init_pid) == record.start_time:
        log.warning("the exit record in %s is of a process that runs: it is not used", bundle)
        return None
    return record.exit


def _read_init(bundle: str) -> ExitRecord | None:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        bundle_fd = os.open(bundle, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with _folder(bundle_fd) as folder_fd:
                fd = os.open(paths.INIT_RECORD, flags, dir_fd=folder_fd)
        finally:
            os.close(bundle_fd)
        with open(fd, "rb") as file:
            return ExitRecord.from_json(file.read(_RECORD_LIMIT_BYTES))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        log.warning("the exit record in %s cannot be read: %s", bundle, error)
        return None


_TIME: Final = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)\.(\d{9})Z")


def _nanoseconds(text: str) -> int:
    found = _TIME.fullmatch(text)
    if found is None:
        raise ValueError(f"not a time: {text}")
    seconds = datetime.fromisoformat(found[1]).replace(tzinfo=UTC).timestamp()
    return int(seconds) * 1_000_000_000 + int(found[2])
