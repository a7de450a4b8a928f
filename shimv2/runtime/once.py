"""One call of the runtime from a process without a loop: for the `delete` action."""

import contextlib
import os
import select
import signal
from typing import Final

from shimv2.runtime.command import (
    CommandFailed,
    ended_badly,
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
    """Make the runtime end and forget a container; waits for it, at most `timeout_s`.

    A runtime whose state folder has nothing of the container is not asked: that is so after every
    ordinary removal, and starting one to hear it costs more than all the rest of `delete`.
    `--systemd-cgroup` is not given: the runtime remembers how it made the container.

    Raises:
        CommandFailed: go-runc's text, the runtime's output included.
    """
    if not _has_left_something(root, container_id):
        return
    args = [*global_args(binary, root=root, log_path=log_path), "delete", "--force", container_id]
    run_now(args, timeout_s)


def _has_left_something(root: str, container_id: str) -> bool:
    """Whether a runtime has state of a container: a folder of its name, or files that begin so."""
    try:
        return any(name.startswith(container_id) for name in os.listdir(root))
    except FileNotFoundError:
        return False
    except OSError:
        return True  # it may see what we cannot, and will say why if not


def features_now(binary: str, *, timeout_s: float) -> bytes:
    """Ask a runtime for what it can do: JSON, as the OCI runtime-spec's `features` defines it.

    Raises:
        CommandFailed: it does not know the question, or does not answer in time.
    """
    return run_now([binary, "features"], timeout_s).encode()


def run_now(args: list[str], timeout_s: float) -> str:
    """Return what a program prints; an error has what it complains of as well.

    Raises:
        CommandFailed: it cannot be executed, fails, or is killed when its time is up.
    """
    with contextlib.ExitStack() as files:
        printed, complaints = memory_file("runtime-output"), memory_file("runtime-errors")
        for fd in (printed, complaints):
            files.callback(os.close, fd)
        status = _status(launch(args, {1: printed, 2: complaints}), timeout_s)
        if status:
            said = output(printed) + output(complaints)
            raise CommandFailed(f"{ended_badly(args[0], status)}: {said}", status)
        return output(printed)


def _status(pid: int, timeout_s: float) -> int:
    """Wait for a child and return its status, 128 + signal when killed - by us, after the limit."""
    exited = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(exited, select.POLLIN)
        if not poll.poll(timeout_s * 1000):
            kill_tree(pid)
            if not poll.poll(_DEATH_LIMIT_S * 1000):  # uninterruptible: leave it to init
                return 128 + signal.SIGKILL
    finally:
        os.close(exited)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])  # noqa: TID251 - a process without a reaper
    return code if code >= 0 else 128 - code
