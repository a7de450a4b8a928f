"""The canary: memory is shared only if a fork has done, with shared memory, what a shim does.

    zygote ── fork ──► candidate, which publishes ── fork ──► canary, which lives and reclaims
      │                    │
      │ ends if all        └ goes on as the zygote if the canary reports what is expected
      │ is well
      └ else goes on as it was: without shared memory

Whatever is wrong, be it a wrong answer, a crash or no end, is found before a shim depends on it.
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
    hand_over: Callable[[int], object],
    *,
    limit_s: float = _LIMIT_S,
) -> str:
    """Go on in a fork that shares its memory; or in this process, with the reason why not.

    `live` does what a shim does and returns what came out, `expected` is what came out before.  The
    caller goes on in one of the two processes only; the other one ends.  The result is empty in the
    fork; before this process ends for it, `hand_over` is called with the fork's pid.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()  # noqa: TID251 - no thread, no loop
    if pid == 0:
        ours.close()
        return _candidate(theirs, live, expected, limit_s)
    theirs.close()
    report = _hear(ours, limit_s)
    if report == _OK:
        hand_over(pid)
        os._exit(0)  # this closes `ours`, which the fork waits for
    ours.close()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)  # with the canary
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)  # it may not have made its group yet
    os.waitpid(pid, 0)  # noqa: TID251 - there is no reaper here
    return report.decode()


def _candidate(
    parent: socket.socket, live: Callable[[], str], expected: str, limit_s: float
) -> str:
    """Publish and try; returns only if all is well, and ends otherwise."""
    is_well = False
    try:
        os.setsid()  # as the zygote did
        report = _attempt(live, expected, limit_s)
        parent.send(report)
        is_well = report == _OK and parent.recv(1) == b""  # the parent has heard it, and ended
    finally:
        if not is_well:
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


def _hear(child: socket.socket, limit_s: float) -> bytes:
    """Receive a report: what is wrong, or `_OK`."""
    if not select.select([child], [], [], limit_s)[0]:
        return b"there is no end of it"
    return child.recv(_REPORT_BYTES) or b"a process crashed"


def _try(
    functions: list[FunctionType],
    checksum: int,
    live: Callable[[], str],
    expected: str,
    limit_s: float,
) -> bytes:
    """Have a fork live with a reclaim at every rest; its report."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()  # noqa: TID251 - no thread, no loop
    if pid == 0:
        report = b"the canary fails"
        try:
            reclaim.at_every_rest()
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
        report = _hear(ours, limit_s / 2)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)  # noqa: TID251 - there is no reaper here
    return report


def _checksum(functions: list[FunctionType]) -> int:
    """Sum up what code says that the interpreter does not change."""
    total = 0
    for code in bytecode.codes(functions):
        constants = [each for each in code.co_consts if not isinstance(each, CodeType)]
        text = repr((code.co_name, code.co_names, code.co_varnames, constants))
        total = zlib.crc32(code.co_code + code.co_linetable + text.encode(), total)
    return total
