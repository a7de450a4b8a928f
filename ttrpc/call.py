"""The data of a call that its handler can read: deadline, metadata, peer.  Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class PeerCredentials:
    """The process that connected.  It stays the same if another process inherits the fd."""

    pid: int
    uid: int
    gid: int


class Metadata:
    """Keys with one or more values.  Lookups ignore the case of a key."""

    __slots__ = ("_values",)

    def __init__(self, pairs: Iterable[tuple[str, str]] = ()) -> None:
        values: dict[str, tuple[str, ...]] = {}
        for key, value in pairs:
            name = key.lower()
            values[name] = (*values.get(name, ()), value)
        self._values = values

    def get(self, key: str) -> tuple[str, ...]:
        """Return all values of `key` in the order they were sent; () if there is none."""
        return self._values.get(key.lower(), ())

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Metadata({self._values})"


NO_METADATA: Final = Metadata()


class Call:
    """One call, as its handler sees it.

    `deadline` is in the time of the server's loop (`loop.time()`); None: no deadline.  It may be in
    the past: the handler runs also if the client sent the call after its deadline.
    """

    __slots__ = ("deadline", "metadata", "method", "peer", "service")

    def __init__(
        self,
        service: str,
        method: str,
        *,
        deadline: float | None,
        metadata: Metadata,
        peer: PeerCredentials,
    ) -> None:
        self.service = service
        self.method = method
        self.deadline = deadline
        self.metadata = metadata
        self.peer = peer

    def __repr__(self) -> str:
        return f"<Call {self.service}/{self.method} from {self.peer}>"
