"""Readers and writers of the loop: which callbacks run, and which may not."""

import asyncio
import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest

from shimv2.aio.loop import LeanLoop
from tests.support.aio import LOOPS, LoopName, run

both_loops = pytest.mark.parametrize("loop", LOOPS)


@contextlib.contextmanager
def a_pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    left, right = socket.socketpair()
    with left, right:
        left.setblocking(False)
        right.setblocking(False)
        yield left, right


@contextlib.contextmanager
def a_pipe() -> Iterator[list[int]]:
    """Both ends; a test that closes one takes it out of the list."""
    ends = list(os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC))
    try:
        yield ends
    finally:
        for fd in ends:
            os.close(fd)


async def turns(count: int = 3) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@both_loops
def test_reader_runs_while_there_is_something_to_read(loop: LoopName) -> None:
    """Level-triggered: a reader that leaves bytes behind is called again."""

    async def main() -> bytes:
        here, got, done = asyncio.get_running_loop(), bytearray(), asyncio.Event()
        with a_pipe() as (source, sink):

            def read() -> None:
                got.extend(os.read(source, 2))
                if len(got) == 5:
                    done.set()

            here.add_reader(source, read)
            os.write(sink, b"abcde")
            await done.wait()
            await turns()
            assert here.remove_reader(source)
            assert not here.remove_reader(source)
        return bytes(got)

    assert run(main(), loop=loop) == b"abcde"


@both_loops
def test_reader_and_writer_of_one_fd_are_independent(loop: LoopName) -> None:
    """Each side is added, called and removed on its own; a socket object serves as an fd."""

    async def main() -> None:
        here, calls = asyncio.get_running_loop(), list[str]()
        with a_pair() as (left, right):
            here.add_writer(left, calls.append, "write")
            here.add_reader(left, calls.append, "read")
            await turns()
            assert set(calls) == {"write"}
            right.send(b"x")
            await turns()
            assert set(calls) == {"write", "read"}
            assert here.remove_writer(left)
            calls.clear()
            await turns()
            assert set(calls) == {"read"}
            assert here.remove_reader(left.fileno())
            assert not here.remove_writer(left)
            calls.clear()
            await turns()
            assert calls == []

    run(main(), loop=loop)


@both_loops
def test_added_again_replaces_the_callback(loop: LoopName) -> None:
    """One reader per fd: the later one."""

    async def main() -> None:
        here, calls = asyncio.get_running_loop(), list[str]()
        with a_pair() as (left, right):
            right.send(b"x")
            here.add_reader(left, calls.append, "first")
            here.add_reader(left, calls.append, "second")
            await turns()
            assert set(calls) == {"second"}
            here.remove_reader(left)

    run(main(), loop=loop)


@both_loops
def test_reader_removed_by_another_in_the_same_round_does_not_run(loop: LoopName) -> None:
    """Whoever runs first closes the other: its callback would work on a dead fd."""

    async def main() -> None:
        here, calls = asyncio.get_running_loop(), list[int]()
        with a_pair() as (left1, right1), a_pair() as (left2, right2):

            def only(number: int) -> None:
                calls.append(number)
                here.remove_reader(left1)
                here.remove_reader(left2)

            here.add_reader(left1, only, 1)
            here.add_reader(left2, only, 2)
            right1.send(b"x")
            right2.send(b"x")
            await turns()
            assert len(calls) == 1

    run(main(), loop=loop)


@both_loops
def test_number_used_again_in_the_same_round_does_not_get_the_old_event(loop: LoopName) -> None:
    """An fd closed and opened anew by one callback is another file for the next."""

    async def main() -> None:
        here, calls = asyncio.get_running_loop(), list[str]()
        with a_pair() as (left1, right1), a_pair() as (left2, right2), a_pipe() as quiet:

            def replace(mine: socket.socket, other: socket.socket) -> None:
                calls.append("replaced")
                here.remove_reader(mine)
                here.remove_reader(other)
                os.dup2(quiet[0], other.fileno(), inheritable=False)  # nothing to read there
                here.add_reader(other, calls.append, "spurious")

            here.add_reader(left1, replace, left1, left2)
            here.add_reader(left2, replace, left2, left1)
            right1.send(b"x")
            right2.send(b"x")
            await turns()
            assert calls == ["replaced"]
            here.remove_reader(left1)
            here.remove_reader(left2)

    run(main(), loop=loop)


