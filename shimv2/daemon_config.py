"""The arguments of the server.

A separate module, because a cold `start` needs it before its reply, but imports the server's own
modules only afterwards.
"""

import contextlib
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn, Protocol

from shimv2.values.model import Identity
from shimv2.values.settings import Settings

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop


class IdleHook(Protocol):
    """A hook that runs before the event loop sleeps."""

    def before_sleep(self, turns: int) -> None:
        """The loop is about to sleep.  It ran `turns` iterations since the last call."""
        ...


class SocketName(Protocol):
    """The name of the listening socket in the file system."""

    def unlink(self) -> None:
        """Remove the name, unless it is gone or now belongs to another shim.

        Raises:
            OSError: the name cannot be removed.
        """
        ...


@dataclass(frozen=True, slots=True)
class DaemonConfig:
    """The arguments that `start` passes to the server it leaves behind.

    `listener` listens already and belongs to the server.  `bound` is its name in the file system,
    None when another process bound it.  `idle_hook` is called once, with the server's event loop.
    `exit` ends the process with a status; without it the server also closes its loop, and returns.
    """

    identity: Identity
    listener: socket.socket
    bound: SocketName | None
    settings: Settings
    idle_hook: "Callable[[AbstractEventLoop], IdleHook] | None" = None
    exit: Callable[[int], NoReturn] | None = None

    def unlink_socket(self) -> None:
        """Remove the socket's name if this shim bound it; an error is ignored."""
        if self.bound is not None:
            with contextlib.suppress(OSError):
                self.bound.unlink()
