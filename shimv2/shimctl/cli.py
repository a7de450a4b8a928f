"""The command line of `shimctl`, which runs containers through a shim without containerd.

Every command is a module of `commands` with `add`, which declares its arguments, and `main`, which
runs it and returns the exit status.
"""

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from typing import Final

from shimv2.shimctl.bundle import NoSuchContainer
from shimv2.shimctl.commands import attach, delete, exec_, kill, list_, run
from shimv2.shimctl.container import ShimGone
from shimv2.shimctl.launch import ShimFailed
from shimv2.shimctl.reply import BadReply
from ttrpc import ConnectionClosed, StatusError

FAILED: Final = 125  # shimctl's own failure, as in docker
SHIM: Final = "containerd-shim-pyrunc-v2"
# Errors whose cause is outside of this program: no traceback.  TimeoutError is an OSError.
_EXPECTED: Final = (
    ShimFailed,
    BadReply,
    NoSuchContainer,
    ShimGone,
    StatusError,
    ConnectionClosed,
    OSError,
)
_COMMANDS: Final = {
    "run": run,
    "attach": attach,
    "exec": exec_,
    "kill": kill,
    "list": list_,
    "delete": delete,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return the container's exit status, 0, or 125 if shimctl itself failed."""
    options = _parser().parse_args(argv)
    try:
        return int(options.main(options))
    except _EXPECTED as error:
        print(f"shimctl: {str(error) or type(error).__name__}", file=sys.stderr)
        return FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="shimctl", description="Run containers through a containerd shim, without containerd."
    )
    parser.add_argument(
        "--state",
        default=os.environ.get("SHIMCTL_STATE") or _default_state(),
        metavar="DIR",
        help="where bundles are kept (%(default)s)",
    )
    parser.add_argument(
        "--namespace", default="shimctl", metavar="NAME", help="as in containerd (%(default)s)"
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, module in _COMMANDS.items():
        text = (module.__doc__ or "").partition("\n")[0].rstrip(".")
        command = commands.add_parser(name, help=text, description=text)
        module.add(command)
        command.set_defaults(main=module.main)
        if name == "run":
            command.add_argument("--shim", default=default_shim(), metavar="PATH")
    return parser


def _default_state() -> str:
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return "/run/shimctl" if os.geteuid() == 0 or not runtime else f"{runtime}/shimctl"


def default_shim() -> str:
    """Find this project's shim: beside this program, beside its interpreter, then on PATH."""
    for beside in (sys.argv[0], sys.executable):
        path = os.path.join(os.path.dirname(os.path.abspath(beside)), SHIM)
        if os.access(path, os.X_OK):
            return path
    return shutil.which(SHIM) or SHIM