@both_loops
def test_hang_up_and_error_wake_whoever_waits(loop: LoopName) -> None:
    """The last writer gone wakes a reader (EPOLLHUP), the reader gone a writer (EPOLLERR)."""

    async def main() -> None:
        here, calls = asyncio.get_running_loop(), list[str]()
        with a_pipe() as first, a_pipe() as second:
            here.add_reader(first[0], calls.append, "reader")
            await turns()
            assert calls == []
            os.close(first.pop(1))
            await turns()
            assert set(calls) == {"reader"}
            here.remove_reader(first[0])

            with contextlib.suppress(BlockingIOError):
                while True:
                    os.write(second[1], bytes(65536))
            calls.clear()
            here.add_writer(second[1], calls.append, "writer")
            await turns()
            assert calls == []
            os.close(second.pop(0))
            await turns()
            assert set(calls) == {"writer"}
            here.remove_writer(second[0])

    run(main(), loop=loop)


@both_loops
def test_regular_file_is_refused(tmp_path: Path, loop: LoopName) -> None:
    """epoll cannot wait for it (EPERM): whoever asks must read it directly instead."""

    async def main(file: BinaryIO) -> None:
        here = asyncio.get_running_loop()
        with pytest.raises(PermissionError):
            here.add_reader(file, print)
        with pytest.raises(PermissionError):
            here.add_writer(file.fileno(), print)
        assert not here.remove_reader(file)
        with pytest.raises(ValueError, match="nvalid file"):
            here.add_reader(-1, print)

    with open(tmp_path / "f", "wb") as file:
        run(main(file), loop=loop)


def test_fd_closed_without_removal_is_replaced_by_the_next_of_its_number() -> None:
    """Lean loop: a forgotten remove_reader does not make its number unusable."""

    async def main() -> None:
        here, calls = asyncio.get_running_loop(), list[str]()
        with a_pair() as (left, right), a_pair() as (left2, right2):
            here.add_reader(left, calls.append, "old")
            os.dup2(left2.fileno(), left.fileno(), inheritable=False)
            here.add_reader(left, calls.append, "new")
            right.close()
            right2.send(b"x")
            await turns()
            assert set(calls) == {"new"}
            assert here.remove_reader(left)
            here.add_reader(left2, calls.append, "closed")
            number = left2.fileno()
            left2.close()
            assert here.remove_reader(number)

    run(main())


def test_copy_of_a_closed_fd_does_not_make_the_loop_spin(caplog: pytest.LogCaptureFixture) -> None:
    """Lean loop: epoll reports a file that lives on in a copy and cannot be taken out any more.

    Nobody waits for it: the loop must get rid of it and go on to serve the others.
    """

    async def main() -> int:
        here, calls, polls = asyncio.get_running_loop(), list[str](), 0
        assert isinstance(here, LeanLoop)
        with a_pipe() as (source, sink), a_pair() as (left, right):
            copy = os.dup(source)
            here.add_reader(copy, calls.append, "stale")
            here.add_reader(left, calls.append, "other")
            os.close(copy)
            here.remove_reader(copy)
            os.write(sink, b"x")
            await turns()
            right.send(b"x")
            await turns()
            assert set(calls) == {"other"}
            here.remove_reader(left)
            poll = here._poller.poll

            def counted(timeout_s: float | None, ready: object) -> None:
                nonlocal polls
                polls += 1
                poll(timeout_s, ready)  # type: ignore[arg-type] # handed through

            here._poller.poll = counted  # type: ignore[method-assign] # seen, not changed
            await asyncio.sleep(0.05)  # the rest whose turns are counted
        return polls

    assert run(main()) <= 4
    assert "built anew" in caplog.text


@both_loops
def test_timer_and_thread_get_their_turn_beside_a_busy_file(loop: LoopName) -> None:
    """A file that is always ready starves neither timers nor wake-ups."""

    async def main() -> None:
        here, timer, woken = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()
        with a_pair() as (left, _):
            here.add_writer(left, lambda: None)
            here.call_later(0.01, timer.set)
            thread = threading.Thread(target=here.call_soon_threadsafe, args=(woken.set,))
            thread.start()
            await timer.wait()
            await woken.wait()
            thread.join()
            here.remove_writer(left)

    run(main(), loop=loop)


def test_more_ready_files_than_fit_into_one_poll_are_all_served() -> None:
    """64 events a round, 200 files: each gets its turn."""

    async def main() -> None:
        here, calls = asyncio.get_running_loop(), set[int]()
        with contextlib.ExitStack() as stack:
            pairs = [stack.enter_context(a_pair()) for _ in range(200)]
            for number, (left, right) in enumerate(pairs):
                here.add_reader(left, calls.add, number)
                right.send(b"x")
            await turns(20)
            assert len(calls) == 200
            for left, _ in pairs:
                here.remove_reader(left)

    run(main(), debug=False)
