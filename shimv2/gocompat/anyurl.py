"""google.protobuf.Any as containerd writes and reads it: type URLs are bare full names."""

from google.protobuf.any_pb2 import Any
from google.protobuf.message import Message


def pack(message: Message) -> Any:
    """Put `message` into an Any, with its bare full name as the type URL.

    `Any.Pack` would write a prefix, or at least a slash, and clients in Go compare the whole URL.
    """
    return Any(type_url=message.DESCRIPTOR.full_name, value=message.SerializeToString())


def type_name(url: str) -> str:
    """Return the full name of the type in a type URL, with or without a prefix."""
    return url.rpartition("/")[2]
