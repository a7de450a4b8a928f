"""Runs one scenario with one shim in folders of its own, and removes all that the shim leaves
behind."""

import os
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final

from shimv2.shimctl.harness import Harness
from shimv2.shimctl.reply import Generation
from tests.differential.tour import Tour, settled
from tests.differential.words import Words
from tests.support.host import Host, install_shim

Scenario = Callable[[Tour], Awaitable[None]]
NAME: Final = (
    "containerd-shim-runc-v2"  # ours is installed under the name of the one that it replaces
)
_LOG_LIMIT: Final = 4000


async def replay(scenario: Scenario, shim: str, rootfs: str) -> dict[str, str]:
    """Return the outcomes by the steps' labels; `shim` is a path, "" is ours.

    Raises:
        Exception: the error that ended the scenario early, with the log of the shim in its notes.
    """
    host = Host.make()
    sockets: set[str] = set()
    try:
        if not shim:
            shim = os.path.join(host.bin, NAME)
            install_shim(shim)
        setup = replace(host.setup(rootfs=rootfs, generation=Generation.V2_0), shim=shim)
        words = Words(
            {shim: "<shim>", host.folder: "<root>", host.mark: "<ns>", rootfs: "<rootfs>"}
        )
        async with Harness(setup) as harness:
            tour = Tour(harness, words, host, sockets)
            try:
                await scenario(tour)
            except Exception as error:
                for id, one in tour.shims.items():
                    error.add_note(f"log of {id}: {one.log.decode(errors='replace')[-_LOG_LIMIT:]}")
                error.add_note(f"steps so far: {tour.steps}")
                raise
            finally:
                await tour.close()
        if tour.over:
            await _look_at_host(tour, host, sockets)
        return tour.steps
    finally:
        host.leaks.remove_marked()
        host.remove()
        for path in filter(os.path.exists, sockets):
            os.unlink(path)


async def _look_at_host(tour: Tour, host: Host, sockets: set[str]) -> None:
    """Record what is left on the machine, after some time for it to end."""
    tour.phase = ""
    await settled(lambda: not host.leaks.marked())
    left = [line.partition(": ")[2] or line for line in host.leaks.marked()]
    left += ["a socket" for path in sockets if os.path.exists(path)]
    tour.note("left on the host", "\n".join(sorted(left)) or "nothing")
