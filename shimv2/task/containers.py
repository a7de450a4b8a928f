"""The table of this shim's containers: one container, or all containers of a pod."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from shimv2.task.container import Container, Host
from shimv2.values.errors import FailedPrecondition, NotFound, Refused
from shimv2.values.model import CreateSpec, Exit


@dataclass(slots=True)
class _Making:
    """A Create that has not ended.  Its task may end after the answer to the caller."""

    task: "asyncio.Task[Container] | None" = None
    given_up: bool = False  # its caller has an answer, or has left; the roll-back runs


class Containers:
    """The table of containers.  An id is in use from the start of Create to the end of Delete."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._table: dict[str, Container] = {}
        self._in_creation: dict[str, _Making] = {}
        self._closed = False
        self._end: Callable[[], Coroutine[Any, Any, None]] | None = None

    def __bool__(self) -> bool:
        """Whether there is a reason for the shim to stay."""
        return bool(self._table or self._in_creation)

    def get(self, container_id: str) -> Container:
        """Return the container of that id.

        Raises:
            NotFound: there is none: never created, or deleted.
        """
        try:
            return self._table[container_id]
        except KeyError:
            raise NotFound("container not created") from None

    def pid_of(self, container_id: str) -> int:
        """Return the pid of a container's init; 0 if there is no such container."""
        container = self._table.get(container_id)
        return container.init.pid if container else 0

    def close(self) -> None:
        """Refuse each later Create: the shim is about to end, and could not serve the container."""
        self._closed = True

    async def create(self, spec: CreateSpec, *, deadline: float | None = None) -> Container:
        """Make a container: all or nothing.  `deadline` is the caller's, in loop time.

        Raises:
            Refused: the id is in use; the container with that id is not changed.
            FailedPrecondition: the shim is about to end.
        """
        while (other := self._in_creation.get(spec.id)) is not None and other.given_up:
            assert other.task is not None
            await asyncio.wait([other.task])
        if spec.id in self._table or spec.id in self._in_creation:
            # runc's text.  runc itself is not called, because it overwrites files of the bundle.
            what = "container with given ID already exists"
            raise Refused(f"OCI runtime create failed: runc create failed: {what}")
        if self._closed:
            raise FailedPrecondition("the shim is stopping")
        self._end = None  # the client that called Shutdown did not know of this Create
        making = self._in_creation[spec.id] = _Making()
        making.task = self._host.background.start(
            self._make(spec, deadline), f"create of {spec.id}", for_a_request=True
        )
        try:
            return await asyncio.shield(making.task)
        except asyncio.CancelledError:
            if not making.task.done():
                # The caller is answered now; the roll-back continues in the background.
                making.given_up = True
                making.task.cancel()
            raise

    async def _make(self, spec: CreateSpec, deadline: float | None) -> Container:
        try:
            async with self._host.background.all_or_nothing(f"create of {spec.id}") as undo:
                container = await Container.create(spec, self._host, undo, deadline=deadline)
        finally:
            making = self._in_creation.pop(spec.id)
            if making.given_up and self._end is not None and not self:
                self._host.background.start(self._end(), "shutdown after a create was given up")
        self._table[spec.id] = container
        container.announce()
        return container

    async def settled(self) -> None:
        """Wait until each Create whose caller disconnected is rolled back.

        If a Create of a daemon timed out, the daemon asks for Shutdown at once.  The shim must
        then be as empty as after the roll-back.
        """
        while given_up := [each.task for each in self._in_creation.values() if each.given_up]:
            await asyncio.wait([task for task in given_up if task is not None])

    def call_if_given_up(self, end: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Call `end` after the roll-back of the Creates that run now, if their callers leave.

        Reason: a caller whose deadline has expired leaves its Create and asks for Shutdown.  The
        shim may get the Shutdown before it notices that the caller has left the Create.
        """
        self._end = end

    async def delete(self, container_id: str) -> tuple[int, Exit | None]:
        """Remove a container; return its init's pid and exit."""
        container = self.get(container_id)
        outcome = await container.delete()
        self._table.pop(container_id, None)
        return outcome
