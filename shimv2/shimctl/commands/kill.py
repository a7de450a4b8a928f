"""Send a signal to a container's init."""

import argparse
import asyncio
import contextlib
import signal

from shimv2.shimctl.commands.common import setup_of
from shimv2.shimctl.harness import Harness


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-s", "--signal", type=_number, default=signal.SIGTERM, metavar="SIGNAL")
    parser.add_argument("--all", action="store_true", help="every process of the container")
    parser.add_argument("id", metavar="ID")


def main(options: argparse.Namespace) -> int:
    asyncio.run(_kill(options))
    return 0


async def _kill(options: argparse.Namespace) -> None:
    harness = Harness(setup_of(options))  # no events service: another client may be listening
    container = await harness.found(options.id)
    async with contextlib.AsyncExitStack() as undo:
        undo.push_async_callback(container.disconnect)
        await container.task.kill(options.id, options.signal, everything=options.all)


def _number(text: str) -> int:
    """Accept 9, KILL and SIGKILL."""
    if text.isdecimal():
        return int(text)
    name = text.upper()
    try:
        return signal.Signals[name if name.startswith("SIG") else f"SIG{name}"]
    except KeyError:
        msg = f"no such signal: {text}"
        raise argparse.ArgumentTypeError(msg) from None
