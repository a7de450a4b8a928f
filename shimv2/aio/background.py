"""Tasks that belong to the daemon and not to a request."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Hashable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, TypeVar

T = TypeVar("T")

log = logging.getLogger(__name__)


class Background:
    """The daemon's own tasks: watchers of exits, verbs whose caller left.

    A failure in one is logged with its traceback and ends only that task: a shim that died of it
    would take the container along, because containerd kills what it cannot reach.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(
        self, work: Coroutine[Any, Any, T], what: str, *, for_a_request: bool = False
    ) -> asyncio.Task[T]:
        """Run `work` as a task of the daemon's; `what` names it in stack dumps and the log.

        With `for_a_request` a failure is an answer to somebody, and not logged.
        """
        task = asyncio.get_running_loop().create_task(work, name=what)
        self._tasks.add(task)
        task.add_done_callback(self._answered if for_a_request else self._ended)
        return task

    def _answered(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # looked at: nobody may be left who does

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s failed", task.get_name(), exc_info=error)

    @asynccontextmanager
    async def all_or_nothing(self, what: str) -> AsyncIterator[AsyncExitStack]:
        """Undo what the block pushed on the stack, unless the block reaches its end.

        The roll-back is the daemon's task: it runs to its end even when the request that failed
        is given up a second time.
        """
        undo = AsyncExitStack()
        try:
            yield undo
        except BaseException:
            await asyncio.shield(self.start(undo.aclose(), f"roll-back of {what}"))
            raise
        undo.pop_all()

    async def stop(self) -> None:
        """Cancel what still runs and wait for its end."""
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks)


class Verbs:
    """Runs verbs that go on when their caller leaves, and lets a repeated call join.

    containerd repeats a call whose connection or deadline it lost; what was begun (a start, a
    delete) must neither be broken off half way nor be done twice.  Two callers at the same time
    do not join: the second is refused by the state table, as with the reference shim.
    """

    MAX_KEPT = 64  # outcomes kept for a caller who may never come back

    def __init__(self, background: Background) -> None:
        self._background = background
        self._abandoned: dict[Hashable, asyncio.Task[Any]] = {}

    async def run(
        self, key: Hashable, verb: Callable[[], Coroutine[Any, Any, T]], *, keep: bool = False
    ) -> T:
        """Await `verb()`, or the run of it that an earlier caller with this `key` left behind.

        With `keep` the outcome of an abandoned run that succeeded is told to every later caller
        until `forget`.
        """
        task: asyncio.Task[T] | None = self._abandoned.get(key)
        if task is None:
            task = self._background.start(verb(), f"verb {key}", for_a_request=True)
        elif not keep:
            del self._abandoned[key]
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if not task.cancelled():
                self._abandon(key, task, keep=keep)
            raise

    def _abandon(self, key: Hashable, task: asyncio.Task[Any], *, keep: bool) -> None:
        self._abandoned[key] = task
        while len(self._abandoned) > self.MAX_KEPT:
            del self._abandoned[next(iter(self._abandoned))]

        def ended(task: asyncio.Task[Any]) -> None:
            failed = task.cancelled() or task.exception() is not None
            if (failed or not keep) and self._abandoned.get(key) is task:
                del self._abandoned[key]

        task.add_done_callback(ended)

    @property
    def kept(self) -> int:
        return len(self._abandoned)

    def forget(self, key: Hashable) -> None:
        self._abandoned.pop(key, None)
