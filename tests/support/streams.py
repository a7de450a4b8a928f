"""Both sides of stdio: the client's FIFO ends and the container's processes; counts of fds and
wake-ups."""

import asyncio
import contextlib
import gc
import os
import resource
import subprocess
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from typing import Any, ClassVar, Final, TypeVar

from shimv2.io.stdio import ProcessIO, open_io
from shimv2.values.model import Stdio
from shimv2.values.settings import IoPolicy
from tests.support.aio import LoopName, run

T = TypeVar("T")

_LOOKS: Final = 20  # checks, until a thread sleeps
_LOOK_S: Final = 0.005
REST_S: Final = 0.1  # how long a test checks that nothing happens
REST_WAKEUPS: Final = 3  # of the check itself: its timer, and the call of epoll_wait


class FifoReader:
    """The client's end of an output FIFO, opened without waiting."""

    def __init__(self, path: str) -> None:
        self.number = os.open(path, os.O_RDONLY | os.O_NONBLOCK)

    async def read(self, count_bytes: int) -> bytes:
        """Read exactly so many bytes, or up to the end."""
        parts = []
        while count_bytes and (part := await self._some(count_bytes)):
            parts.append(part)
            count_bytes -= len(part)
        return b"".join(parts)

    async def read_all(self) -> bytes:
        parts = []
        while part := await self._some(1 << 20):
            parts.append(part)
        return b"".join(parts)

    async def count_all(self) -> int:
        total = 0
        while part := await self._some(1 << 20):
            total += len(part)
        return total

    async def _some(self, limit_bytes: int) -> bytes:
        loop = asyncio.get_running_loop()
        readable = loop.create_future()

        def wake() -> None:
            loop.remove_reader(self.number)
            readable.set_result(None)

        # Read only after an event: before the first writer a read returns end of file too.
        loop.add_reader(self.number, wake)
        try:
            await readable
        finally:
            loop.remove_reader(self.number)
        return os.read(self.number, limit_bytes)

    def close(self) -> None:
        number, self.number = self.number, -1
        if number >= 0:
            os.close(number)


class Container:
    """A process on the other side of a ProcessIO, in place of a container."""

    alive: ClassVar[list["Container"]] = []  # of the current test

    def __init__(self, io: ProcessIO, *argv: str) -> None:
        null = subprocess.DEVNULL
        fds = io.fds
        self._process = subprocess.Popen(
            argv, stdin=fds.get(0, null), stdout=fds.get(1, null), stderr=fds.get(2, null)
        )
        self.alive.append(self)
        io.spawned()

    @property
    def waits_in(self) -> str:
        """Return the kernel function in which it sleeps, such as `pipe_write`."""
        with open(f"/proc/{self._process.pid}/wchan", encoding="ascii") as file:
            return file.read()

    @property
    def exited(self) -> bool:
        return self._process.poll() is not None

    async def wait(self) -> int:
        await eventually(lambda: self.exited, "the process to exit")
        return self._process.wait()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


async def eventually(met: Callable[[], object], what: str, *, limit_s: float = 10.0) -> None:
    loop = asyncio.get_running_loop()
    end = loop.time() + limit_s
    while not met():
        if loop.time() >= end:
            raise AssertionError(f"waited {limit_s} s for {what}")
        await asyncio.sleep(_LOOK_S)  # between two checks


async def wakeups_at_rest(rest_s: float = REST_S) -> int:
    """Return how often this thread slept and woke while nothing should have happened.

    A loop that spins never sleeps, so its CPU time counts as well: each 0.1 ms as one wake-up.  A
    real fault shows in every measurement.  The lowest of several measurements counts, because a
    busy machine wakes a thread now and then, and starts a child late.
    """
    best = await _wakeups(rest_s)
    for _ in range(_LOOKS - 1):
        if best > REST_WAKEUPS:
            best = min(best, await _wakeups(rest_s))
    return best


async def _wakeups(rest_s: float) -> int:
    before = resource.getrusage(resource.RUSAGE_THREAD)
    await asyncio.sleep(rest_s)  # the time that is measured
    after = resource.getrusage(resource.RUSAGE_THREAD)
    busy_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return after.ru_nvcsw - before.ru_nvcsw + max(0, int(busy_s / 0.0001) - 100)


def open_fds() -> dict[int, str]:
    """Return the open files of this process: number -> name."""
    found = {}
    for number in map(int, os.listdir("/proc/self/fd")):
        with contextlib.suppress(FileNotFoundError):  # the fd that listed the folder
            found[number] = os.readlink(f"/proc/self/fd/{number}")
    return found


@contextlib.contextmanager
def nothing_leaked() -> Iterator[None]:
    before = open_fds()
    yield
    assert open_fds() == before


def run_clean(
    main: Coroutine[Any, Any, T], timeout_s: float = 20.0, *, loop: LoopName = "shim"
) -> T:
    """Run `main` as `run` does; check that no descriptor is left open."""
    with nothing_leaked():
        # A collection scans all of pytest's objects for tens of ms, which is not to be measured
        # here.
        gc.disable()
        try:
            return run(main, timeout_s, loop=loop)
        finally:
            gc.enable()
            while Container.alive:
                Container.alive.pop().kill()


@contextlib.asynccontextmanager
async def opened(
    *, stdin: str = "", stdout: str = "", stderr: str = "", policy: IoPolicy | None = None
) -> AsyncIterator[ProcessIO]:
    """Yield a ProcessIO that is always closed at the end."""
    stdio = Stdio(stdin=stdin, stdout=stdout, stderr=stderr)
    io = open_io(stdio, uid=os.geteuid(), gid=os.getegid(), policy=policy or IoPolicy())
    try:
        yield io
    finally:
        await io.close()


def fifos(folder: object, names: Sequence[str] = ("in", "out", "err")) -> list[str]:
    """Make FIFOs; return their paths."""
    paths = [os.path.join(str(folder), name) for name in names]
    for path in paths:
        os.mkfifo(path)
    return paths


def shell_lines(count: int) -> str:
    """Return a shell command that writes numbered lines of 80 bytes, each with one write."""
    return f"i=0; while [ $i -lt {count} ]; do printf '%079d\\n' $i; i=$((i+1)); done"


def lines(count: int) -> bytes:
    return b"".join(b"%079d\n" % i for i in range(count))


def on_fifo(path: str) -> int:
    """Return how many descriptors of this process are open on it, those of the test included."""
    return list(open_fds().values()).count(path)
