"""One function for each system call that Python 3.11 lacks.

A result of -1 becomes an `OSError`, with the path that the call was given.  The interpreter lock is
released during a call, so that a thread can wait in mount(2) or umount2(2) for a disk or a network
while the loop runs.  Nothing here keeps state.
"""

import ctypes
import errno
import fcntl
import functools
import mmap
import os
import struct
import sys
import termios
from collections.abc import Sequence
from ctypes import c_char_p, c_int, c_long, c_ulong, c_void_p
from typing import Final

from shimv2.kernel import proc

# mount(2); Linux keeps these numbers on every architecture.
MS_RDONLY: Final = 0x1
MS_NOSUID: Final = 0x2
MS_NODEV: Final = 0x4
MS_NOEXEC: Final = 0x8
MS_SYNCHRONOUS: Final = 0x10
MS_REMOUNT: Final = 0x20
MS_MANDLOCK: Final = 0x40
MS_DIRSYNC: Final = 0x80
MS_NOATIME: Final = 0x400
MS_NODIRATIME: Final = 0x800
MS_BIND: Final = 0x1000
MS_REC: Final = 0x4000
MS_PRIVATE: Final = 0x40000
MS_RELATIME: Final = 0x200000
MS_STRICTATIME: Final = 0x1000000

UMOUNT_NOFOLLOW: Final = 0x8

CLONE_FS: Final = 0x200
CLONE_NEWNS: Final = 0x20000
CLONE_NEWUSER: Final = 0x10000000

# Operations of prctl(2).
PR_SET_PDEATHSIG: Final = 1
PR_SET_DUMPABLE: Final = 4
PR_SET_CHILD_SUBREAPER: Final = 36
PR_SCHED_CORE: Final = 62
_PR_SET_NAME: Final = 15
_PR_SET_MM: Final = 35
_PR_SET_MM_MAP: Final = 14
_SCHED_CORE_CREATE: Final = 1
_PIDTYPE_PGID: Final = 2

# struct prctl_mm_map: start and end of code, data, brk, the stack's start, start and end of the
# arguments and the environment; the auxiliary vector and the executable, which stay as they are.
_MM_MAP: Final = struct.Struct("=12QII")
# Of /proc/<pid>/stat, counted from 1: code, data, start of brk, start of the stack.
_STAT_AREAS: Final = ((26, 27), (45, 46), (47,), (28,))
_NO_FD: Final = 2**32 - 1

# loop devices, linux/loop.h
_LOOP_CONFIGURE: Final = 0x4C0A
_LOOP_CTL_GET_FREE: Final = 0x4C82
LO_FLAGS_READ_ONLY: Final = 1
LO_FLAGS_AUTOCLEAR: Final = 4
LO_FLAGS_DIRECT_IO: Final = 16
_LOOP_NAME_BYTES: Final = 64
# struct loop_config: fd, block size, loop_info64, eight reserved words; and within loop_info64:
# five numbers, four words (number, encrypt type, key size, flags), two names, key, two words.
_LOOP_INFO64: Final = "5Q4I64s64s32s2Q"
_LOOP_CONFIG: Final = struct.Struct(f"=II{_LOOP_INFO64}8Q")

# openat2(2) came after the numbers were unified: the same on every architecture.
_SYS_OPENAT2: Final = 437
_OPEN_HOW: Final = struct.Struct("=QQQ")  # flags, mode, resolve
_RESOLVE_IN_ROOT: Final = 0x10
_RESOLVE_NO_MAGICLINKS: Final = 0x02

# The mount calls of Linux 5.2 and 5.12, with the same numbers everywhere as well.
_SYS_OPEN_TREE: Final = 428
_SYS_MOVE_MOUNT: Final = 429
_SYS_MOUNT_SETATTR: Final = 442
_AT_FDCWD: Final = -100
_AT_EMPTY_PATH: Final = 0x1000
_AT_RECURSIVE: Final = 0x8000
_OPEN_TREE_CLONE: Final = 1
_MOVE_MOUNT_F_EMPTY_PATH: Final = 0x4
_MOVE_MOUNT_T_SYMLINKS: Final = 0x10
_MOUNT_ATTR_RDONLY: Final = 0x1
_MOUNT_ATTR_IDMAP: Final = 0x100000
_MOUNT_ATTR: Final = struct.Struct("=QQQQ")  # to set, to clear, propagation, user namespace

_SYS_CLOSE_RANGE: Final = 436
_CLOSE_RANGE_CLOEXEC: Final = 4
_LAST_FD: Final = 2**32 - 1

# ioprio_set(2), ioprio_get(2): the numbers of the generic table, but for these architectures.
_SYS_IOPRIO_SET, _SYS_IOPRIO_GET = {
    "x86_64": (251, 252), "ppc64le": (273, 274), "s390x": (282, 283)
}.get(os.uname().machine, (30, 31))  # fmt: skip
_IOPRIO_WHO_PROCESS: Final = 1

_STATFS_BYTES: Final = 256  # more than any architecture's struct statfs; f_type is its first word

