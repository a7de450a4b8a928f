"""Show a running container's output from where the last reader stopped; exit with its status."""

import argparse
import asyncio

from shimv2.shimctl.commands.common import setup_of
from shimv2.shimctl.foreground import follow, relayed
from shimv2.shimctl.harness import Harness


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("id", metavar="ID")
    parser.add_argument("-i", "--stdin", action="store_true", help="forward standard input")
    parser.add_argument("--keep", action="store_true", help="leave the stopped container in place")


def main(options: argparse.Namespace) -> int:
    return asyncio.run(_attach(options))


async def _attach(options: argparse.Namespace) -> int:
    async with Harness(setup_of(options)) as harness:
        container = await harness.found(options.id)
        container.read(relayed)
        return await follow(container, stdin=options.stdin, keep=options.keep)
