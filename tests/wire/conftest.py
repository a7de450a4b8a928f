"""Fixtures of the tests over real sockets."""

import pytest

from tests.support.aio import LOOPS, LoopName


@pytest.fixture(params=LOOPS)
def loop(request: pytest.FixtureRequest) -> LoopName:
    """The loop a test runs on: each one runs on the shim's and on asyncio's stock loop."""
    name: LoopName = request.param
    return name
