"""Run a command in a running container, and exit with its status."""

import argparse
import asyncio
import contextlib
import secrets

from shimv2.shimctl import spec
from shimv2.shimctl.commands.common import setup_of
from shimv2.shimctl.container import Container
from shimv2.shimctl.foreground import relayed, start_and_wait
from shimv2.shimctl.harness import Harness
from shimv2.values.model import Stdio


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("id", metavar="ID")
    parser.add_argument("--env", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--cwd", default="/", metavar="DIR")
    parser.add_argument("-i", "--stdin", action="store_true", help="forward standard input")
    parser.add_argument("args", nargs="+", metavar="CMD", help="after `--`")


def main(options: argparse.Namespace) -> int:
    return asyncio.run(_exec(options))


async def _exec(options: argparse.Namespace) -> int:
    harness = Harness(setup_of(options))  # no events service: another client may be listening
    async with contextlib.AsyncExitStack() as undo:
        container = await harness.found(options.id)
        undo.push_async_callback(container.disconnect)
        exec_id = f"exec-{secrets.token_hex(4)}"
        undo.callback(container.bundle.remove_fifos, exec_id=exec_id)
        return await _run(container, exec_id, options)


async def _run(container: Container, exec_id: str, options: argparse.Namespace) -> int:
    bundle, task = container.bundle, container.task
    bundle.make_fifos(exec_id=exec_id)
    stdio = Stdio(
        stdin=bundle.fifo("stdin", exec_id=exec_id) if options.stdin else "",
        stdout=bundle.fifo("stdout", exec_id=exec_id),
        stderr=bundle.fifo("stderr", exec_id=exec_id),
    )
    process = spec.process(spec.Wanted(options.args, env=options.env, cwd=options.cwd))
    await task.exec(container.id, exec_id, process, stdio=stdio)
    try:
        container.read(relayed, exec_id=exec_id)
        status = await start_and_wait(container, exec_id=exec_id, stdin=options.stdin)
        await container.outputs_ended()
    finally:
        await task.delete(container.id, exec_id)
    return status
