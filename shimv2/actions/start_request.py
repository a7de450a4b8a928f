"""The request that a `start` of any generation of daemons makes."""

from dataclasses import dataclass

from shimv2.values.model import Identity, RuncOptions


@dataclass(frozen=True, slots=True)
class Request:
    """What the daemon wants, whichever generation of the bootstrap protocol it speaks."""

    identity: Identity  # of the server to be
    options: RuncOptions
    socket_dir: str  # "" = the usual one
    new: bool  # containerd 2.3 and newer: parameters and reply are protobuf
