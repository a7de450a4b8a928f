"""The mounts that make a rootfs, and their undo.

A batch runs in one short-lived thread: a mount may wait for a disk or a network, and an overlay
with many layers only fits into mount(2) with a working directory of its own (`unshare(CLONE_FS)`).
The thread is always awaited to its end and joined - a system call cannot be called back - so a
cancelled `mount_all` first waits, then undoes, then is cancelled.  Mounts are made in the shim's
mount namespace, which is the daemon's.

The thread blocks all signals: SIGCHLD belongs to the main thread, and a mount that a signal
interrupts would fail.  It makes no children: their parent death signal would be tied to it.
"""

import asyncio
import contextlib
import errno
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from shimv2 import linux
from shimv2.errors import Refused, ShimError, Unsupported
from shimv2.gotext import os_error, quote, strerror
from shimv2.model import Mount
from shimv2.unmounts import unmount_fully, unmount_one, unmount_recursive_now

__all__ = ["mount_all", "unmount_all", "unmount_recursive", "unmount_recursive_now"]

T = TypeVar("T")

_PREFIX: Final = "failed to mount rootfs component: "
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")  # all that mount(2) takes as data, with its NUL
_COMPACT_FROM_BYTES: Final = _PAGE_BYTES - 512  # the reference's margin
_LOOP_CONTROL: Final = "/dev/loop-control"
_LOOP_TRIES: Final = 100  # another process may take the free device before us
_OWN_NAMESPACE_MAP: Final = ["0", "0", "4294967295"]  # uid_map of the initial user namespace

_SET: Final = {
    "ro": linux.MS_RDONLY, "nosuid": linux.MS_NOSUID, "nodev": linux.MS_NODEV,
    "noexec": linux.MS_NOEXEC, "sync": linux.MS_SYNCHRONOUS, "dirsync": linux.MS_DIRSYNC,
    "remount": linux.MS_REMOUNT, "mand": linux.MS_MANDLOCK, "noatime": linux.MS_NOATIME,
    "nodiratime": linux.MS_NODIRATIME, "relatime": linux.MS_RELATIME,
    "strictatime": linux.MS_STRICTATIME, "bind": linux.MS_BIND,
    "rbind": linux.MS_BIND | linux.MS_REC,
}  # fmt: skip
_CLEAR: Final = {
    "rw": linux.MS_RDONLY, "suid": linux.MS_NOSUID, "dev": linux.MS_NODEV,
    "exec": linux.MS_NOEXEC, "async": linux.MS_SYNCHRONOUS, "nomand": linux.MS_MANDLOCK,
    "atime": linux.MS_NOATIME, "diratime": linux.MS_NODIRATIME,
    "norelatime": linux.MS_RELATIME, "nostrictatime": linux.MS_STRICTATIME,
}  # fmt: skip
# Flags that a user namespace may not take off a mount, as statvfs and as mount(2) say them.
_LOCKED: Final = (
    (os.ST_RDONLY, linux.MS_RDONLY), (os.ST_NODEV, linux.MS_NODEV),
    (os.ST_NOEXEC, linux.MS_NOEXEC), (os.ST_NOSUID, linux.MS_NOSUID),
    (os.ST_NOATIME, linux.MS_NOATIME), (os.ST_RELATIME, linux.MS_RELATIME),
    (os.ST_NODIRATIME, linux.MS_NODIRATIME),
)  # fmt: skip

log = logging.getLogger(__name__)


async def mount_all(mounts: Sequence[Mount], target: str) -> None:
    """Mount all, in order, at `target` (absolute) joined with each one's own target inside it.

    All or nothing: what was mounted is unmounted again when one fails or the caller is cancelled.

    Raises:
        Refused: with the reference's text.
        Unsupported: an idmapped or FUSE mount.
    """
    if mounts:
        await _in_thread(lambda: _mount_all(mounts, target), undo=_unmount_paths)


async def unmount_all(mounts: Sequence[Mount], target: str) -> None:
    """Take the mounts of `mount_all` away, the last first.  Failures are only logged."""
    if mounts:
        await _in_thread(lambda: _unmount_all(mounts, target))


async def unmount_recursive(target: str) -> None:
    """`unmount_recursive_now`, without blocking the loop."""
    if target:
        await _in_thread(lambda: unmount_recursive_now(target))


# --- the thread --------------------------------------------------------------------------------


async def _in_thread(work: Callable[[], T], *, undo: Callable[[T], None] | None = None) -> T:
    """Run `work` in a thread of its own to its end, whatever happens to the caller meanwhile.

    If the caller was cancelled and `work` succeeded all the same, `undo` gets its result.
    """
    batch = _Batch(work)
    cancelled: asyncio.CancelledError | None = None
    while not batch.done.done():
        try:
            await asyncio.wait([batch.done])
        except asyncio.CancelledError as exc:
            cancelled = exc
    batch.thread.join()  # it has said its last word: this takes microseconds
    if cancelled is None:
        return batch.result()
    if undo is not None and batch.error is None:
        made = batch.result()
        with contextlib.suppress(asyncio.CancelledError):  # the first one is raised below
            await _in_thread(lambda: undo(made))
    raise cancelled from batch.error


