"""Blocking calls of the runtime, for the `delete` and `-info` actions, which have no event loop."""

import contextlib
import os
import select
import signal
from typing import Final

from shimv2.runtime.command import (
    CommandFailed,
    exit_text,
    global_args,
    launch,
    memory_file,
    output,
)
from shimv2.runtime.tree import kill_tree

_DEATH_LIMIT_S: Final = 1.0  # containerd kills the whole `delete` after 5 s


def delete_force_now(
    *, binary: str, root: str, log_path: str, container_id: str, timeout_s: float
) -> None:
    """Run the runtime's `delete --force`, for at most `timeout_s` seconds.

    If the runtime's state directory has nothing of the container, the runtime is not started.  That
    is the case after every ordinary removal, and the start would double the time of `delete`.
    `--systemd-cgroup` is not given: the runtime stores how it made the container.

    Raises:
        CommandFailed: go-runc's text, the runtime's output included.
    """
    if not _has_state(root, container_id):
        return
    args = [*global_args(binary, root=root, log_path=log_path), "delete", "--force", container_id]
    run_now(args, timeout_s)


def _has_state(root: str, container_id: str) -> bool:
    """Whether a runtime's state directory has entries whose names begin with the container's id."""
    try:
        return any(name.startswith(container_id) for name in os.listdir(root))
    except FileNotFoundError:
        return False
    except OSError:
        return True  # unreadable: the runtime reports the reason


def features_now(binary: str, *, timeout_s: float) -> bytes:
    """Run the runtime's `features` and return its JSON (OCI runtime-spec, features.md).

    Raises:
        CommandFailed: the runtime has no such verb, or does not end within `timeout_s`.
    """
    return run_now([binary, "features"], timeout_s).encode()


def run_now(args: list[str], timeout_s: float) -> str:
    """Run a program and return its stdout; an error has its stderr as well.

    Raises:
        CommandFailed: it cannot be executed, fails, or is killed after `timeout_s`.
    """
    with contextlib.ExitStack() as files:
        printed, complaints = memory_file("runtime-output"), memory_file("runtime-errors")
        for fd in (printed, complaints):
            files.callback(os.close, fd)
        status = _status(launch(args, {1: printed, 2: complaints}), timeout_s)
        if status:
            text = output(printed) + output(complaints)
            raise CommandFailed(f"{exit_text(args[0], status)}: {text}", status)
        return output(printed)


def _status(pid: int, timeout_s: float) -> int:
    """Return a child's exit status, 128 + signal if killed.  After `timeout_s` it is killed."""
    exited = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(exited, select.POLLIN)
        if not poll.poll(timeout_s * 1000):
            kill_tree(pid)
            if not poll.poll(_DEATH_LIMIT_S * 1000):  # in uninterruptible sleep: init will reap it
                return 128 + signal.SIGKILL
    finally:
        os.close(exited)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])  # noqa: TID251 - a process without a reaper
    return code if code >= 0 else 128 - code
