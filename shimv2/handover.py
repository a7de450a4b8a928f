"""What goes from hand to hand between a daemon's `start` and the server it leaves behind."""

import socket
from dataclasses import dataclass

from shimv2.model import Identity, RuncOptions
from shimv2.settings import Settings
from shimv2.sockets import BoundSocket


@dataclass(frozen=True, slots=True)
class Request:
    """What the daemon wants, whichever generation of the bootstrap protocol it speaks."""

    identity: Identity  # of the server to be
    options: RuncOptions
    socket_dir: str  # "" = the usual one
    new: bool  # containerd 2.3 and newer: parameters and reply are protobuf


@dataclass(frozen=True, slots=True)
class DaemonConfig:
    """What `start` hands to the server it leaves behind.

    `listener` listens already and belongs to the server; `bound` is its name in the file system,
    None when somebody else bound it.
    """

    identity: Identity
    listener: socket.socket
    bound: BoundSocket | None
    settings: Settings
