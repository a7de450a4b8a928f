"""The reaper reports every exit exactly once, and a late claim still gets it."""

import asyncio
import logging
import os
import signal
import sys
import time

import pytest

from shimv2.kernel import reaper
from shimv2.kernel.reaper import Reaper
from shimv2.kernel.spawn import spawn
from shimv2.shimctl.testbed.until import stays, until
from shimv2.values.model import Exit
from tests.support.aio import LOOPS, LoopName, run
from tests.support.children import status_of
from tests.support.kernel import as_subreaper

both_loops = pytest.mark.parametrize("loop", LOOPS)


def shell(script: str, **options: dict[int, int]) -> int:
    return spawn(["sh", "-c", script], executable="/bin/sh", **options)  # type: ignore[arg-type] # fds only


def started() -> Reaper:
    made = Reaper(asyncio.get_running_loop())
    made.start()
    return made


def dead(pid: int) -> None:
    """Wait until `pid` has exited; it is not reaped, because no loop runs meanwhile."""

    def is_dead() -> bool:
        return not os.path.exists(f"/proc/{pid}") or status_of(pid)["State"][0] == "Z"

    until(is_dead, f"{pid} to exit")


@both_loops
def test_exit_is_reported_with_its_status_and_time(loop: LoopName) -> None:
    """The code, or 128 + the signal, without the core dump bit; the time of the wall clock."""

    async def main() -> None:
        mine = started()
        for script, status in [
            ("exit 0", 0),
            ("exit 255", 255),
            ("kill -KILL $$", 128 + signal.SIGKILL),
            ("ulimit -c unlimited; cd /proc; kill -ABRT $$", 128 + signal.SIGABRT),
        ]:
            before_ns = time.time_ns()
            pid = shell(script)
            ended = await mine.claim(pid)
            assert (ended.pid, ended.status) == (pid, status)
            assert before_ns <= ended.at_ns <= time.time_ns()
        mine.stop()

    run(main(), loop=loop)


@pytest.mark.rule("cli.signals.4", "task.exits.1")
@both_loops
def test_burst_of_exits_is_reported_once_each_while_waiters_are_stalled(loop: LoopName) -> None:
    """One SIGCHLD stands for many exits, and no waiter delays the reaping."""

    async def main() -> None:
        mine, statuses = started(), dict[int, list[int]]()
        gate, hold = os.pipe2(os.O_CLOEXEC)
        stalled, wait_for_last_event = asyncio.Event(), asyncio.Event()
        pids = [shell(f"read x; exit {n % 200}", fds={0: gate}) for n in range(100)]

        async def waiter(pid: int) -> None:
            ended = await mine.claim(pid)
            statuses.setdefault(pid, []).append(ended.status)
            if len(statuses) == len(pids):
                wait_for_last_event.set()
            await stalled.wait()

        async with asyncio.TaskGroup() as group:
            for pid in pids:
                group.create_task(waiter(pid))
            await asyncio.sleep(0)
            os.close(hold)  # all of them read the end of the file and exit
            os.close(gate)
            for pid in pids:
                dead(pid)
            await wait_for_last_event.wait()
            stalled.set()
        assert statuses == {pid: [n % 200] for n, pid in enumerate(pids)}
        mine.stop()

    run(main(), loop=loop, timeout_s=30, debug=False)


STOPPED_SHIM = """
import asyncio, os
from shimv2.aio import loop
from shimv2.kernel import spawn
from shimv2.kernel.reaper import Reaper

async def main():
    reaper = Reaper(asyncio.get_running_loop())
    reaper.start()
    exits = [reaper.claim(spawn.spawn(["/bin/sleep", "0.1"])) for _ in range(20)]
    os.write(1, b"ready\\n")
    ended = [await future for future in exits]
    os.write(1, b"%d\\n" % len({e.pid for e in ended}))

loop.run(main())
"""


def test_exits_during_a_stop_of_the_shim_are_reported_after_it() -> None:
    """SIGSTOP of the shim, exits of its children, SIGCONT: no exit is lost."""
    source, sink = os.pipe2(os.O_CLOEXEC)
    with open(source, encoding="ascii") as output:
        shim = spawn([sys.executable, "-c", STOPPED_SHIM], cwd=os.getcwd(), fds={1: sink, 2: 2})
        os.close(sink)
        assert output.readline() == "ready\n"
        with open(f"/proc/{shim}/task/{shim}/children", encoding="ascii") as file:
            pids = [int(pid) for pid in file.read().split()]
        os.kill(shim, signal.SIGSTOP)
        for pid in pids:
            dead(pid)
        os.kill(shim, signal.SIGCONT)

        assert output.readline() == "20\n"
    ended = os.waitid(os.P_PID, shim, os.WEXITED)
    assert ended is not None
    assert ended.si_status == 0


