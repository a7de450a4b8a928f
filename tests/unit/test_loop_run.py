"""Starting, stopping and closing the lean loop, and `run`, which does all three."""

import asyncio
import logging
import os
import socket
from pathlib import Path

import pytest

from shimv2.aio import loop as lean
from tests.support.aio import LOOPS, LoopName, run


def fds_now() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def test_run_returns_the_result_and_gives_back_every_fd() -> None:
    """Epoll, the wake-up pipe and the signal handlers belong to the loop, which run() closes."""

    async def main() -> int:
        await asyncio.sleep(0)
        return 42

    before = fds_now()

    assert lean.run(main()) == 42
    assert fds_now() == before


def test_run_raises_what_main_raises() -> None:
    """An error or an exit flies unchanged, and the loop is closed all the same."""

    async def fail(error: BaseException) -> None:
        await asyncio.sleep(0)
        raise error

    before = fds_now()
    for error in (ValueError("x"), SystemExit(3), KeyboardInterrupt()):
        with pytest.raises(type(error)):
            lean.run(fail(error))

    assert fds_now() == before


def test_run_cancels_and_awaits_what_is_left() -> None:
    """A task that main forgot gets its CancelledError and the time to clean up."""
    seen = list[str]()

    async def forgotten() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            seen.append("cleaned up")

    async def main() -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(forgotten())
        await asyncio.sleep(0)
        return task

    assert lean.run(main()).cancelled()
    assert seen == ["cleaned up"]


def test_run_tells_of_a_task_that_fails_while_it_is_cancelled(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Nobody awaits it any more: the exception handler hears of it."""

    async def stubborn() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise LookupError("while cancelled")

    async def main() -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(stubborn())
        await asyncio.sleep(0)
        return task

    with caplog.at_level(logging.ERROR):
        lean.run(main())

    assert "while cancelled" in caplog.text


def test_loop_refuses_what_cannot_be() -> None:
    """Nested, doubled or late use is an error that says so, not a hang."""
    here = lean.new_loop()

    async def main() -> None:
        with pytest.raises(RuntimeError, match="already running"):
            here.run_forever()
        with pytest.raises(RuntimeError, match="Cannot close a running"):
            here.close()
        other = lean.new_loop()
        with pytest.raises(RuntimeError, match="another loop"):
            other.run_forever()
        other.close()
        with pytest.raises(NotImplementedError):
            await here.run_in_executor(None, print)

    here.run_until_complete(main())
    stopped = here.create_future()
    here.call_soon(here.stop)
    with pytest.raises(RuntimeError, match="stopped before"):
        here.run_until_complete(stopped)
    here.close()
    here.close()

    assert here.is_closed()
    assert "closed" in repr(here)
    assert not here.remove_reader(0)
    assert not here.remove_writer(0)
    for act in (here.run_forever, lambda: here.call_soon(print), lambda: here.call_later(1, print)):
        with pytest.raises(RuntimeError, match="closed"):
            act()
    with pytest.raises(RuntimeError, match="closed"):
        here.call_soon_threadsafe(print)


def test_stop_before_run_forever_runs_one_round() -> None:
    """As the stock loop: stop() is remembered."""
    here, seen = lean.new_loop(), list[int]()
    here.call_soon(seen.append, 1)
    here.stop()

    here.run_forever()

    assert seen == [1]
    assert repr(here) == "<LeanLoop>"
    assert not here.is_running()
    here.close()


def test_future_given_to_run_until_complete_keeps_its_error() -> None:
    """Its owner may still look; the loop takes only its own callback off."""
    here = lean.new_loop()
    future: asyncio.Future[None] = here.create_future()
    here.call_soon(future.set_exception, ValueError("mine"))

    with pytest.raises(ValueError, match="mine"):
        here.run_until_complete(future)

    assert isinstance(future.exception(), ValueError)
    here.close()


def test_runner_of_asyncio_takes_the_lean_loop() -> None:
    """asyncio.Runner asks for shutdown_asyncgens and shutdown_default_executor."""
    with asyncio.Runner(loop_factory=lean.new_loop) as runner:
        assert runner.run(asyncio.sleep(0, "fine")) == "fine"


@pytest.mark.parametrize("loop", LOOPS)
def test_unix_socket_connects(tmp_path: Path, loop: LoopName) -> None:
    """sock_connect on a path, and the error of a path where nobody listens."""

    async def main() -> None:
        here = asyncio.get_running_loop()
        with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
            listener.bind(str(tmp_path / "s"))
            listener.listen(1)
            client.setblocking(False)
            await here.sock_connect(client, str(tmp_path / "s"))
            assert client.getpeername() == str(tmp_path / "s")
        with socket.socket(socket.AF_UNIX) as client:
            client.setblocking(False)
            with pytest.raises(FileNotFoundError):
                await here.sock_connect(client, str(tmp_path / "gone"))
            with pytest.raises(ConnectionRefusedError):
                await here.sock_connect(client, str(tmp_path / "s"))

    run(main(), loop=loop)


def test_unix_socket_waits_for_room_in_a_full_backlog(tmp_path: Path) -> None:
    """EAGAIN of connect(2) means the backlog is full: it must not be taken for connected."""

    async def main() -> None:
        here = asyncio.get_running_loop()
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(tmp_path / "s"))
            listener.listen(0)
            clients = [socket.socket(socket.AF_UNIX) for _ in range(3)]
            for client in clients:
                client.setblocking(False)
            await here.sock_connect(clients[0], str(tmp_path / "s"))
            late = here.create_task(here.sock_connect(clients[1], str(tmp_path / "s")))
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asyncio.shield(late), 0.05)
            listener.accept()[0].close()
            await late
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(here.sock_connect(clients[2], str(tmp_path / "s")), 0.02)
            for client in clients:
                client.close()

    run(main())


def test_other_sockets_are_refused() -> None:
    """A shim speaks to Unix sockets only; anything else would need name look-ups."""

    async def main() -> None:
        with socket.socket(socket.AF_INET) as client, pytest.raises(NotImplementedError):
            await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", 9))

    run(main())
