"""Many workers on one connection and many connections: nothing is lost, mixed up or left over."""

import asyncio

import pytest

from tests.support.aio import LoopName, run
from tests.support.ttrpc_peer import Things, connected, echo, serving
from ttrpc import Client

WORKERS = 100
METHODS = ("Echo", "Slowly")


@pytest.mark.parametrize(
    "calls", [5_000, pytest.param(1_000_000, marks=[pytest.mark.soak, pytest.mark.timeout(3600)])]
)
@pytest.mark.parametrize("connections", [1, 10])
def test_workers_all_get_their_own_answers(loop: LoopName, calls: int, connections: int) -> None:
    """The load under which other implementations deadlocked."""

    async def calling(client: Client, name: str) -> None:
        for number in range(calls // WORKERS):
            value = f"{name}.{number}" + "x" * (number % 7 * 1000)
            assert await echo(client, value, METHODS[number % 2]) == value

    async def working(path: str, number: int) -> None:
        async with connected(path) as client:
            names = [f"{number}.{one}" for one in range(WORKERS // connections)]
            await asyncio.gather(*(calling(client, name) for name in names))

    async def scenario() -> None:
        things = Things()
        async with serving(things.registry) as (server, path):
            await asyncio.gather(*(working(path, number) for number in range(connections)))
            assert (server.calls, things.answered) == (0, calls)

    run(scenario(), loop=loop, timeout_s=3600, debug=False)
