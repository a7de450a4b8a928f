"""The shim's log: lines on containerd's FIFO `log`, written without waiting.

containerd makes the FIFO in the bundle and copies its lines to its own log.  If containerd is not
reading, a line that does not fit is dropped and counted; the next line that fits is preceded by the
count.  The FIFO becomes fd 2, so that it also gets the interpreter's own messages and those of a
crash in C.

The format is containerd's (logrus): time, level and message, then the fields by name.  A caller
passes fields as `extra={...}`, not in the message.
"""

import faulthandler
import logging
import os
import re
import stat
import sys
import threading
import traceback
from types import FrameType
from typing import Any, Final

from shimv2.gocompat.gotext import os_error, quote, rfc3339

FIFO: Final = "log"  # in the bundle, which is the working directory

_LEVELS: Final = {
    logging.DEBUG: "debug",
    logging.INFO: "info",
    logging.WARNING: "warning",
    logging.ERROR: "error",
    logging.CRITICAL: "fatal",
}
_OWN_FIELDS: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_PLAIN: Final = re.compile(r"[A-Za-z0-9._/@^+-]*")  # values that logrus writes without quotes
_AWAIT_DEPTH_LIMIT: Final = 100


class NoLog(Exception):
    """The bundle has no FIFO to log to; the text is the Go shim's."""


class LineFormatter(logging.Formatter):
    """`time="..." level=info msg="..." container=c1 runtime=io.containerd.pyrunc.v2`, one line."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name

    def format(self, record: logging.LogRecord) -> str:
        fields = {key: value for key, value in vars(record).items() if key not in _OWN_FIELDS}
        fields["runtime"] = self._name
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            fields["error"] = f"{type(error).__name__}: {error}"
            fields["stack"] = "".join(traceback.format_exception(error)).rstrip()
        head = {
            "time": rfc3339(int(record.created * 1e9)),
            "level": _LEVELS.get(record.levelno, record.levelname.lower()),
            "msg": record.getMessage(),
        }
        pairs = [*head.items(), *sorted(fields.items())]
        return " ".join(f"{key}={_value(str(value))}" for key, value in pairs)


def _value(text: str) -> str:
    return text if _PLAIN.fullmatch(text) else quote(text)


class DroppingHandler(logging.Handler):
    """Writes whole lines to a non-blocking fd, or drops them.  It neither raises nor waits.

    `dropped` counts the lines that were lost and not reported yet.
    """

    def __init__(self, fd: int, name: str) -> None:
        super().__init__()
        self._fd = fd
        self._busy = False
        self._cut = False  # the last line was cut short: the next one must not continue it
        self.dropped = 0
        self.setFormatter(LineFormatter(name))

    def emit(self, record: logging.LogRecord) -> None:
        if self._busy:  # re-entrant logging would never end: drop it
            self.dropped += 1
            return
        self._busy = True
        try:
            lost = self.dropped  # formatting may increase it
            if self._write(self._lines(record, lost)):
                self.dropped -= lost
            else:
                self.dropped += 1
        finally:
            self._busy = False

    def _lines(self, record: logging.LogRecord, lost: int) -> bytes:
        lines = [self._line(record)]
        if lost:
            text = "log lines were dropped: the log was not read"
            notice = {"levelno": logging.WARNING, "msg": text, "dropped": lost}
            lines.insert(0, self._line(logging.makeLogRecord(notice)))
        return "".join(f"{line}\n" for line in lines).encode("utf-8", "backslashreplace")

    def _line(self, record: logging.LogRecord) -> str:
        try:
            return self.format(record)
        except Exception as error:  # noqa: BLE001 - a bad log call must not fail its caller
            where = f"{record.filename}:{record.lineno}"
            text = f"a line of {where} cannot be formatted: {type(error).__name__}"
            return self.format(logging.makeLogRecord({"levelno": logging.ERROR, "msg": text}))

    def _write(self, lines: bytes) -> bool:
        """Write all lines; return False if nothing, or only a part, was written.

        A pipe takes up to PIPE_BUF bytes whole or not at all (pipe(7)); a longer text can be cut.
        """
        left = b"\n" + lines if self._cut else lines
        begun = False
        try:
            while left:
                left = left[os.write(self._fd, left) :]
                begun = True
        except OSError:
            self._cut |= begun
            return False
        self._cut = False
        return True


def setup(name: str, *, debug: bool) -> DroppingHandler:
    """Send the log to the FIFO `log` in the working directory, and make the FIFO fd 2.

    Raises:
        NoLog: there is no such FIFO.
    """
    fd = _open_fifo(FIFO)
    os.dup2(fd, 2, inheritable=False)
    os.close(fd)
    faulthandler.enable(2)
    handler = DroppingHandler(2, name)
    _use(handler, debug=debug)
    return handler


def setup_stderr(name: str) -> None:
    """Send the log to stderr: for `delete`, whose stderr containerd logs as warnings."""
    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter(name))
    _use(handler, debug=False)


def _use(handler: logging.Handler, *, debug: bool) -> None:
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.DEBUG if debug else logging.INFO)
    logging.raiseExceptions = False  # or `logging` would print its own errors to stderr


def check_fifo() -> None:
    """Raise NoLog if `setup` would."""
    os.close(_open_fifo(FIFO))


def _open_fifo(path: str) -> int:
    """Open the log FIFO without waiting for a reader.

    It is opened for reading too: the shim itself is then a reader, so there is no SIGPIPE while
    containerd is not running.

    Raises:
        NoLog: the file is missing or is no FIFO.
    """
    try:
        found = os.lstat(path)
    except OSError as error:
        raise NoLog(f"fifo error: {os_error(error, op='stat')}") from None
    if stat.S_ISFIFO(found.st_mode):  # opening a device, for example, may have side effects
        try:
            return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise NoLog(f"fifo error: {os_error(error)}") from None
    raise NoLog(f"fifo error: {path} is not a fifo")


# --- SIGUSR1 ------------------------------------------------------------------------------------


def dump_stacks() -> None:
    """Log the stacks of all tasks of the running loop and of all threads.

    Files and line numbers only: the source on disk may be of another version.
    """
    import asyncio  # noqa: PLC0415 - loaded where this runs; `delete` logs without it

    logger = logging.getLogger(__name__)
    for task in asyncio.all_tasks():
        logger.info("task %s:\n%s", task.get_name(), _places(_awaiting(task.get_coro())))
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    for ident, frame in sys._current_frames().items():
        stack = [inner for inner, _ in traceback.walk_stack(frame)]
        logger.info("thread %s:\n%s", names.get(ident, ident), _places(stack[::-1]))


def _awaiting(awaited: Any) -> list[FrameType]:
    """List the frames of a coroutine and of all it awaits, the outermost first.

    `asyncio.Task.get_stack` returns only the outermost frame of a suspended task.
    """
    frames: list[FrameType] = []
    for _ in range(_AWAIT_DEPTH_LIMIT):
        kind = next((kind for kind in ("cr", "gi", "ag") if hasattr(awaited, f"{kind}_frame")), "")
        if not kind:
            break
        frame = getattr(awaited, f"{kind}_frame")
        if frame is not None:
            frames.append(frame)
        awaited = getattr(awaited, "gi_yieldfrom" if kind == "gi" else f"{kind}_await")
    return frames


def _places(frames: list[FrameType]) -> str:
    lines = (f"{f.f_code.co_filename}:{f.f_lineno} {f.f_code.co_qualname}" for f in frames)
    return "\n".join(lines) or "(nowhere)"
