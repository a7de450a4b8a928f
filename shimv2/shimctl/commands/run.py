"""Run a container, show its output, and exit with its status."""

import argparse
import asyncio
import os
import secrets

from shimv2.shimctl import spec
from shimv2.shimctl.container import Container
from shimv2.shimctl.foreground import relayed, sink_name, start_and_follow
from shimv2.shimctl.harness import Harness, Setup
from shimv2.shimctl.reply import Generation


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--id", default="", help="default: random")
    parser.add_argument("--rootfs", default="", metavar="DIR", help="default: a busybox root")
    parser.add_argument("--env", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--cwd", default="/", metavar="DIR")
    parser.add_argument("--runtime", default="", metavar="NAME", help="runc, crun or a path")
    parser.add_argument("--daemon", default="1.6", choices=[g.value for g in Generation])
    parser.add_argument("--debug", action="store_true", help="show the shim's own log at the end")
    parser.add_argument("-i", "--stdin", action="store_true", help="forward standard input")
    parser.add_argument("--keep", action="store_true", help="leave the stopped container in place")
    parser.add_argument(
        "-d", "--detach", action="store_true", help="print the id and leave it running"
    )
    parser.add_argument("args", nargs="+", metavar="CMD", help="after `--`")


def main(options: argparse.Namespace) -> int:
    return asyncio.run(_run(options))


async def _run(options: argparse.Namespace) -> int:
    container_id = options.id or f"c{secrets.token_hex(4)}"
    setup = Setup(
        shim=os.path.abspath(options.shim) if "/" in options.shim else options.shim,
        state=os.path.abspath(options.state),
        namespace=options.namespace,
        runtime=options.runtime,
        rootfs=os.path.abspath(options.rootfs) if options.rootfs else "",
        generation=Generation(options.daemon),
        sink=sink_name(options.namespace, container_id),
        debug=options.debug,
    )
    wanted = spec.Wanted(options.args, env=options.env, cwd=options.cwd)
    async with Harness(setup) as harness:
        container = await harness.create(container_id, wanted, stdin=options.stdin, output=relayed)
        if options.detach:
            return await _detach(container)
        status = await start_and_follow(container, stdin=options.stdin, keep=options.keep)
        if options.debug:
            os.write(2, bytes(container.log))
        return status


async def _detach(container: Container) -> int:
    """Start the container and disconnect.  Its output stays in the FIFOs (64 KiB) for `attach`."""
    for output in (container.stdout, container.stderr):
        if output is not None:
            output.close()  # before Start: bytes read here would be lost
    try:
        await container.task.start(container.id)
    except BaseException:
        await container.remove()
        raise
    print(container.id)
    return 0