_libc = ctypes.CDLL(None, use_errno=True)
_libc.prctl.argtypes = (c_int, c_ulong, c_ulong, c_ulong, c_ulong)
_libc.mount.argtypes = (c_char_p, c_char_p, c_char_p, c_ulong, c_char_p)
_libc.umount2.argtypes = (c_char_p, c_int)
_libc.unshare.argtypes = (c_int,)
_libc.statfs.argtypes = (c_char_p, c_void_p)
_libc.syscall.restype = c_long
_libc.sbrk.restype = c_ulong


def _checked(result: int, path: str | None = None) -> int:
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return result


def c_string(text: str) -> bytes:
    """Encode a string for the kernel.

    Raises:
        OSError: EINVAL, as in Go: it contains NUL, where the kernel would cut it.
    """
    raw = os.fsencode(text)
    if b"\0" in raw:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), text)
    return raw


def syscall(number: int, *args: int | bytes | None) -> int:
    """Make a system call by its number: int is passed as long, bytes as a pointer, None as NULL."""
    return _checked(
        int(_libc.syscall(number, *(c_long(a) if isinstance(a, int) else a for a in args)))
    )


# --- fds ---------------------------------------------------------------------------------------


def duplicate(fd: int, lowest: int) -> int:
    """Return a copy of `fd` with a number not below `lowest`, closed on exec."""
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, lowest)


def close_on_exec_except(kept: Sequence[int]) -> None:
    """Let execve(2) close every descriptor except those in `kept`, which is ascending.

    Before Linux 5.11 this does nothing: Python opens all its descriptors close-on-exec.
    """
    first = 0
    try:
        for number in (*kept, _LAST_FD + 1):
            if number > first:
                syscall(_SYS_CLOSE_RANGE, first, number - 1, _CLOSE_RANGE_CLOEXEC)
            first = number + 1
    except OSError as exc:
        if exc.errno not in (errno.ENOSYS, errno.EINVAL):
            raise


# --- prctl -------------------------------------------------------------------------------------


def prctl(option: int, value: int = 0, arg3: int = 0, arg4: int = 0, arg5: int = 0) -> int:
    return _checked(_libc.prctl(option, value, arg3, arg4, arg5))


def set_child_subreaper(enabled: bool = True) -> None:
    """Make this process the parent of its descendants' orphans (not inherited by children)."""
    prctl(PR_SET_CHILD_SUBREAPER, int(enabled))


def set_parent_death_signal(signal_number: int) -> None:
    """Have the kernel send this signal when the *thread* that made this process ends; 0 = none."""
    prctl(PR_SET_PDEATHSIG, signal_number)


def set_dumpable(enabled: bool) -> None:
    """Not dumpable: no core file, no ptrace, and the files of /proc/self belong to root."""
    prctl(PR_SET_DUMPABLE, int(enabled))


def create_core_scheduling_group() -> None:
    """Give this process group a core scheduling cookie (Linux 5.14); children inherit it."""
    prctl(PR_SCHED_CORE, _SCHED_CORE_CREATE, 0, _PIDTYPE_PGID, 0)


def set_name(name: str) -> None:
    """Set the name of the main thread, `comm`, of which the kernel keeps 15 bytes."""
    buffer = ctypes.create_string_buffer(os.fsencode(name))
    prctl(_PR_SET_NAME, ctypes.addressof(buffer))


