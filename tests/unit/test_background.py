"""Tasks of the daemon, and verbs that outlive their caller."""

import asyncio

import pytest

from shimv2.aio.background import Background, Verbs
from shimv2.shimctl.testbed.until import eventually
from tests.support.aio import run


async def _leave(call: "asyncio.Task[object]") -> None:
    """Cancel a call as a lost connection does, once it has begun."""
    await asyncio.sleep(0)
    call.cancel()
    await asyncio.wait([call])


def test_failed_task_is_logged_and_ends_alone(caplog: pytest.LogCaptureFixture) -> None:
    """If one failed watcher ended the shim, all its containers would be killed."""

    async def main() -> None:
        background = Background()
        other = background.start(asyncio.sleep(60), "other")

        async def fails() -> None:
            raise ValueError("broken watcher")

        failed = background.start(fails(), "watch of c1")
        await asyncio.wait([failed])
        assert not other.done()
        await background.stop()
        assert other.cancelled()

    run(main())
    assert "watch of c1 failed" in caplog.text
    assert "broken watcher" in caplog.text


def test_rollback_runs_to_its_end_though_the_caller_is_cancelled_twice() -> None:
    """All or nothing: a request that is cancelled during its roll-back leaves nothing behind."""

    async def main() -> None:
        background = Background()
        undone: list[str] = []
        gate = asyncio.Event()

        async def undo_slowly() -> None:
            await gate.wait()
            undone.append("first act")

        async def request() -> None:
            async with background.all_or_nothing("create of c1") as undo:
                undo.push_async_callback(undo_slowly)
                undo.callback(undone.append, "second act")
                await asyncio.Event().wait()

        task = asyncio.create_task(request())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(0)  # the undo waits now
        task.cancel()
        await asyncio.wait([task])
        assert undone == ["second act"]
        gate.set()
        await eventually(lambda: len(undone) == 2, "the roll-back")
        assert undone == ["second act", "first act"]
        await background.stop()

    run(main())


def test_verb_continues_when_its_caller_disconnects_and_a_repeated_call_joins() -> None:
    """A verb that has begun is neither interrupted nor done twice."""

    async def main() -> None:
        background = Background()
        verbs, gate, runs = Verbs(background), asyncio.Event(), 0

        async def verb() -> int:
            nonlocal runs
            runs += 1
            await gate.wait()
            return 7

        first = asyncio.create_task(verbs.run("key", verb))
        await _leave(first)
        second = asyncio.create_task(verbs.run("key", verb))
        await asyncio.sleep(0)
        gate.set()
        assert await second == 7
        assert runs == 1
        assert await verbs.run("key", verb) == 7
        assert runs == 2
        await background.stop()

    run(main())


def test_two_callers_at_once_do_not_join() -> None:
    """The second of two concurrent Starts is refused by the table, so it must run by itself."""

    async def main() -> None:
        background = Background()
        verbs, gate, runs = Verbs(background), asyncio.Event(), 0

        async def verb() -> int:
            nonlocal runs
            runs += 1
            await gate.wait()
            return runs

        calls = [asyncio.create_task(verbs.run("key", verb)) for _ in range(2)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert runs == 2
        gate.set()
        await asyncio.gather(*calls)
        await background.stop()

    run(main())


def test_kept_outcome_is_returned_again_until_forgotten() -> None:
    """A Delete whose reply was lost gives the same exit when it is repeated."""

    async def main() -> None:
        background = Background()
        verbs, gate, runs = Verbs(background), asyncio.Event(), 0

        async def verb() -> int:
            nonlocal runs
            runs += 1
            await gate.wait()
            return runs

        await _leave(asyncio.create_task(verbs.run("key", verb, keep=True)))
        gate.set()
        assert await verbs.run("key", verb, keep=True) == 1
        assert await verbs.run("key", verb, keep=True) == 1
        verbs.forget("key")
        assert await verbs.run("key", verb, keep=True) == 2
        await background.stop()

    run(main())


@pytest.mark.parametrize("keep", [False, True])
def test_failure_is_raised_for_one_caller_and_not_kept(keep: bool) -> None:
    """After an error the verb may be tried again, whichever caller got the error."""

    async def main() -> None:
        background = Background()
        verbs, gate, runs = Verbs(background), asyncio.Event(), 0

        async def verb() -> int:
            nonlocal runs
            runs += 1
            await gate.wait()
            raise ValueError(f"run {runs}")

        await _leave(asyncio.create_task(verbs.run("key", verb, keep=keep)))
        joined = asyncio.create_task(verbs.run("key", verb, keep=keep))
        await asyncio.sleep(0)
        gate.set()
        with pytest.raises(ValueError, match="run 1"):
            await joined
        with pytest.raises(ValueError, match="run 2"):
            await verbs.run("key", verb, keep=keep)
        await background.stop()

    run(main())


def test_outcomes_kept_without_a_caller_are_bounded() -> None:
    """Callers that never repeat their call must not make the shim grow."""

    async def main() -> None:
        background = Background()
        verbs = Verbs(background)

        async def verb() -> int:
            await asyncio.sleep(0)
            return 1

        for number in range(3 * Verbs.MAX_KEPT):
            await _leave(asyncio.create_task(verbs.run(number, verb, keep=True)))
        assert verbs.kept <= Verbs.MAX_KEPT
        await background.stop()

    run(main())
