"""Where a stream's bytes go: a client's FIFO, a file, or the pipe to a container's stdin."""

import contextlib
import errno
import os
from typing import Final

from shimv2.gocompat.gotext import quote
from shimv2.io.fifo import NO_SURPRISES, Fd, Pinned, has_reader, reason
from shimv2.io.unread import Unread
from shimv2.kernel.linux import bytes_waiting
from shimv2.values.errors import Refused

PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_FILE_CHUNK_BYTES: Final = 64 * 1024
_FILE_MODE: Final = 0o644
_FOLDER_MODE: Final = 0o755


class NoReader(TimeoutError):
    """No client opened the reading end of an output FIFO in time."""


class Sink:
    """The target of a relay's bytes.  Owns its descriptors."""

    chunk_bytes = PAGE_BYTES  # the most that is read from the source for one write
    broken_is_end = False  # EPIPE ends the stream; otherwise it is a failure like others

    def __init__(self, fd: Fd) -> None:
        self._fd = fd

    @property
    def number(self) -> int:
        return self._fd.number

    def look_for_progress(self) -> bool:
        """Whether splice(2) is possible and faster now; a FifoSink makes system calls for this."""
        return False

    def spliced(self, count_bytes: int) -> None:
        """Note that the relay has spliced this number of bytes into the sink."""

    def write(self, data: bytes | bytearray) -> int:
        """Write as much of `data` as fits; return the number of bytes, at least one.

        Raises:
            BlockingIOError: no byte fits.  OSError: the write fails.
        """
        return os.write(self.number, data)

    def look_for_reader(self) -> bool:
        """Whether a client has its reading end open; a FifoSink makes system calls for this."""
        return True

    def unread_bytes(self) -> int:
        """Return how many written bytes no client has read; 0 if the kernel does not report it."""
        return 0

    def look_for_late_reader(self) -> bool:
        """Whether a client that came after the end of the stream has not yet read all bytes."""
        return False

    def end(self) -> None:
        """End the stream.  A descriptor that is still needed stays open until `close`."""
        self.close()

    def close(self) -> None:
        """Close the descriptors.  Idempotent."""
        fd, self._fd = self._fd, Fd(-1)
        fd.close()


class PipeSink(Sink):
    """The pipe to a container's stdin.  It ends once the container has closed its end."""

    broken_is_end = True

    def look_for_progress(self) -> bool:
        return True


class FifoSink(Sink):
    """A client's FIFO, and a reading end of the shim's own, which the shim never reads.

    Reason for the reading end: without it, a client that leaves would break the stream.  With it,
    the bytes in the FIFO wait for the next client.

    A FIFO has 16 slots of up to a page.  Each spliced fragment takes a slot, so the relay splices
    only while a client reads; otherwise it writes pieces that just fill each page.

    After the end of the stream the writing end is closed, so that the client sees the end.  The
    shim's reading end stays open while the FIFO has unread bytes, to count them.
    """

    def __init__(self, writer: Fd, reader: Fd) -> None:
        super().__init__(writer)
        self._reader = reader
        self._unread: Unread | None = None
        self._page_filled_bytes = 0  # of the last slot, as computed; 0: a new slot comes next
        self._written_bytes = 0
        self._read_bytes = 0  # by the client, at the last check

    def look_for_progress(self) -> bool:
        """Whether the client has read bytes since the last check.  Costs one system call."""
        before = self._read_bytes
        self._read_bytes = self._written_bytes - bytes_waiting(self.number)
        return self._read_bytes > before

    def spliced(self, count_bytes: int) -> None:
        self._written_bytes += count_bytes
        self._page_filled_bytes = 0

    def write(self, data: bytes | bytearray) -> int:
        room_bytes = PAGE_BYTES - self._page_filled_bytes
        if len(data) > room_bytes:
            if bytes_waiting(self.number):
                data = data[:room_bytes]
            else:  # all slots are free: the kernel begins a new page
                self._page_filled_bytes = 0
                data = data[:PAGE_BYTES]
        # The kernel writes up to a page whole or not at all.  If it fits the last slot, it is added
        # to that slot.
        written = os.write(self.number, data)
        self._page_filled_bytes = (self._page_filled_bytes + written) % PAGE_BYTES
        self._written_bytes += written
        return written

    def look_for_reader(self) -> bool:
        """Whether another process has the FIFO open for reading.

        The kernel reports only that a FIFO has no reader at all.  So the shim closes its own
        reading end for this check and opens it again.  After the end of the stream the result is
        the one at the end.
        """
        if self.number < 0:
            return self._reader.number >= 0
        self._reader.close()
        found = has_reader(self.number)
        with contextlib.suppress(OSError):  # out of descriptors: EPIPE while no client reads
            path = f"/proc/self/fd/{self.number}"
            self._reader = Fd(os.open(path, os.O_RDONLY | NO_SURPRISES))
        return found

    def unread_bytes(self) -> int:
        if self.number >= 0:
            return bytes_waiting(self.number)
        left = bytes_waiting(self._reader.number) if self._reader.number >= 0 else 0
        if not left:
            self._reader.close()  # no more bytes will come
        return left

    def look_for_late_reader(self) -> bool:
        if self._unread is None:
            return False
        self._unread.look_for_client()
        return self.unread_bytes() > 0

    def end(self) -> None:
        client_will_read = self.unread_bytes() > 0 and self.look_for_reader()
        writer, self._fd = self._fd, Fd(-1)
        if client_will_read:
            writer.close()
            return
        self._reader.close()
        self._unread = Unread(writer, self._take_reader)

    def _take_reader(self, reader: Fd) -> None:
        self._reader = reader

    def close(self) -> None:
        super().close()
        self._reader.close()
        if self._unread is not None:
            self._unread.close()


