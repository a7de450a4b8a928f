"""The request of a `start`, from any generation of containerd."""

from dataclasses import dataclass

from shimv2.values.model import Identity, RuncOptions


@dataclass(frozen=True, slots=True)
class Request:
    """A parsed request of containerd's bootstrap protocol, of any generation."""

    identity: Identity  # the new server's
    options: RuncOptions
    socket_dir: str  # "" = the default
    new: bool  # containerd 2.3 and newer: parameters and reply are protobuf
