"""The streams of one process as the rest of the shim sees them, whatever is behind them."""

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
    `close` may come at any time, also instead of the others and while `connect`, `output_read` or
    `drain` waits; `close_stdin` as well.
    """

    @property
    def fds(self) -> Mapping[int, int]:
        """The process's 0, 1, 2 -> our descriptor to give it; missing = /dev/null."""
        return _NO_FDS

    @property
    def console_socket(self) -> str:
        """Where the runtime sends the terminal's master; "" = no terminal."""
        return ""

    async def prepare(self) -> None:
        """Start what must run before the runtime does.

        Raises:
            Refused: with the reference's text.  TimeoutError: it does not get ready.
        """

    def spawned(self) -> None:
        """Close the shim's copies of `fds`, which the runtime has now: or the streams never end."""

    async def connect(self, *, timeout_s: float | None = None) -> None:
        """Open the client's side and start to copy.

        `timeout_s` is the time the caller has left, None if it has no limit; the policy's
        `open_limit_s` applies as well.

        Raises:
            TimeoutError, Refused: with the whole text that a client sees.
        """

    def process_ended(self) -> None:
        """Note that the process itself has ended; other processes may still write."""

    async def output_read(self) -> None:
        """After `process_ended`: wait until a connected client has read all output so far.

        The wait ends at the latest the policy's `exit_output_s` after the end of the process,
        however often it is asked for.
        """

    def resize(self, width: int, height: int) -> None:
        """Set the size of the terminal, in characters; nothing without one.

        Raises:
            Refused: the kernel did.
        """

    async def drain(self) -> None:
        """After `process_ended`: wait until the client's side has all output, or has left."""

    def close_stdin(self) -> None:
        """CloseIO: let stdin end once no client has it open for writing.  Idempotent."""

    async def close(self) -> None:
        """Release everything, after delivering what the client's side takes without waiting."""

    def counters(self) -> IoCounters:
        return IoCounters()
