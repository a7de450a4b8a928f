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
    """The streams of a process that has none: all three are /dev/null.  Others override it all.

    The order is: `prepare`, `spawned`, `connect`, `process_ended`, `taken`, `drain`, `close`.
    `close` may come at any time, also instead of the others and while `connect`, `taken` or `drain`
    waits; `close_stdin` as well.
    """

    @property
    def fds(self) -> Mapping[int, int]:
        """The process's 0, 1, 2 -> our descriptor to give it; missing = /dev/null."""
        return _NO_FDS

    @property
    def console_socket(self) -> str:
        """Where the runtime sends the terminal's master; "" = there is no terminal."""
        return ""

    async def prepare(self) -> None:
        """Start what must run before the runtime does.

        Raises:
            Refused: with the reference's text.  TimeoutError: it does not get ready.
        """

    def spawned(self) -> None:
        """The runtime has its copies of `fds`: give up ours, or the streams would never end."""

    async def connect(self, *, timeout_s: float | None = None) -> None:
        """Open the client's side and start to copy.

        `timeout_s` is what is left to the caller, when that may be less than the policy's limit.

        Raises:
            TimeoutError, Refused: with the whole text that a client sees.
        """

    def process_ended(self) -> None:
        """The process itself has ended; others may still write."""

    async def taken(self) -> None:
        """After `process_ended`: wait until a client that is there has taken what came so far.

        The policy's `exit_output_s` from the end of the process at most, however often it is asked.
        """

    def resize(self, width: int, height: int) -> None:
        """Set the size of the terminal, in characters; nothing without one.

        Raises:
            Refused: the kernel did.
        """

    async def drain(self) -> None:
        """After the process ended: wait until the client's side has what it wrote, or gave up."""

    def close_stdin(self) -> None:
        """CloseIO: let the input end once no client's writer is left.  Repeating it is harmless."""

    async def close(self) -> None:
        """Release everything; what the client's side takes without waiting is delivered first."""

    def counters(self) -> IoCounters:
        return IoCounters()
