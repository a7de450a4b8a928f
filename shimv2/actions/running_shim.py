"""Finds out which version of the Task API a running shim serves.

A `start` that joins a running shim must reply with a version of the Task API that this shim serves.
It may be another program: Go shims of 1.x serve only containerd.task.v2, those of 2.x only v3.  The
one call is encoded by hand: the client of `ttrpc` imports asyncio, which would double the time of
such a `start`.
"""

import socket
import struct
import time
from typing import Final

_HEADER: Final = struct.Struct(">IIBB")  # a ttrpc frame's header: length, stream, kind, flags
_REQUEST: Final = 1
_RESPONSE: Final = 2
_UNIMPLEMENTED: Final = b"\x08\x0c"  # Status: field 1, code 12
_LIMIT_S: Final = 0.5
_LIMIT_BYTES: Final = 64 * 1024


def has_task_service(path: str, version: int) -> bool:
    """Whether the shim at `path` serves containerd.task.v<version>; True if it does not answer."""
    service = f"containerd.task.v{version}.Task".encode()
    call = _field(1, service) + _field(2, b"Connect")  # without a container id: changes nothing
    frame = _HEADER.pack(len(call), 1, _REQUEST, 0) + call
    end = time.monotonic() + _LIMIT_S
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(_LIMIT_S)
            sock.connect(path)
            sock.sendall(frame)
            length, _, kind, _ = _HEADER.unpack(_read(sock, _HEADER.size, end))
            if kind != _RESPONSE or length > _LIMIT_BYTES:
                return True
            response = _read(sock, length, end)
    except OSError:
        return True
    return not _status(response).startswith(_UNIMPLEMENTED)


def _status(response: bytes) -> bytes:
    """Return field 1 of a Response, the Status, which begins with the code; empty = OK."""
    if response[:1] != b"\x0a":
        return b""
    start = 1
    while start < len(response) and response[start] & 0x80:  # a length of several bytes
        start += 1
    return response[start + 1 :]


def _field(number: int, value: bytes) -> bytes:
    return bytes([number << 3 | 2, len(value)]) + value  # shorter than 128 bytes


def _read(sock: socket.socket, count: int, end: float) -> bytes:
    data = b""
    while len(data) < count:
        sock.settimeout(max(end - time.monotonic(), 0.001))
        chunk = sock.recv(count - len(data))
        if not chunk:
            raise ConnectionResetError
        data += chunk
    return data
