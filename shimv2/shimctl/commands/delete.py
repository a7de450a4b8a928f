"""Remove a stopped container (with --force: in any state) and print its exit status."""

import argparse
import asyncio

from shimv2.shimctl.commands.common import setup_of
from shimv2.shimctl.container import ShimGone
from shimv2.shimctl.harness import Harness
from shimv2.values.model import Exit


def add(parser: argparse.ArgumentParser) -> None:
    text = "kill it first; or clean up after a dead shim"
    parser.add_argument("-f", "--force", action="store_true", help=text)
    parser.add_argument("id", metavar="ID")


def main(options: argparse.Namespace) -> int:
    return asyncio.run(_delete(options))


async def _delete(options: argparse.Namespace) -> int:
    async with Harness(setup_of(options)) as harness:
        print((await _end(harness, options.id, force=options.force)).status)
    return 0


async def _end(harness: Harness, container_id: str, *, force: bool) -> Exit:
    try:
        container = await harness.found(container_id)
    except ShimGone:
        if not force:
            raise
        return (await harness.cleaned(container_id)).exit
    if force:
        await container.kill_and_wait()
    ended = await container.task.delete(container_id)  # refused while it runs
    await container.remove()
    return ended
