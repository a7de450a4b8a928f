"""Signals on the loop: none is lost, and an idle loop is woken by each."""

import asyncio
import contextlib
import os
import signal
import threading

import pytest

from shimv2.aio.loop import ShimLoop
from tests.support.aio import LOOPS, LoopName, run

both_loops = pytest.mark.parametrize("loop", LOOPS)


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@both_loops
def test_signal_calls_its_handler_on_the_loop(loop: LoopName) -> None:
    """It gets its arguments; its removal restores the default."""

    async def main() -> list[str]:
        here, seen, done = asyncio.get_running_loop(), list[str](), asyncio.Event()

        def note(name: str) -> None:
            seen.append(name)
            if len(seen) == 2:
                done.set()

        here.add_signal_handler(signal.SIGUSR1, note, "one")
        here.add_signal_handler(signal.SIGUSR2, note, "two")
        send(signal.SIGUSR1)
        send(signal.SIGUSR2)
        await done.wait()
        for number in (signal.SIGUSR1, signal.SIGUSR2):
            assert here.remove_signal_handler(number)
            assert not here.remove_signal_handler(number)
            assert signal.getsignal(number) is signal.SIG_DFL
        return sorted(seen)

    assert run(main(), loop=loop) == ["one", "two"]


@both_loops
def test_signal_that_arrives_at_any_moment_wakes_the_loop(loop: LoopName) -> None:
    """Also just before epoll_wait: a thread sends 300 of them, each awaited without a timer."""

    async def main() -> None:
        here, come, go = asyncio.get_running_loop(), asyncio.Event(), threading.Semaphore(0)

        def sender() -> None:
            for _ in range(300):
                go.acquire()
                send(signal.SIGUSR1)

        here.add_signal_handler(signal.SIGUSR1, come.set)
        thread = threading.Thread(target=sender)
        thread.start()
        for _ in range(300):
            come.clear()
            go.release()
            await come.wait()
        thread.join()
        here.remove_signal_handler(signal.SIGUSR1)

    run(main(), loop=loop, timeout_s=30)


def test_full_wake_up_socket_loses_no_signal() -> None:
    """A wake-up socket full of unread bytes (many SIGCHLD) must not lose a SIGTERM."""

    async def main() -> set[str]:
        here, seen = asyncio.get_running_loop(), set[str]()
        assert isinstance(here, ShimLoop)
        here.add_signal_handler(signal.SIGTERM, seen.add, "term")
        here.add_signal_handler(signal.SIGUSR1, seen.add, "usr1")
        with contextlib.suppress(BlockingIOError):
            while True:
                here._csock.send(b"\0")
        send(signal.SIGTERM)
        send(signal.SIGUSR1)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        here.remove_signal_handler(signal.SIGTERM)
        here.remove_signal_handler(signal.SIGUSR1)
        return seen

    assert run(main()) == {"term", "usr1"}


def test_many_signals_before_the_loop_runs_give_one_call() -> None:
    """A burst causes one call, so a handler must check everything."""

    async def main() -> int:
        here, calls = asyncio.get_running_loop(), list[int]()
        here.add_signal_handler(signal.SIGUSR1, calls.append, 1)
        for _ in range(1000):
            send(signal.SIGUSR1)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        here.remove_signal_handler(signal.SIGUSR1)
        return len(calls)

    assert run(main()) == 1


@both_loops
def test_signal_that_cannot_be_caught_is_refused(loop: LoopName) -> None:
    """SIGKILL, and any signal outside of the main thread; other signals still work."""

    async def main() -> None:
        here, seen, errors = asyncio.get_running_loop(), asyncio.Event(), list[Exception]()
        here.add_signal_handler(signal.SIGUSR1, seen.set)
        with pytest.raises((RuntimeError, OSError)):
            here.add_signal_handler(signal.SIGKILL, print)
        send(signal.SIGUSR1)
        await seen.wait()
        here.remove_signal_handler(signal.SIGUSR1)
        with pytest.raises((RuntimeError, OSError)):
            here.add_signal_handler(signal.SIGSTOP, print)
        assert signal.set_wakeup_fd(-1) == -1

        def elsewhere() -> None:
            other = asyncio.new_event_loop() if loop == "stock" else ShimLoop()
            try:
                other.add_signal_handler(signal.SIGUSR1, print)
            except (RuntimeError, ValueError) as exc:
                errors.append(exc)
            other.close()

        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        assert len(errors) == 1

    run(main(), loop=loop)


def test_handler_set_again_replaces_the_first() -> None:
    """One handler per signal: the later one."""

    async def main() -> list[str]:
        here, seen = asyncio.get_running_loop(), list[str]()
        here.add_signal_handler(signal.SIGUSR1, seen.append, "first")
        here.add_signal_handler(signal.SIGUSR1, seen.append, "second")
        send(signal.SIGUSR1)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        here.remove_signal_handler(signal.SIGUSR1)
        return seen

    assert run(main()) == ["second"]


def test_loop_that_is_closed_leaves_no_handler_behind() -> None:
    """SIGINT raises KeyboardInterrupt again, the others have their defaults; the wake-up fd is
    unset."""
    loop = ShimLoop()
    before = signal.getsignal(signal.SIGINT)
    loop.add_signal_handler(signal.SIGINT, print)
    loop.add_signal_handler(signal.SIGUSR2, print)

    loop.close()

    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGUSR2) is signal.SIG_DFL
    assert signal.set_wakeup_fd(-1) == -1
    signal.signal(signal.SIGINT, before)