@both_loops
def test_exit_before_the_claim_is_kept_while_a_launch_window_is_open(loop: LoopName) -> None:
    """Dead and reaped before its pid is known: the claim resolves at once."""

    async def main() -> None:
        mine = started()
        with mine.launching():
            pid = shell("exit 7")
            dead(pid)
            mine.collect()
            future = mine.claim(pid)
            assert future.done()
            assert (await future).status == 7
            assert (await mine.claim(pid)).status == 7  # a second claim gets it too
        with pytest.raises(ChildProcessError):
            mine.claim(pid)
        mine.stop()

    run(main(), loop=loop)


@pytest.mark.rule("task.exits.7")
def test_exit_outside_of_every_window_is_forgotten() -> None:
    """Orphans are reaped silently; a claim that could never resolve is an error, not a hang."""

    async def main() -> None:
        mine = started()
        pid = shell("exit 7")
        dead(pid)
        mine.collect()
        assert not os.path.exists(f"/proc/{pid}")
        with mine.launching(), pytest.raises(ChildProcessError, match=str(pid)):
            mine.claim(pid)
        with pytest.raises(ChildProcessError):
            mine.claim(1)
        mine.stop()

    run(main())


def test_windows_overlap_and_the_last_one_forgets() -> None:
    """Two launches at a time: the end of one does not drop the exits of the other."""

    async def main() -> None:
        mine = started()
        first, second = mine.launching(), mine.launching()
        with mine.launching():
            first.__enter__()
            second.__enter__()
            pid = shell("exit 1")
            dead(pid)
            mine.collect()
        first.__exit__(None, None, None)
        assert mine.claim(pid).done()
        second.__exit__(None, None, None)
        with pytest.raises(ChildProcessError):
            mine.claim(pid)
        mine.stop()

    run(main())


@both_loops
def test_everyone_who_claims_gets_the_same_exit(loop: LoopName) -> None:
    """All get the same time; a cancelled claim does not affect others."""

    async def main() -> None:
        mine = started()
        gate, hold = os.pipe2(os.O_CLOEXEC)
        pid = shell("read x; exit 3", fds={0: gate})
        claims = [mine.claim(pid) for _ in range(3)]
        claims[1].cancel()
        os.close(hold)
        os.close(gate)
        first, third = await claims[0], await claims[2]
        assert first is third
        assert first.status == 3
        assert claims[1].cancelled()
        mine.stop()

    run(main(), loop=loop)


def test_cancelled_claims_leave_nothing_behind() -> None:
    """1,000 waits with a timeout on one process do not use memory."""

    async def main() -> None:
        mine = started()
        gate, hold = os.pipe2(os.O_CLOEXEC)
        pid = shell("read x", fds={0: gate})
        for _ in range(1000):
            mine.claim(pid).cancel()
        await asyncio.sleep(0)
        assert mine._claims == {}
        last = mine.claim(pid)
        os.close(hold)
        os.close(gate)
        await last
        assert mine._claims == {}
        assert mine._kept == {}
        mine.stop()

    run(main(), debug=False)


def test_exits_are_kept_and_delivered_in_the_order_of_reaping() -> None:
    """The order of the results is that of the times of the exits."""

    async def main() -> None:
        mine, order = started(), list[Exit]()
        pids = [shell("exit 0") for _ in range(20)]
        futures = [mine.claim(pid) for pid in pids]
        for future in futures:
            future.add_done_callback(lambda done: order.append(done.result()))
        await asyncio.gather(*futures)
        await asyncio.sleep(0)
        assert len(order) == 20
        assert order == sorted(order, key=lambda ended: ended.at_ns)
        mine.stop()

    run(main())


