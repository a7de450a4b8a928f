"""What `ps` and /proc show of a shim: its command line, its name, its environment.

Uses prctl(2) PR_SET_MM_MAP and not setproctitle.  A shim that was forked from a zygote has the
zygote's memory area for arguments, which is short.  setproctitle cannot extend it, and cannot show
an environment.  It serves kernels without CONFIG_CHECKPOINT_RESTORE, and is imported there only.
"""

import os
from collections.abc import Sequence
from typing import Final

from shimv2.kernel import linux
from shimv2.values.model import Identity

_shown: Final[list[object]] = []  # keeps the memory that the kernel reads the words from


def server_args(identity: Identity) -> list[str]:
    """Return the arguments of the Go shim's server, which tools look for."""
    words = ["-namespace", identity.namespace, "-id", identity.id]
    words += ["-address", identity.grpc_address]
    return [*words, "-debug"] if identity.debug else words


def set_title(words: Sequence[str]) -> None:
    """Show `words` as the command line, and the current environment as the environment.

    A kernel without PR_SET_MM_MAP shows all words as one, and the environment that the interpreter
    was started with.
    """
    linux.set_name(os.path.basename(words[0]))  # `comm`, which top(1) shows: the program's name
    try:
        environment = [name + b"=" + value for name, value in os.environb.items()]
        _shown[:] = [linux.show(words, environment)]
    except OSError:
        from setproctitle import setproctitle  # noqa: PLC0415 - most kernels do not need it

        os.environ["SPT_NOENV"] = "1"  # or setproctitle writes over the environment
        setproctitle(" ".join(words))
        del os.environ["SPT_NOENV"]
