"""asyncio tasks that belong to the shim and not to one request."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Hashable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, TypeVar

T = TypeVar("T")

log = logging.getLogger(__name__)


class Background:
    """The shim's own tasks: watchers of exits, and verbs whose client has disconnected.

    An exception in a task is logged with its traceback and ends only that task.  If it ended the
    shim, containerd would kill the container, because it kills containers whose shim has exited.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(
        self, work: Coroutine[Any, Any, T], what: str, *, for_a_request: bool = False
    ) -> asyncio.Task[T]:
        """Run `work` as a task and return it; `what` is its name in stack dumps and in the log.

        With `for_a_request`, an exception is the reply to a request and is not logged.
        """
        task = asyncio.get_running_loop().create_task(work, name=what)
        self._tasks.add(task)
        task.add_done_callback(self._answered if for_a_request else self._ended)
        return task

    def _answered(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # retrieve it, or asyncio logs it as never retrieved

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s failed", task.get_name(), exc_info=error)

    @asynccontextmanager
    async def all_or_nothing(self, what: str) -> AsyncIterator[AsyncExitStack]:
        """Run the callbacks that the block pushed on the stack, if the block raises.

        The roll-back is a task of the shim.  It runs to its end even if the request is cancelled
        once more.  `what` names it in the log.
        """
        undo = AsyncExitStack()
        try:
            yield undo
        except BaseException:
            await asyncio.shield(self.start(undo.aclose(), f"roll-back of {what}"))
            raise
        undo.pop_all()

    async def stop(self) -> None:
        """Cancel the tasks that still run, and wait for their end."""
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks)


class Verbs:
    """Runs verbs to their end even if the call is cancelled; a repeated call joins such a run.

    containerd repeats a call whose connection it lost or whose deadline expired.  A verb that has
    begun (a start, a delete) must neither stop half way nor be done twice.  Two calls at the same
    time do not join: the state table refuses the second one, as the Go shim does.
    """

    MAX_KEPT = 64  # results kept for calls that may never be repeated

    def __init__(self, background: Background) -> None:
        self._background = background
        self._abandoned: dict[Hashable, asyncio.Task[Any]] = {}

    async def run(
        self, key: Hashable, verb: Callable[[], Coroutine[Any, Any, T]], *, keep: bool = False
    ) -> T:
        """Await `verb()`, or join the run that an earlier, cancelled call with `key` began.

        With `keep`, the result of an abandoned run that succeeded is also the result of every later
        call with `key`, until `forget`.
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