def show(arguments: Sequence[str], environment: Sequence[bytes]) -> object:
    """Make /proc/self/cmdline and environ show these words; return the memory they are in.

    The caller keeps that memory for as long as the process lives.

    Raises:
        OSError: the kernel has no CONFIG_CHECKPOINT_RESTORE.
    """
    args = b"".join(os.fsencode(word) + b"\0" for word in arguments)
    shown = args + b"".join(pair + b"\0" for pair in environment)
    # Anonymous memory, mapped for each call: the kernel does not show words in a file mapping.
    area = mmap.mmap(-1, len(shown), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    area.write(shown)
    start = ctypes.addressof(ctypes.c_char.from_buffer(area))
    code, data, brk, stack = _areas()
    areas = (start, start + len(args), start + len(args), start + len(shown))
    plan = _MM_MAP.pack(*code, *data, *brk, _libc.sbrk(0), *stack, *areas, 0, 0, _NO_FD)
    buffer = ctypes.create_string_buffer(plan, len(plan))
    prctl(_PR_SET_MM, _PR_SET_MM_MAP, ctypes.addressof(buffer), len(plan))
    return area


@functools.cache
def _areas() -> Sequence[Sequence[int]]:
    """Return where code, data, heap and stack of this process and of its forks are."""
    fields = proc.stat_fields("self")
    return [[proc.stat_field(fields, number) for number in numbers] for numbers in _STAT_AREAS]


# --- priorities --------------------------------------------------------------------------------


def io_priority(pid: int = 0) -> int:
    """Return I/O class and priority as ioprio_get(2) packs them; pid 0 is this process."""
    return syscall(_SYS_IOPRIO_GET, _IOPRIO_WHO_PROCESS, pid)


def set_io_priority(value: int) -> None:
    syscall(_SYS_IOPRIO_SET, _IOPRIO_WHO_PROCESS, 0, value)


# --- mounts ------------------------------------------------------------------------------------


def mount(source: str, target: str, fstype: str, flags: int, data: str) -> None:
    """Call mount(2).  An empty string is passed as an empty string, not as NULL."""
    _checked(
        _libc.mount(c_string(source), c_string(target), c_string(fstype), flags, c_string(data)),
        target,
    )


def unmount(target: str, flags: int = 0) -> None:
    _checked(_libc.umount2(c_string(target), flags), target)


def unshare(flags: int) -> None:
    """Call unshare(2) for the calling thread (Python has `os.unshare` from 3.12 on)."""
    _checked(_libc.unshare(flags))


def filesystem_type(path: str) -> int:
    """Return the magic number of the file system that `path` is on (statfs(2), f_type)."""
    buffer = ctypes.create_string_buffer(_STATFS_BYTES)
    _checked(_libc.statfs(c_string(path), buffer), path)
    return int(c_ulong.from_buffer(buffer).value)


def open_in_root(root_fd: int, path: str, flags: int) -> int:
    """Open `path` as if `root_fd` were `/`: neither `..` nor a symlink leaves it (openat2(2)).

    Raises:
        OSError: ENOSYS before Linux 5.6.
    """
    how = _OPEN_HOW.pack(flags | os.O_CLOEXEC, 0, _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS)
    while True:
        try:
            return syscall(_SYS_OPENAT2, root_fd, c_string(path), how, len(how))
        except (BlockingIOError, InterruptedError):
            pass  # a rename during the look-up of a `..`: the kernel asks to try again
        except OSError as exc:
            raise OSError(exc.errno, exc.strerror, path) from None


def open_tree(path: str, *, recursive: bool = False) -> int:
    """Clone the mount at or below `path` and return it, detached, as an fd (Linux 5.2)."""
    flags = _OPEN_TREE_CLONE | os.O_CLOEXEC | (_AT_RECURSIVE if recursive else 0)
    return syscall(_SYS_OPEN_TREE, _AT_FDCWD, c_string(path), flags)


def set_idmap(
    tree_fd: int, namespace_fd: int, *, recursive: bool = False, read_only: bool = False
) -> None:
    """Map the ids of a detached mount (Linux 5.12).

    Raises:
        OSError: EINVAL: the file system does not support it.
    """
    attributes = _MOUNT_ATTR_IDMAP | (_MOUNT_ATTR_RDONLY if read_only else 0)
    packed = _MOUNT_ATTR.pack(attributes, 0, 0, namespace_fd)
    flags = _AT_EMPTY_PATH | (_AT_RECURSIVE if recursive else 0)
    syscall(_SYS_MOUNT_SETATTR, tree_fd, b"", flags, packed, len(packed))


def move_mount(tree_fd: int, target: str) -> None:
    """Attach a detached mount at `target` (Linux 5.2)."""
    flags = _MOVE_MOUNT_F_EMPTY_PATH | _MOVE_MOUNT_T_SYMLINKS
    syscall(_SYS_MOVE_MOUNT, tree_fd, b"", _AT_FDCWD, c_string(target), flags)


# --- loop devices ------------------------------------------------------------------------------


def free_loop_device(control_fd: int) -> int:
    """Return the number of a free loop device.  Another process may take it first."""
    return fcntl.ioctl(control_fd, _LOOP_CTL_GET_FREE)


def configure_loop_device(device_fd: int, backing_fd: int, name: str, flags: int) -> None:
    """Attach a file to a loop device in one step (Linux 5.8).

    Raises:
        OSError: EBUSY: another process took the device.
    """
    short = os.fsencode(name)[: _LOOP_NAME_BYTES - 1]
    info = (0, 0, 0, 0, 0, 0, 0, 0, flags, short, b"", b"", 0, 0)
    fcntl.ioctl(device_fd, _LOOP_CONFIGURE, _LOOP_CONFIG.pack(backing_fd, 0, *info, *([0] * 8)))


# --- pipes -------------------------------------------------------------------------------------


def splice(source: int, sink: int, count_bytes: int) -> int:
    """Move bytes between two descriptors, one of them a pipe; return how many, 0 at end of file.

    Raises:
        BlockingIOError: `source` has no data, or `sink` has no room.
    """
    return os.splice(source, sink, count_bytes, flags=os.SPLICE_F_NONBLOCK | os.SPLICE_F_MOVE)


def set_pipe_capacity(fd: int, capacity_bytes: int) -> int:
    """Set a pipe's capacity; return what the kernel rounded it up to.

    Raises:
        PermissionError: it is above /proc/sys/fs/pipe-max-size.
    """
    return fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, capacity_bytes)


def bytes_waiting(fd: int) -> int:
    """Return how many bytes a pipe, socket or terminal has to read (ioctl FIONREAD)."""
    out = fcntl.ioctl(fd, termios.FIONREAD, b"\0" * 4)
    return int.from_bytes(out, sys.byteorder)