@both_loops
def test_orphan_can_be_claimed_after_its_parent_was_reaped(loop: LoopName) -> None:
    """This is how a container's init becomes a child: runc exits before it.

    The orphan exits with its parent or later: dash reaps a job that has exited before itself.
    """

    async def main() -> None:
        mine = started()
        for exits_with_parent in (True, False) * 10:
            (source, sink), (gate, hold) = os.pipe2(os.O_CLOEXEC), os.pipe2(os.O_CLOEXEC)
            with mine.launching():
                script = "(exec 4>&-; read x <&3; exit 5) & echo $!"  # the parent holds fd 4
                parent = shell(script, fds={1: sink, 3: gate, 4: hold})
                for fd in (sink, gate, hold) if exits_with_parent else (sink, gate):
                    os.close(fd)
                assert (await mine.claim(parent)).status == 0
                orphan = int(os.read(source, 100))
                os.close(source)
                ended = mine.claim(orphan)
            if not exits_with_parent:
                os.close(hold)
            assert await ended == Exit(orphan, 5, (await ended).at_ns)
        mine.stop()

    with as_subreaper():
        run(main(), loop=loop)


@both_loops
def test_children_that_died_before_the_start_are_collected_by_it(loop: LoopName) -> None:
    """Their SIGCHLD came before the reaper listened."""

    async def main() -> None:
        mine = Reaper(asyncio.get_running_loop())
        pid = shell("exit 9")
        dead(pid)
        claimed = mine.claim(pid)  # not reaped yet: still our child
        mine.start()
        assert (await claimed).status == 9
        mine.stop()
        mine.stop()
        assert signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL

    run(main(), loop=loop)


def test_storm_of_orphans_gives_the_loop_its_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """20,000 short-lived children must not delay the reply to State."""
    monkeypatch.setattr(reaper, "_REAPED_PER_ITERATION", 4)

    async def main() -> None:
        mine = Reaper(asyncio.get_running_loop())
        pids = [shell("exit 0") for _ in range(20)]
        for pid in pids:
            dead(pid)
        mine.start()
        left = list[int]()
        while os.path.exists(f"/proc/{pids[-1]}"):
            left.append(sum(os.path.exists(f"/proc/{pid}") for pid in pids))
            await asyncio.sleep(0)
        assert left == [16, 12, 8, 4]
        mine.collect()
        assert mine._again is None
        mine.stop()

    run(main())


def test_stop_in_the_middle_of_a_storm_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is scheduled any more; exited children stay zombies for the next reaper."""
    monkeypatch.setattr(reaper, "_REAPED_PER_ITERATION", 1)

    async def main() -> None:
        mine = Reaper(asyncio.get_running_loop())
        pids = [shell("exit 0") for _ in range(3)]
        for pid in pids:
            dead(pid)
        mine.start()
        mine.stop()
        paths = [f"/proc/{pid}" for pid in pids]
        await stays(lambda: sum(map(os.path.exists, paths)) == 2, "two left", for_s=0.02)
        mine.collect()
        mine.collect()

    run(main())


def test_kept_exits_are_bounded(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Many exits during a launch use memory up to the limit; the loss is logged."""
    monkeypatch.setattr(reaper, "KEPT_EXITS_LIMIT", 3)

    async def main() -> None:
        mine = started()
        with mine.launching():
            pids = list[int]()
            for _ in range(5):
                pids.append(shell("exit 0"))
                dead(pids[-1])
                mine.collect()
            for pid in pids[:2]:
                with pytest.raises(ChildProcessError):
                    mine.claim(pid)
            for pid in pids[2:]:
                assert mine.claim(pid).done()
        mine.stop()

    with caplog.at_level(logging.WARNING):
        run(main())

    assert caplog.text.count("2 exits of unknown processes") == 1


@pytest.mark.root
def test_recycled_pid_does_not_get_its_predecessors_exit() -> None:
    """The claim of a running child waits, although an exit with the same pid is kept."""

    async def main() -> bool:
        mine = started()
        with mine.launching():
            first = shell("exit 1")
            dead(first)
            mine.collect()
            with open("/proc/sys/kernel/ns_last_pid", "w", encoding="ascii") as file:  # noqa: ASYNC230 - a sysctl
                file.write(str(first - 1))
            gate, hold = os.pipe2(os.O_CLOEXEC)
            second = shell("read x; exit 2", fds={0: gate})
            claimed = mine.claim(second)
            assert second != first or not claimed.done()
            os.close(hold)
            os.close(gate)
            assert (await claimed).status == 2
            assert (await mine.claim(second)).status == 2
        mine.stop()
        return second == first

    until(lambda: run(main()), "the kernel to give the same pid again")
