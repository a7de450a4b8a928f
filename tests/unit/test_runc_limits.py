"""A runtime that hangs, and callers that disconnect: no process is left, and nothing waits for
ever."""

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from shimv2.kernel import linux
from shimv2.runtime.runc import Runc
from shimv2.shimctl.testbed.leaks import children_of
from shimv2.shimctl.testbed.until import eventually, until
from shimv2.values.errors import RuntimeFailed
from tests.support.aio import LOOPS, LoopName
from tests.support.fake_runtime import (
    PREFIXES,
    FakeRuntime,
    checkpoint,
    create,
    exec_,
    failure,
    is_alive,
    restore,
)
from tests.support.isolation import end_children

HANG = "trap '' TERM INT HUP; echo $$ >$HERE/pid.new; mv $HERE/pid.new $HERE/pid; "


@pytest.fixture
def fake(tmp_path: Path) -> FakeRuntime:
    return FakeRuntime(tmp_path)


@pytest.fixture
def _subreaper() -> Iterator[None]:
    """As in the shim: orphans of a dead runtime become children of this process."""
    linux.set_child_subreaper(True)
    before = children_of(os.getpid())
    yield
    end_children(before)  # an orphan after the reaper's last check is dead, but not reaped
    linux.set_child_subreaper(False)


def verb(runc: Runc, name: str, timeout_s: float) -> "asyncio.Future[None]":
    calls = {
        "create": lambda: create(runc, timeout_s=timeout_s),
        "exec": lambda: exec_(runc, timeout_s=timeout_s),
        "start": lambda: runc.start("c1", timeout_s=timeout_s),
        "kill": lambda: runc.kill("c1", 9, timeout_s=timeout_s),
        "delete": lambda: runc.delete("c1", timeout_s=timeout_s),
        "pause": lambda: runc.pause("c1", timeout_s=timeout_s),
        "resume": lambda: runc.resume("c1", timeout_s=timeout_s),
        "update": lambda: runc.update("c1", resources={}, timeout_s=timeout_s),
        "checkpoint": lambda: checkpoint(runc, timeout_s=timeout_s),
        "restore": lambda: restore(runc, timeout_s=timeout_s),
    }
    return asyncio.ensure_future(calls[name]())


@pytest.mark.rule("task.errors.6")
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize(
    "name",
    [
        *("create", "exec", "start", "kill", "delete", "pause", "resume", "update"),
        *("checkpoint", "restore"),
    ],
)
def test_hanging_runtime_is_killed_at_its_limit(
    fake: FakeRuntime, name: str, loop: LoopName
) -> None:
    """A killed runtime is reported as exit status 137, for every verb."""
    fake.script(HANG + "exec sleep 1000")
    fake.log.touch()

    async def hang(runc: Runc) -> str:
        with pytest.raises(RuntimeFailed) as caught:
            await verb(runc, name, 0.3)
        pid = int(fake.saw("pid"))
        assert not is_alive(pid)  # not even as a zombie: reaped before the call returns
        return str(caught.value)

    text = fake.run(hang, loop=loop)

    assert f"{fake.binary} did not terminate successfully: exit status 137" in text
    assert text.startswith(PREFIXES.get(name, ""))


@pytest.mark.parametrize("name", ["create", "exec", "start", "delete", "update"])
def test_runtime_of_a_cancelled_caller_is_dead_before_the_caller_knows(
    fake: FakeRuntime, name: str
) -> None:
    """The roll-back must not run at the same time as the runtime."""
    fake.script(HANG + "exec sleep 1000")

    async def cancel(runc: Runc) -> None:
        call = verb(runc, name, 1000.0)
        await eventually(lambda: fake.has_seen("pid"), "the runtime")
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert not is_alive(int(fake.saw("pid")))

    fake.run(cancel)


def test_runtime_is_awaited_though_its_caller_is_cancelled_again(fake: FakeRuntime) -> None:
    """A second cancellation during the kill of the first one leaves no process behind."""
    fake.script(HANG + "exec sleep 1000")

    async def cancel(runc: Runc) -> None:
        call = verb(runc, "start", 1000.0)
        await eventually(lambda: fake.has_seen("pid"), "the runtime")
        call.cancel()
        for _ in range(3):
            await asyncio.sleep(0)
            call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert not is_alive(int(fake.saw("pid")))

    fake.run(cancel)


def test_stopped_runtime_is_killed_at_its_limit(fake: FakeRuntime) -> None:
    """The runtime is stopped with SIGSTOP."""
    fake.script("kill -STOP $$")
    fake.log.touch()

    async def hang(runc: Runc) -> None:
        with pytest.raises(RuntimeFailed, match="exit status 137"):
            await verb(runc, "start", 0.2)

    fake.run(hang)


