"""The interface of a process's streams: the same for pipes, terminals and logging binaries."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

_NO_FDS: Final[Mapping[int, int]] = {}


@dataclass(slots=True)
class StreamCounters:
    relayed_bytes: int = 0
    dropped_bytes: int = 0
    errors: int = 0  # failed writes


@dataclass(frozen=True, slots=True)
class IoCounters:
    stdin: StreamCounters = field(default_factory=StreamCounters)
    stdout: StreamCounters = field(default_factory=StreamCounters)
    stderr: StreamCounters = field(default_factory=StreamCounters)


class ProcessIO:
    """The streams of a process without any: all three are /dev/null.  Other kinds override this.

    The order is: `prepare`, `spawned`, `connect`, `process_ended`, `output_read`, `drain`, `close`.
    `close` and `close_stdin` may be called at any time: also before the others, and while
    `connect`, `output_read` or `drain` waits.
    """

    @property
    def fds(self) -> Mapping[int, int]:
        """Maps the process's fds 0, 1, 2 to the shim's fds for them; missing: /dev/null."""
        return _NO_FDS

    @property
    def console_socket(self) -> str:
        """Where the runtime sends the terminal's master; "" = no terminal."""
        return ""

    async def prepare(self) -> None:
        """Start a logging binary, which has to run before the runtime does.

        Raises:
            Refused: with the Go shim's text.  TimeoutError: the program is not ready in time.
        """

    def spawned(self) -> None:
        """Close the shim's copies of `fds`: the runtime has them now.

        If they stayed open, the streams would never end.
        """

    async def connect(self, *, timeout_s: float | None = None) -> None:
        """Open the client's side and start to copy.

        `timeout_s` is the time the caller has left, None if it has no limit; the policy's
        `open_limit_s` applies as well.

        Raises:
            TimeoutError, Refused: with the whole text that a client sees.
        """

    def process_ended(self) -> None:
        """Note that the process itself has ended.  Other processes may still write."""

    async def output_read(self) -> None:
        """After `process_ended`: wait until a connected client has read all output so far.

        The wait ends at the latest `exit_output_s` (of the policy) after the end of the process,
        also if it is called several times.
        """

    def resize(self, width: int, height: int) -> None:
        """Set the size of the terminal, in characters; without a terminal do nothing.

        Raises:
            Refused: the kernel refuses the size.
        """

    async def drain(self) -> None:
        """After `process_ended`: wait until the client has all output, or has left."""

    def close_stdin(self) -> None:
        """CloseIO: let stdin end once no client has it open for writing.  Idempotent."""

    async def close(self) -> None:
        """Write what the client's side takes without waiting, then release everything."""

    def counters(self) -> IoCounters:
        return IoCounters()
