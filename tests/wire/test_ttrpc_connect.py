"""How the asyncio client connects."""

import asyncio
import contextlib
import socket
from pathlib import Path

import pytest

from tests.support.aio import LoopName, run
from tests.support.ttrpc_peer import LIMIT_S, Peer, Things, connected, echo, serving
from ttrpc import (
    Client,
)

MUTE_S = 0.05


def test_address_may_be_a_url(loop: LoopName) -> None:
    """In the form of TTRPC_ADDRESS and of the bundle's `address`."""

    async def scenario() -> None:
        async with (
            serving(Things().registry) as (_server, path),
            connected(f"unix://{path}") as one,
        ):
            assert await echo(one) == "x"

    run(scenario(), loop=loop)


def test_missing_server_is_reported_at_once(loop: LoopName, tmp_path: Path) -> None:
    """No file, no listener, no path at all."""

    async def scenario() -> None:
        dead = tmp_path / "dead"
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(dead))
        for path, error in [
            (str(tmp_path / "none"), FileNotFoundError),
            (str(dead), ConnectionRefusedError),
            ("x" * 200, OSError),
        ]:
            with pytest.raises(error):
                await Client.connect(path, timeout_s=LIMIT_S)

    run(scenario(), loop=loop)


def test_full_backlog_is_waited_for_within_the_time(loop: LoopName, tmp_path: Path) -> None:
    """A server that is busy or stopped."""

    async def scenario() -> None:
        path = str(tmp_path / "full")
        with socket.socket(socket.AF_UNIX) as listener, contextlib.ExitStack() as others:
            listener.bind(path)
            listener.listen(0)
            others.enter_context(Peer.connect(path))
            with pytest.raises(TimeoutError):
                await Client.connect(path, timeout_s=MUTE_S)
            connecting = asyncio.create_task(Client.connect(path, timeout_s=LIMIT_S))
            await asyncio.sleep(0)
            others.enter_context(listener.accept()[0])
            client = await connecting
            assert not client.closed
            await client.close()

    run(scenario(), loop=loop)
