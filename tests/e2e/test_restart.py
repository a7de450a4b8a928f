"""Containers outlive their daemon: it is killed and restarted repeatedly, and nothing is lost."""

import pytest

from shimv2.shimctl.testbed.containerd import Containerd
from tests.support.host import RUNTIME, Host
from tests.support.writers import Writers

pytestmark = pytest.mark.root


@pytest.mark.rule("io.open.7")
def test_three_restarts_lose_no_line_and_no_status(containerd: Containerd, host: Host) -> None:
    """kill -9 of the daemon, 3 times: same pids, every line once, statuses right."""
    _restarts(containerd, host, 3)


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_twenty_restarts_lose_no_line_and_no_status(containerd: Containerd, host: Host) -> None:
    """The same, 20 times."""
    _restarts(containerd, host, 20)


def _restarts(containerd: Containerd, host: Host, times: int) -> None:
    with Writers(containerd, host.folder, ("run", "--runtime", RUNTIME)) as writers:
        for restart in range(times):
            writers.restart(one_ends=restart == times // 2)
        writers.end()
