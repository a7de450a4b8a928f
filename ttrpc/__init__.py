"""ttrpc for Python: containerd's RPC protocol, as a sans-IO core, a server and two clients.

docs/protocol.md describes the protocol and has examples.
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
