"""The canary: a test run with shared memory, in a fork, before a shim uses shared memory.

    zygote ── fork ──► candidate, which publishes ── fork ──► canary, which serves and reclaims
      │                    │
      │ ends if the        └ goes on as the zygote if the canary's answers are the expected ones
      │ test passes
      └ else goes on unchanged: without shared memory

The test finds a wrong answer, a crash and a hang.  No shim depends on shared memory before that.
"""

import contextlib
import gc
import os
import select
import signal
import socket
import zlib
from collections.abc import Callable
from types import CodeType, FunctionType
from typing import Final

from shimv2.pagesharing import bytecode, publish, reclaim
from shimv2.pagesharing.publish import CannotShare

__all__ = ["share"]

_LIMIT_S: Final = 20.0
_REPORT_BYTES: Final = 4096
_OK: Final = b"ok"


def share(
    live: Callable[[], str],
    expected: str,
    report_successor: Callable[[int], object],
    *,
    limit_s: float = _LIMIT_S,
) -> str:
    """Continue in a fork that shares its memory, or in this process without shared memory.

    `live` runs a shim's work and returns its answers; `expected` are the answers without shared
    memory.  This function returns in one of the two processes only; the other one ends.  In the
    fork it returns "".  Before this process ends, it calls `report_successor` with the fork's pid.
    In this process it returns the reason why memory is not shared.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()  # noqa: TID251 - no thread, no loop
    if pid == 0:
        ours.close()
        return _candidate(theirs, live, expected, limit_s)
    theirs.close()
    report = _receive_report(ours, limit_s)
    if report == _OK:
        report_successor(pid)
        os._exit(0)  # closes `ours`: the fork waits for that
    ours.close()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)  # the candidate and its canary
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)  # it may not have its process group yet
    os.waitpid(pid, 0)  # noqa: TID251 - there is no reaper here
    return report.decode()


def _candidate(
    parent: socket.socket, live: Callable[[], str], expected: str, limit_s: float
) -> str:
    """Publish and run the canary.  Returns only if the test passed; else the process ends."""
    has_passed = False
    try:
        os.setsid()  # as the zygote did
        report = _attempt(live, expected, limit_s)
        parent.send(report)
        # End of file: the parent has the report, and has ended.
        has_passed = report == _OK and parent.recv(1) == b""
    finally:
        if not has_passed:
            os._exit(1)
    parent.close()
    return ""


def _attempt(live: Callable[[], str], expected: str, limit_s: float) -> bytes:
    functions = [each for each in gc.get_objects() if isinstance(each, FunctionType)]
    checksum = _checksum(functions)
    try:
        publish.publish(publish.settle())
    except CannotShare as error:
        return str(error).encode()
    return _try(functions, checksum, live, expected, limit_s)


def _receive_report(child: socket.socket, limit_s: float) -> bytes:
    """Receive a child's report: `_OK`, or what failed."""
    if not select.select([child], [], [], limit_s)[0]:
        return b"the canary did not end in time"
    return child.recv(_REPORT_BYTES) or b"a process crashed"


def _try(
    functions: list[FunctionType],
    checksum: int,
    live: Callable[[], str],
    expected: str,
    limit_s: float,
) -> bytes:
    """Fork the canary, which reclaims whenever its loop is idle; return its report."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()  # noqa: TID251 - no thread, no loop
    if pid == 0:
        report = b"the canary fails"
        try:
            reclaim.reclaim_before_every_sleep()
            found = live()
            reclaim.reclaim()
            report = _OK if found == expected else b"a shim with shared memory answers differently"
            if _checksum(functions) != checksum:
                report = b"shared memory has changed"
        finally:
            theirs.send(report)
            os._exit(0)
    theirs.close()
    with ours:
        report = _receive_report(ours, limit_s / 2)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)  # noqa: TID251 - there is no reaper here
    return report


def _checksum(functions: list[FunctionType]) -> int:
    """Return a checksum of the parts of code objects that the interpreter never changes."""
    total = 0
    for code in bytecode.codes(functions):
        constants = [each for each in code.co_consts if not isinstance(each, CodeType)]
        text = repr((code.co_name, code.co_names, code.co_varnames, constants))
        total = zlib.crc32(code.co_code + code.co_linetable + text.encode(), total)
    return total
