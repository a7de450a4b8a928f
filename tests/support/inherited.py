"""Reads what a server's children inherit and /proc does not show: it runs as one of them."""

import contextlib
import ctypes
import errno
import json
import os
import platform
import socket
import sys
from pathlib import Path
from typing import Any, Final

from google.protobuf.any_pb2 import Any as Packed

from protos import runc_pb2
from protos.task_v2_pb2 import CreateTaskRequest, CreateTaskResponse
from shimv2.shimctl.testbed.programs import run_by
from ttrpc import BlockingClient, StatusError

X86_64: Final = platform.machine() == "x86_64"
SYS_KEYCTL: Final = 250 if X86_64 else 219
SYS_GET_MEMPOLICY: Final = 239 if X86_64 else 236
SYS_SET_MEMPOLICY: Final = 238 if X86_64 else 237
SESSION_KEYRING: Final = -3
PRCTLS: Final = {
    "timer slack": (30,),  # PR_GET_TIMERSLACK
    "machine checks": (34,),  # PR_MCE_KILL_GET
    "store bypass": (52, 0),  # PR_GET_SPECULATION_CTRL
    "indirect branch": (52, 1),
    "l1d flush": (52, 2),
    "mdwe": (66,),  # PR_GET_MDWE
    "memory merge": (68,),  # PR_GET_MEMORY_MERGE
}
_libc: Final = ctypes.CDLL(None, use_errno=True)
_RUNTIME: Final = """{first}
import sys

sys.path.insert(0, {root!r})
from tests.support.inherited import write

write({path!r})
sys.exit(1)
"""
_LIMIT_S: Final = 20.0


def prctl(*words: int) -> int:
    """Call prctl(2).

    Raises:
        OSError: the kernel refuses.
    """
    return checked(_libc.prctl(*(ctypes.c_ulong(word) for word in (*words, 0, 0, 0, 0)[:5])))


def syscall(number: int, *words: Any) -> int:
    """Make a system call.

    Raises:
        OSError: the kernel refuses.
    """
    _libc.syscall.restype = ctypes.c_long
    return checked(_libc.syscall(ctypes.c_long(number), *words))


def checked(result: int) -> int:
    """Return the result of a function of the C library.

    Raises:
        OSError: the result is an error.
    """
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def core_cookie() -> int:
    """Read the core-scheduling cookie of this process.

    Raises:
        OSError: this machine has none.
    """
    cookie = ctypes.c_ulonglong()
    prctl(62, 0, 0, 0, ctypes.addressof(cookie))  # PR_SCHED_CORE, PR_SCHED_CORE_GET
    return cookie.value


def memory_policy() -> tuple[int, int]:
    """Read the policy of this process, and the first word of its set of nodes."""
    mode, nodes = ctypes.c_int(), (ctypes.c_ulong * 64)()
    pointer = ctypes.byref
    syscall(SYS_GET_MEMPOLICY, pointer(mode), nodes, ctypes.c_ulong(4096), None, ctypes.c_ulong(0))
    return mode.value, nodes[0]


def new_time_namespace() -> int:
    """Make a time namespace; return an fd of it, which the caller owns."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        pid = os.fork()
        if pid == 0:
            try:
                checked(_libc.unshare(0x80))  # CLONE_NEWTIME
                theirs.send(b"made")
                theirs.recv(1)
            finally:
                os._exit(0)
        try:
            assert ours.recv(4) == b"made"
            return os.open(f"/proc/{pid}/ns/time_for_children", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            ours.send(b".")
            os.waitpid(pid, 0)


def session_keyring() -> int:
    return syscall(SYS_KEYCTL, 0, SESSION_KEYRING, 0)  # KEYCTL_GET_KEYRING_ID


def write(path: str) -> None:
    """Write to a file what this process has inherited."""
    found: dict[str, Any] = {name: _or_error(prctl, *words) for name, words in PRCTLS.items()}
    found["session keyring"] = _or_error(session_keyring)
    found["memory policy"] = _or_error(memory_policy)
    found["core cookie"] = _or_error(core_cookie)
    Path(path).write_text(json.dumps(found))


def _or_error(ask: Any, *words: int) -> Any:
    try:
        return ask(*words)
    except OSError as error:
        return errno.errorcode[error.errno or 0]


def inherited(path: str, bundle: Path) -> dict[str, Any]:
    """Let the server at `path` run a program instead of a runtime; return what that inherited."""
    report, program = bundle / "inherited.json", bundle / "runtime-that-reports"
    root = Path(__file__).resolve().parents[2]
    program.write_text(
        _RUNTIME.format(first=run_by(sys.executable), root=str(root), path=str(report))
    )
    program.chmod(0o755)
    options = runc_pb2.Options(binary_name=str(program), root=str(bundle / "state"))
    packed = Packed(type_url="containerd.runc.v1.Options", value=options.SerializeToString())
    request = CreateTaskRequest(id=bundle.name, bundle=str(bundle), options=packed)
    client = BlockingClient.connect(path, timeout_s=_LIMIT_S)
    with client, contextlib.suppress(StatusError):  # no container is made
        client.call(
            "containerd.task.v2.Task", "Create", request, CreateTaskResponse, timeout_s=_LIMIT_S
        )
    found: dict[str, Any] = json.loads(report.read_text())
    return found
