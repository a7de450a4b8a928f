"""Drive both connections of ttrpc in memory."""

from ttrpc import wire
from ttrpc.connection import ClientConnection, ServerConnection
from ttrpc.events import ClientEvent, ErrorReply, ServerEvent


def data_frame(stream_id: int, data: bytes = b"", *, flags: int = 0) -> bytes:
    return wire.encode_frame(stream_id, wire.DATA, flags, data)


def server_events(server: ServerConnection, data: bytes) -> list[ServerEvent]:
    server.feed(data)
    return list(iter(server.next_event, None))


def client_events(client: ClientConnection, data: bytes) -> list[ClientEvent]:
    client.feed(data)
    return list(iter(client.next_event, None))


def only_refusal(events: list[ServerEvent]) -> tuple[int, int, str]:
    """Return stream, code and text of the one event, which concerns no open stream."""
    [event] = events
    assert isinstance(event, ErrorReply)
    assert not event.on_stream
    return event.stream_id, event.error.code, event.error.message
