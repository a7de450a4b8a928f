"""List the containers of a namespace: id, pid, state, exit status, the shim's pid and memory."""

import argparse
import asyncio
import os
from pathlib import Path

from shimv2.shimctl.bundle import NoSuchContainer
from shimv2.shimctl.commands.common import setup_of
from shimv2.shimctl.container import Container, ShimGone
from shimv2.shimctl.harness import Harness
from shimv2.values.sharing import sharing
from ttrpc import ConnectionClosed, StatusError

_LIMIT_S = 2.0  # containerd's io.containerd.timeout.task.state


def add(_parser: argparse.ArgumentParser) -> None:
    """Add nothing: the global options select what is listed."""


def main(options: argparse.Namespace) -> int:
    folder = os.path.join(options.state, options.namespace)
    names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    print(f"{'ID':24} {'PID':>8} {'STATE':10} {'EXIT':>4} {'SHIM':>8} {'PSS':>9}  MEMORY")
    for name in names:
        if not name.startswith("."):
            options.id = name
            print(asyncio.run(_line(options)))
    return 0


async def _line(options: argparse.Namespace) -> str:
    name = options.id
    try:
        container = await Harness(setup_of(options)).found(name)
    except (NoSuchContainer, ShimGone):
        return f"{name:24} {'-':>8} {'NO SHIM':10} {'-':>4} {'-':>8} {'-':>9}"
    try:
        return await _described(container)
    except (StatusError, ConnectionClosed, TimeoutError) as error:
        return f"{name:24} {error}"
    finally:
        await container.disconnect()


async def _described(container: Container) -> str:
    shim = (await container.task.connected(container.id, timeout_s=_LIMIT_S)).shim_pid
    state = await container.task.state(container.id, timeout_s=_LIMIT_S)
    status = "-" if state.exit is None else str(state.exit.status)
    row = f"{container.id:24} {state.pid:>8} {state.status:10} {status:>4}"
    return f"{row} {shim:>8} {_pss(shim):>9}  {_sharing(shim)}"


def _sharing(pid: int) -> str:
    """Say whether a shim shares its zygote's memory, and why not; `-` if unknown."""
    try:
        maps = Path(f"/proc/{pid}/maps").read_text(encoding="utf-8", errors="replace")
    except OSError:  # it has ended meanwhile, or belongs to another user
        return "-"
    return sharing(maps)


def _pss(pid: int) -> str:
    """Say how much memory a process has, its share of shared pages included; `-` if unknown.

    psutil is the extra `shimctl` of the distribution, which an installation may lack.
    """
    try:
        import psutil  # noqa: PLC0415 - may be missing
    except ModuleNotFoundError:
        return "-"
    try:
        return f"{psutil.Process(pid).memory_full_info().pss / 2**20:.1f} MiB"
    except psutil.Error:  # it has ended meanwhile, or belongs to another user
        return "-"
