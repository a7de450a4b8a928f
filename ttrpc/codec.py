"""Encodes and decodes the messages inside frames: requests and responses.  Pure."""

from collections.abc import Iterable
from typing import Final

from google.protobuf.any_pb2 import Any

from ttrpc._wire_pb2 import KeyValue, Request, Response, Status
from ttrpc.errors import Detail, RemoteProtocolError, StatusError
from ttrpc.message import UNREADABLE, reason

__all__ = ["Request", "decode_request", "decode_response", "encode_error", "encode_request"]

# The limit of one error text.  A longer one (a runtime's whole output) may not fit into a frame.
MAX_TEXT_BYTES: Final = 1024 * 1024

MAX_TIMEOUT_NS: Final = 2**63 - 1
MIN_TIMEOUT_NS: Final = -(2**63)


def encode_request(
    service: str,
    method: str,
    payload: bytes,
    *,
    timeout_ns: int = 0,
    metadata: Iterable[tuple[str, str]] = (),
) -> bytes:
    request = Request(service=service, method=method, payload=payload)
    if timeout_ns:
        request.timeout_nano = max(MIN_TIMEOUT_NS, min(timeout_ns, MAX_TIMEOUT_NS))
    for key, value in metadata:
        request.metadata.append(KeyValue(key=key, value=value))
    return request.SerializeToString()


def decode_request(data: bytes) -> Request:
    """Parse a request.

    Raises:
        RemoteProtocolError: the bytes are not a request; the Go implementation's text.
    """
    try:
        return Request.FromString(data)
    except UNREADABLE as exc:
        raise RemoteProtocolError(f"unmarshal request error: {reason(exc)}") from None


def encode_response(payload: bytes) -> bytes:
    """Build the response of a successful call.  It has no status; an empty payload gives b""."""
    return Response(payload=payload).SerializeToString() if payload else b""


def encode_error(error: StatusError) -> bytes:
    """Build the response of a failed call.  Never fails: the text is made valid and cut."""
    status = Status(code=error.code, message=sendable(error.message))
    for detail in error.details:
        status.details.append(Any(type_url=detail.type_url, value=detail.value))
    return Response(status=status).SerializeToString()


def sendable(text: str) -> str:
    """Return `text` in a form that a protobuf string can hold.

    The os module turns bytes that are not UTF-8 into lone surrogates (PEP 383), which protobuf
    refuses.  They become backslash escapes.
    """
    data = text[: MAX_TEXT_BYTES + 1].encode("utf-8", "backslashreplace")
    if len(data) > MAX_TEXT_BYTES:
        return data[:MAX_TEXT_BYTES].decode("utf-8", "ignore") + " [cut]"
    return data.decode("utf-8")


def decode_response(data: bytes) -> tuple[bytes, StatusError | None]:
    """Return the payload and error of a response; a status with code 0 is no error.

    Raises:
        RemoteProtocolError: the bytes are not a response.
    """
    try:
        response = Response.FromString(data)
    except UNREADABLE as exc:
        raise RemoteProtocolError(f"unmarshal response error: {reason(exc)}") from None
    if response.HasField("status") and response.status.code:
        status = response.status
        details = [Detail(one.type_url, one.value) for one in status.details]
        return response.payload, StatusError(status.code, status.message, details)
    return response.payload, None