class FileSink(Sink):
    """A file that output is appended to.  Streams with the same file name share it."""

    chunk_bytes = _FILE_CHUNK_BYTES

    def share(self) -> "FileSink":
        """Return another sink of the same open file.  The last sink to close closes the file."""
        if not isinstance(self._fd, _SharedFd):
            self._fd = _SharedFd(self._fd.number)
        self._fd.users += 1
        return FileSink(self._fd)


class _SharedFd(Fd):
    __slots__ = ("users",)

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.users = 1

    def close(self) -> None:
        self.users -= 1
        if self.users == 0:
            super().close()


async def open_output(path: str, deadline: float) -> FifoSink | FileSink:
    """Open the file or FIFO of an output; a FIFO needs a reader by loop time `deadline`.

    Raises:
        NoReader, Refused: with the reference's texts.
    """
    try:
        pinned = Pinned(path)
    except FileNotFoundError as exc:
        raise _no_file(path, exc) from None
    except OSError as exc:
        raise Refused(f"stat {path}: {reason(exc)}") from None
    with pinned:
        if pinned.is_fifo():
            return await _open_fifo(pinned, deadline)
        try:
            return FileSink(pinned.open(os.O_WRONLY | os.O_APPEND))
        except OSError as exc:
            raise _no_file(path, exc) from None


def _no_file(path: str, exc: OSError) -> Refused:
    text = f"containerd-shim: opening file {quote(path)} failed: open {path}: {reason(exc)}"
    return Refused(text)


async def _open_fifo(pinned: Pinned, deadline: float) -> FifoSink:
    path = pinned.path
    failed = f"fifo {quote(path)} failed"
    try:
        writer = await pinned.open_writer(deadline)
    except TimeoutError:
        text = f"containerd-shim: opening w/o {failed}: context deadline exceeded"
        raise NoReader(text) from None
    except OSError as exc:
        text = f"containerd-shim: opening w/o {failed}: open {path}: {reason(exc)}"
        raise Refused(text) from None
    try:
        return FifoSink(writer, pinned.open(os.O_RDONLY))
    except OSError as exc:
        writer.close()
        text = f"containerd-shim: opening r/o {failed}: open {path}: {reason(exc)}"
        raise Refused(text) from None


def create_file(path: str) -> FileSink | None:
    """Open the file of a `file://` URI for appending; make it and its folders if missing.

    Returns None for a FIFO, which is opened later, by its name.

    Raises:
        Refused: with the reference's text.
    """
    step = "mkdir"
    try:
        _make_folder(os.path.dirname(path) or ".")
        step = "open"
        with contextlib.suppress(FileNotFoundError), Pinned(path) as pinned:
            if pinned.is_fifo():
                return None
        flags = os.O_APPEND | os.O_CREAT | os.O_WRONLY | NO_SURPRISES
        return FileSink(Fd(os.open(path, flags, _FILE_MODE)))
    except OSError as exc:
        where = path if step == "open" else exc.filename
        raise Refused(f"{step} {where}: {reason(exc)}") from None


def _make_folder(path: str) -> None:
    """Make `path` and its missing parents with one mode; os.makedirs sets it for the last only."""
    if os.path.isdir(path):
        return
    parent = os.path.dirname(path.rstrip("/"))
    if parent and parent != path:
        _make_folder(parent)
    try:
        os.mkdir(path, _FOLDER_MODE)
    except FileExistsError as exc:
        if not os.path.isdir(path):  # another process may have made it in the meantime
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path) from exc
