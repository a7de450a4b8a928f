"""Kills a child of the shim together with its descendants.

A runtime that is killed during create or exec leaves an incomplete container process and hooks.
They are re-parented to the shim when the runtime dies, and then cannot be distinguished from other
children.  So they are looked up while the runtime is still alive.
"""

import contextlib
import os
import signal
from typing import Final

from shimv2.kernel.proc import parent_of

_DEPTH_LIMIT: Final = 32
_COUNT_LIMIT: Final = 4096  # children of one process: bounds what is read from /proc


def kill_tree(pid: int) -> None:
    """SIGKILL the child `pid`, which is not yet reaped, and its descendants.

    Each process is stopped before its children are listed, so that it can neither fork nor reap.
    Descendants are signalled through a pidfd, after a check of their parent's pid, so that a
    recycled pid is never hit.  A process that has already ended is no error.
    """
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)
    _kill_children(pid, _DEPTH_LIMIT)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def kill_leaf_processes(pid: int) -> None:
    """SIGKILL the descendants of the child `pid` that have no children, but not `pid` itself.

    Their parents see them end and can clean up: CRIU and runc do.
    """
    for child in _children(pid):
        with contextlib.suppress(OSError):  # the child has ended
            fd = os.pidfd_open(child)
            try:
                if parent_of(child) != pid:
                    continue
                if _children(child):
                    kill_leaf_processes(child)
                else:
                    signal.pidfd_send_signal(fd, signal.SIGKILL)
            finally:
                os.close(fd)


def _kill_children(parent: int, depth: int) -> None:
    if not depth:
        return
    for pid in _children(parent):
        try:
            fd = os.pidfd_open(pid)
        except OSError:
            continue
        try:
            if parent_of(pid) == parent:
                signal.pidfd_send_signal(fd, signal.SIGSTOP)
                _kill_children(pid, depth - 1)
                signal.pidfd_send_signal(fd, signal.SIGKILL)
        except OSError:  # the process has ended
            continue
        finally:
            os.close(fd)


def _children(pid: int) -> list[int]:
    """List the children of all threads of a process: a Go program forks from any thread."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{thread}/children") as file:
                found += map(int, file.read(16 * _COUNT_LIMIT).split())
    return found[:_COUNT_LIMIT]
