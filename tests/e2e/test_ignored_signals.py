"""A daemon started with `nohup`: its shims inherit ignored signals, and containers do not."""

import signal
from collections.abc import Iterator
from typing import Final

import pytest

from shimv2.shimctl.harness import Harness, Setup
from shimv2.shimctl.streams import Capture
from tests.support.harnessed import add_exec, in_harness

pytestmark = [pytest.mark.root, pytest.mark.ours("a Go shim's containers inherit blocked signals")]

_IGNORED: Final = (signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1)
_STATUS: Final = ("sh", "-c", "grep -E '^Sig(Ign|Blk)' /proc/self/status; exec sleep 1000")
_DEFAULT: Final = ["SigBlk:\t0000000000000000", "SigIgn:\t0000000000000000"]


@pytest.fixture
def _nohup() -> Iterator[None]:
    before = {number: signal.signal(number, signal.SIG_IGN) for number in _IGNORED}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    yield
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("_nohup")
@pytest.mark.rule("task.lines.10", "cli.signals.3")
def test_container_of_a_shim_with_ignored_signals_has_the_default_ones(setup: Setup) -> None:
    """The init has no signal ignored or blocked, and an exec can be killed by SIGHUP."""

    async def scenario(harness: Harness) -> None:
        container = await harness.run("c1", *_STATUS)
        await add_exec(container, "e1", "sh", "-c", "kill -HUP $$; exit 3")
        await container.task.start("c1", "e1")
        ended = await container.task.wait("c1", "e1", timeout_s=20)
        await container.kill_and_wait()
        await container.outputs_ended()
        await container.remove()

        assert isinstance(container.stdout, Capture)
        assert container.stdout.text.splitlines() == _DEFAULT
        assert ended.status == 128 + signal.SIGHUP

    in_harness(setup, scenario)
