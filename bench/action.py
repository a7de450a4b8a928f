"""Runs `start` and `delete` as containerd does, and measures how long they take.

Programs are started in the cheapest way: the time of the driver itself is in the figures of all
shims.
"""

import contextlib
import os
import select
import signal
import time
from dataclasses import dataclass
from typing import Final

from shimv2.shimctl.bundle import Bundle
from shimv2.shimctl.launch import Binary, ShimFailed
from shimv2.shimctl.reply import Reply

_LIMIT_S: Final = 30.0
_READ_BYTES: Final = 64 * 1024
_PIPE_BYTES: Final = 64 * 1024  # stdin is written before there is a reader


@dataclass(frozen=True, slots=True)
class Done:
    output: bytes
    seconds: float  # from the exec to the exit and the end of the output


def start(binary: Binary, bundle: Bundle, stdin: bytes) -> tuple[Reply, float]:
    """Run `start` in the bundle.

    Raises:
        ShimFailed, BadReply, TimeoutError.
    """
    done = _run(binary, ["-id", bundle.id, "start"], bundle, stdin)
    return Reply.parse(done.output, generation=binary.generation), done.seconds


def delete(binary: Binary, bundle: Bundle) -> float:
    """Run `delete`; return the seconds it took.

    Raises:
        ShimFailed, TimeoutError.
    """
    return _run(binary, ["-id", bundle.id, "-bundle", bundle.path, "delete"], bundle, b"").seconds


def _run(binary: Binary, flags: list[str], bundle: Bundle, stdin: bytes) -> Done:
    argv, env = binary.arguments(*flags), binary.environment()
    errors = os.memfd_create("stderr")
    given = _filled(stdin) if stdin else os.open(os.devnull, os.O_RDONLY)
    ours, theirs = os.pipe()
    os.chdir(bundle.path)  # nothing else runs in this process
    try:
        actions = [
            (os.POSIX_SPAWN_DUP2, given, 0),
            (os.POSIX_SPAWN_DUP2, theirs, 1),
            (os.POSIX_SPAWN_DUP2, errors if flags[-1] == "delete" else theirs, 2),
        ]
        began = time.perf_counter()
        pid = os.posix_spawn(
            binary.path, argv, env, file_actions=actions, setpgroup=0, setsigmask=()
        )
        os.close(theirs)
        theirs = -1
        try:
            output = _read_to_end(ours)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        done = Done(output, time.perf_counter() - began)
        if status != 0:
            printed = output + os.pread(errors, _READ_BYTES, 0)
            raise ShimFailed(flags[-1], status, printed.decode(errors="replace"))
        return done
    finally:
        os.chdir("/")
        for fd in (ours, theirs, given, errors):
            if fd >= 0:
                os.close(fd)


def _filled(data: bytes) -> int:
    reader, writer = os.pipe()
    with os.fdopen(writer, "wb") as pipe:
        assert len(data) <= _PIPE_BYTES, "the stdin of the shim does not fit into a pipe"
        pipe.write(data)
    return reader


def _read_to_end(fd: int) -> bytes:
    ready = select.poll()
    ready.register(fd, select.POLLIN)
    data = b""
    while ready.poll(_LIMIT_S * 1000):
        chunk = os.read(fd, _READ_BYTES)
        if not chunk:
            return data
        data += chunk
    raise TimeoutError(f"the shim's output did not end within {_LIMIT_S} s")