class _Batch(Generic[T]):
    """One piece of work in a thread that is running when this exists."""

    def __init__(self, work: Callable[[], T]) -> None:
        self.error: BaseException | None = None
        self._loop = asyncio.get_running_loop()
        self.done: asyncio.Future[None] = self._loop.create_future()
        self._work = work
        self._results: list[T] = []
        self.thread = threading.Thread(target=self._run, name="mounts")
        try:
            self.thread.start()
        except RuntimeError:  # all Python says when the kernel refuses another thread
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from None

    def result(self) -> T:
        if self.error is not None:
            raise self.error
        return self._results[0]

    def _run(self) -> None:
        try:
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            linux.unshare(linux.CLONE_FS)
            self._results.append(self._work())
        except BaseException as exc:  # noqa: BLE001 - raised again where it is awaited
            self.error = exc
        self._loop.call_soon_threadsafe(self.done.set_result, None)


# --- in the thread -----------------------------------------------------------------------------


def _mount_all(mounts: Sequence[Mount], target: str) -> list[str]:
    """Mount all or nothing; return the mount points in the order they were made."""
    made: list[str] = []
    try:
        for mount in mounts:
            _mount_one(mount, target, made)
    except BaseException as exc:
        _unmount_paths(made)
        if isinstance(exc, OSError):
            raise Refused(f"{_PREFIX}{os_error(exc)}") from exc
        if isinstance(exc, ShimError):
            raise type(exc)(f"{_PREFIX}{exc}") from exc
        raise
    return made


def _unmount_paths(made: Sequence[str]) -> None:
    for path in reversed(made):
        try:
            unmount_one(path)
        except OSError as exc:
            log.warning("cannot unmount %s again: %s", path, exc.strerror)


def _unmount_all(mounts: Sequence[Mount], target: str) -> None:
    for mount in reversed(mounts):
        try:
            with _inside(target, mount.target) as (_, path):
                pass  # looked up only: an open fd would keep it busy
            unmount_fully(path)
        except FileNotFoundError:
            pass  # then nothing is mounted there
        except OSError as exc:
            log.warning("cannot unmount %s in %s: %s", mount.target, target, exc.strerror)


def _mount_one(mount: Mount, target: str, made: list[str]) -> None:
    if mount.type.startswith(("fuse.", "fuse3.")):
        raise Unsupported(f"mounts of type {mount.type} are not supported")
    options = parse_options(mount.options)
    lower_parent, words = "", options.data
    if mount.type == "overlay" and _size(mount.options) >= _COMPACT_FROM_BYTES:
        lower_parent, words = compact_lowerdirs(words)
    data = ",".join(words)
    if len(os.fsencode(data)) >= _PAGE_BYTES:
        raise Refused("mount options is too long")
    with contextlib.ExitStack() as stack:
        source = mount.source
        if options.loop:
            source = stack.enter_context(_loop_device(source, options))
        if lower_parent:
            stack.enter_context(_working_directory(lower_parent))
        if data or not options.flags & linux.MS_REMOUNT:
            path = _mount_at(source, target, mount, options.flags, data)
            if not options.flags & linux.MS_REMOUNT:
                made.append(path)
        if options.flags & linux.MS_BIND and options.flags & linux.MS_RDONLY:
            # A bind ignores all other flags when it is made; they come with a remount.
            with _inside(target, mount.target) as (where, _):
                _remount(where, options.flags)


def _mount_at(source: str, target: str, mount: Mount, flags: int, data: str) -> str:
    """One mount(2), with the reference's text when it fails; return the real mount point."""
    path = os.path.join(target, mount.target.lstrip("/")) if mount.target else target
    try:
        with _inside(target, mount.target) as (where, path):
            linux.mount(source, where, mount.type, flags, data)
    except OSError as exc:
        raise Refused(
            f"mount source: {quote(source)}, target: {quote(path)}, fstype: {mount.type}, "
            f"flags: {flags}, data: {quote(data)}, err: {strerror(exc.errno or 0)}"
        ) from exc
    return path


def _remount(where: str, flags: int) -> None:
    try:
        linux.mount("", where, "", flags | linux.MS_REMOUNT | _locked_flags(where), "")
    except OSError as exc:
        raise Refused(strerror(exc.errno or 0)) from exc  # no more than that in the reference