@pytest.mark.usefixtures("_subreaper")
@pytest.mark.parametrize("name", ["create", "exec"])
def test_what_a_killed_runtime_had_started_is_killed_too(fake: FakeRuntime, name: str) -> None:
    """`runc init` of a cancelled create must not remain, nor a child of a hook."""
    fake.script(
        HANG + "(sh -c 'setsid sleep 1000 & echo $! >$0/hook; wait' $HERE & "
        "echo $! >$HERE/init; wait) & wait"
    )
    fake.log.touch()

    async def hang(runc: Runc) -> None:
        call = verb(runc, name, 1000.0)
        names = ("pid", "init", "hook")
        await eventually(lambda: all(fake.has_seen(name) for name in names), "the children")
        pids = [int(fake.saw(name)) for name in names if fake.saw(name).strip()]
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await eventually(lambda: not any(map(is_alive, pids)), "the end of all")

    fake.run(hang)


def test_caller_that_fails_once_the_runtime_runs_does_not_orphan_it(fake: FakeRuntime) -> None:
    """`spawned` closes the caller's fds; an error there is an error of the verb."""
    fake.script(HANG + "exec sleep 1000")

    def fails() -> None:
        until(lambda: fake.has_seen("pid"), "the runtime")
        raise OSError(9, "Bad file descriptor")

    async def call(runc: Runc) -> None:
        with pytest.raises(OSError, match="Bad file descriptor"):
            await create(runc, spawned=fails)
        assert not is_alive(int(fake.saw("pid")))

    fake.run(call)


@pytest.mark.parametrize("limit_s", [0.0, -1.0])
def test_runtime_is_not_run_when_the_time_is_up(fake: FakeRuntime, limit_s: float) -> None:
    """Code 2 with this text, and nothing is run."""
    fake.script("touch $HERE/ran")
    fake.log.touch()

    text = failure(fake, lambda runc: runc.start("c1", timeout_s=limit_s))

    assert text == "OCI runtime start failed: context deadline exceeded: <nil>"
    assert not fake.has_seen("ran")


def test_other_calls_go_on_while_one_hangs(fake: FakeRuntime) -> None:
    """No lock is held while a runtime hangs."""
    fake.script(f'[ "$VERB" = pause ] || exit 0; {HANG} exec sleep 1000')

    async def both(runc: Runc) -> None:
        hangs = verb(runc, "pause", 1000.0)
        await eventually(lambda: fake.has_seen("pid"), "the runtime")
        await asyncio.wait_for(verb(runc, "kill", 10.0), 5.0)
        hangs.cancel()
        with pytest.raises(asyncio.CancelledError):
            await hangs

    fake.run(both)


def test_fast_runtimes_are_reported_by_their_own_status(fake: FakeRuntime) -> None:
    """Many exits before the wait are each reported to their own call."""
    fake.script('[ "$VERB" = start ] || exit 3')
    fake.log.touch()

    async def crowd(runc: Runc) -> None:
        calls = [verb(runc, name, 20.0) for name in ("start", "pause") * 20]
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert results[0::2] == [None] * 20
        assert all(isinstance(result, RuntimeFailed) for result in results[1::2])
        assert all("exit status 3" in str(result) for result in results[1::2])

    fake.run(crowd)


def test_process_file_of_a_cancelled_exec_is_removed(
    fake: FakeRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has the environment of a process that will never run."""
    folder = fake.folder / "tmp"
    folder.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    fake.script(HANG + "exec sleep 1000")

    async def cancel(runc: Runc) -> None:
        call = verb(runc, "exec", 1000.0)
        await eventually(lambda: fake.has_seen("pid"), "the runtime")
        assert len(os.listdir(folder)) == 1
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

    fake.run(cancel)
    assert os.listdir(folder) == []


@pytest.mark.rule("cli.end.4", "task.lines.9")
def test_runtime_dies_with_the_shim(fake: FakeRuntime) -> None:
    """SIGKILL of the shim also kills the runtime, which could change the machine otherwise."""
    fake.script(HANG + "exec sleep 1000")
    shim = os.fork()
    if shim == 0:
        try:
            fake.run(verb_of_start, timeout_s=1000.0)
        finally:
            os._exit(1)
    until(lambda: fake.has_seen("pid"), "the runtime")
    pid = int(fake.saw("pid"))
    os.kill(shim, signal.SIGKILL)
    os.waitpid(shim, 0)

    until(lambda: _is_gone(pid), "the end of the runtime")


async def verb_of_start(runc: Runc) -> None:
    await runc.start("c1", timeout_s=1000.0)


def _is_gone(pid: int) -> bool:
    """Whether a process has ended; it may be a zombie of another process."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True
