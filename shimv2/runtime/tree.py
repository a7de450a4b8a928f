"""Ends a child of ours together with everything below it.

A runtime that is killed in the middle of create or exec leaves a half-made container process, and
hooks: children of its own, re-parented to us once it is dead and then no longer to be told from
anything else.  So they are looked for while it still lives.
"""

import contextlib
import os
import signal
from typing import Final

_DEPTH_LIMIT: Final = 32
_COUNT_LIMIT: Final = 4096  # of children of one process: /proc gives at most what we read


def kill_tree(pid: int) -> None:
    """SIGKILL our child `pid`, which is not yet reaped, and its descendants.

    Each is stopped before its children are listed, so that it can neither make new ones nor reap
    those there are; each below the first is signalled through a pidfd and only if its parent is
    who we think, so that a recycled pid is never hit.  What is gone already is fine.
    """
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)
    _kill_children(pid, _DEPTH_LIMIT)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def kill_leaves(pid: int) -> None:
    """SIGKILL those descendants of our child `pid` that have no children; not itself.

    What has started them sees them end, and can clean up: CRIU and runc do.
    """
    for child in _children(pid):
        with contextlib.suppress(OSError):  # it ended meanwhile
            fd = os.pidfd_open(child)
            try:
                if _parent_of(child) != pid:
                    continue
                if _children(child):
                    kill_leaves(child)
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
            if _parent_of(pid) == parent:
                signal.pidfd_send_signal(fd, signal.SIGSTOP)
                _kill_children(pid, depth - 1)
                signal.pidfd_send_signal(fd, signal.SIGKILL)
        except OSError:  # it ended meanwhile
            continue
        finally:
            os.close(fd)


def _children(pid: int) -> list[int]:
    """List the children of all threads of a process: Go forks from any of them."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{thread}/children") as file:
                found += map(int, file.read(16 * _COUNT_LIMIT).split())
    return found[:_COUNT_LIMIT]


def _parent_of(pid: int) -> int:
    with open(f"/proc/{pid}/stat", "rb") as file:
        text = file.read()
    # The name may hold anything, parentheses too: what follows the last one is numbers.
    return int(text.rpartition(b")")[2].split()[1])
