"""Asks a running shim which Task services it has.

A `start` that joins a shim has to answer with a version which that shim serves, and it may be
another program: the reference's 1.x serves only containerd.task.v2, its 2.x only v3.  One call is
made by hand; the client of `ttrpc` would bring asyncio along, which doubles the time of a `start`
that has nothing else to do.
"""

import socket
import struct
import time
from typing import Final

_HEADER: Final = struct.Struct(">IIBB")  # of a ttrpc frame: length, stream, kind, flags
_REQUEST: Final = 1
_RESPONSE: Final = 2
_UNIMPLEMENTED: Final = b"\x08\x0c"  # Status: field 1, code 12
_LIMIT_S: Final = 0.5
_LIMIT_BYTES: Final = 64 * 1024


def serves(path: str, version: int) -> bool:
    """Whether the shim at `path` has containerd.task.v<version>; True when it does not say."""
    service = f"containerd.task.v{version}.Task".encode()
    call = _field(1, service) + _field(2, b"Connect")  # of no container: changes nothing
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
    """Cut out field 1 of a Response, a message that begins with the code; empty = OK."""
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
