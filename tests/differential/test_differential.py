"""Every scenario with this shim and with each Go shim at the same time."""

import asyncio

import pytest

from tests.differential.peers import Peer
from tests.differential.replay import Scenario, replay
from tests.differential.report import Report, differences
from tests.differential.scenarios import scenarios
from tests.differential.verdict import Kind, Rule, judge
from tests.support.aio import run

pytestmark = [pytest.mark.differential, pytest.mark.root]
_LIMIT_S = 90.0
_SCENARIOS = scenarios()


@pytest.mark.parametrize("name", _SCENARIOS)
def test_scenario_gives_the_answers_of_the_go_shims(
    name: str, peers: list[Peer], rules: list[Rule], report: Report, rootfs: str
) -> None:
    """All answers are equal, except those with a row in docs/differences.md."""
    ours, *theirs = run(
        _everywhere(_SCENARIOS[name], ["", *(peer.path for peer in peers)], rootfs),
        _LIMIT_S,
        loop="stock",
    )

    judged = judge(name, ours, theirs, rules)
    report.scenarios[name] = judged
    by_peer = {str(peer): steps for peer, steps in zip(peers, judged, strict=True)}
    different = differences(name, by_peer, Kind.DIFFERENT)
    assert not different, "\n".join(different)


async def _everywhere(scenario: Scenario, shims: list[str], rootfs: str) -> list[dict[str, str]]:
    async with asyncio.TaskGroup() as group:
        runs = [group.create_task(replay(scenario, shim, rootfs)) for shim in shims]
    return [one.result() for one in runs]
