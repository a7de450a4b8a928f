"""What `ps` and /proc show of a shim: its command line, its name, its environment."""

import os
from collections.abc import Sequence
from typing import Final

from setproctitle import setproctitle

from shimv2.kernel import linux
from shimv2.values.model import Identity

_shown: Final[list[object]] = []  # what the kernel shows of us lies in our memory


def server_words(identity: Identity) -> list[str]:
    """The arguments of the reference's server."""
    words = ["-namespace", identity.namespace, "-id", identity.id]
    words += ["-address", identity.grpc_address]
    return [*words, "-debug"] if identity.debug else words


def set_title(words: Sequence[str]) -> None:
    """Show `words` as our command line, and our environment as it is: people look for both.

    A kernel that cannot do that shows the words as one, and the environment of the interpreter.
    """
    linux.set_name(os.path.basename(words[0]))  # what top shows: the program's name
    try:
        environment = [name + b"=" + value for name, value in os.environb.items()]
        _shown[:] = [linux.show(words, environment)]
    except OSError:
        os.environ["SPT_NOENV"] = "1"  # setproctitle would take the environment's room
        setproctitle(" ".join(words))
        del os.environ["SPT_NOENV"]