@contextlib.contextmanager
def _inside(root: str, relative: str) -> Iterator[tuple[str, str]]:
    """A path for the kernel and its name, of `relative` looked up with `root` as its `/`.

    The rootfs is made of what strangers packed: a symlink in it must not lead a mount out of it.
    The first path goes through an fd that is closed afterwards: an open one keeps a mount busy, and
    does not see what is mounted over it later.
    """
    if not relative.strip("/"):
        yield root, root
        return
    root_fd = os.open(root, os.O_PATH | os.O_DIRECTORY)
    try:
        fd = linux.open_in_root(root_fd, relative, os.O_PATH)
    finally:
        os.close(root_fd)
    try:
        where = f"/proc/self/fd/{fd}"
        yield where, os.readlink(where)
    finally:
        os.close(fd)


@contextlib.contextmanager
def _working_directory(path: str) -> Iterator[None]:
    """Of this thread alone: it does not share its own with the process any more."""
    before_fd = os.open(".", os.O_PATH | os.O_DIRECTORY)
    try:
        try:
            os.chdir(path)
        except OSError as exc:
            raise Refused(os_error(exc, op="chdir")) from exc
        yield
    finally:
        os.fchdir(before_fd)
        os.close(before_fd)


def _locked_flags(path: str) -> int:
    """What a remount must repeat: in a user namespace the kernel refuses to take these away."""
    with open("/proc/self/uid_map", encoding="ascii") as table:
        if table.read().split() == _OWN_NAMESPACE_MAP:
            return 0
    set_now = os.statvfs(path).f_flag
    return sum(flag for shown, flag in _LOCKED if set_now & shown)


@contextlib.contextmanager
def _loop_device(source: str, options: "Options") -> Iterator[str]:
    """Attach the file `source` to a free loop device, which detaches itself at its last unmount.

    The device is held open until it is mounted; without a mount, closing it detaches it.
    """
    read_only = bool(options.flags & linux.MS_RDONLY)
    flags = linux.LO_FLAGS_AUTOCLEAR
    flags |= linux.LO_FLAGS_READ_ONLY if read_only else 0
    flags |= linux.LO_FLAGS_DIRECT_IO if options.direct_io else 0
    with contextlib.ExitStack() as stack:
        backing_fd = os.open(source, os.O_RDONLY if read_only else os.O_RDWR)
        stack.callback(os.close, backing_fd)
        control_fd = os.open(_LOOP_CONTROL, os.O_RDWR)
        stack.callback(os.close, control_fd)
        for _ in range(_LOOP_TRIES):
            device = f"/dev/loop{linux.free_loop_device(control_fd)}"
            device_fd = os.open(device, os.O_RDWR)
            try:
                linux.configure_loop_device(device_fd, backing_fd, source, flags)
            except OSError as exc:
                os.close(device_fd)
                if exc.errno != errno.EBUSY:
                    text = f"attach {source} to {device}: {strerror(exc.errno or 0)}"
                    raise Refused(text) from exc
            else:
                stack.callback(os.close, device_fd)
                yield device
                return
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), _LOOP_CONTROL)


# --- options (pure) ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Options:
    flags: int = 0
    data: tuple[str, ...] = ()
    loop: bool = False
    direct_io: bool = False


def parse_options(words: Sequence[str]) -> Options:
    """Split mount options into flags and the filesystem's data; what is no flag is data.

    Raises:
        Refused: an option meant for the daemon got through to us.
        Unsupported: an idmapped mount.
    """
    flags, data, loop = 0, [], "loop" in words
    for word in words:
        if word.startswith("X-containerd."):
            text = f"internal mount option {quote(word)} was not consumed by the mount manager"
            raise Refused(text)
        if word.startswith(("uidmap=", "gidmap=")):
            raise Unsupported("idmapped mounts are not supported")
        if word in _SET:
            flags |= _SET[word]
        elif word in _CLEAR:
            flags &= ~_CLEAR[word]
        elif word != "loop" and not (loop and word == "direct-io"):
            data.append(word)
    return Options(flags, tuple(data), loop, loop and "direct-io" in words)


def compact_lowerdirs(words: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """Name an overlay's layers relative to the directory they share; return it and the options.

    Nothing is changed, and the directory is empty, where that cannot be done safely: one layer
    only, no shared directory but `/`, names that are relative, not canonical or escaped.
    """
    for index, word in enumerate(words):
        if word.startswith("lowerdir="):
            layers = word.removeprefix("lowerdir=").split(":")
            named = [layer for layer in layers if layer]  # `::` comes before data-only layers
            if len(named) < 2 or "\\" in word or any(map(_is_uncanonical, named)):
                break
            shared = os.path.commonpath([os.path.dirname(layer) for layer in named])
            if shared == "/":
                break
            short = ":".join(layer.removeprefix(shared + "/") for layer in layers)
            return shared, (*words[:index], f"lowerdir={short}", *words[index + 1 :])
    return "", tuple(words)


def _is_uncanonical(path: str) -> bool:
    return not path.startswith("/") or os.path.normpath(path) != path


def _size(words: Sequence[str]) -> int:
    return sum(len(os.fsencode(word)) for word in words)
