"""ttrpc for Python: the lean RPC protocol of containerd, as a sans-IO core, servers and clients.

See docs/protocol.md for the protocol and for examples.
"""

from ttrpc.blocking import BlockingClient
from ttrpc.call import Call, Metadata, PeerCredentials
from ttrpc.client import Client
from ttrpc.codes import Code
from ttrpc.errors import (
    ConnectionClosed,
    Detail,
    LocalProtocolError,
    RemoteProtocolError,
    StatusError,
    StreamClosed,
    TtrpcError,
)
from ttrpc.message import Message
from ttrpc.registry import Registry
from ttrpc.server import Server, same_user
from ttrpc.streams import ClientStream, ServerStream

__all__ = [
    "BlockingClient",
    "Call",
    "Client",
    "ClientStream",
    "Code",
    "ConnectionClosed",
    "Detail",
    "LocalProtocolError",
    "Message",
    "Metadata",
    "PeerCredentials",
    "Registry",
    "RemoteProtocolError",
    "Server",
    "ServerStream",
    "StatusError",
    "StreamClosed",
    "TtrpcError",
    "same_user",
]
