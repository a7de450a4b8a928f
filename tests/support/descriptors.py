"""The descriptors of messages in the reference's binaries.

Every Go program that speaks protobuf carries its file descriptors, gzipped up to containerd 1.6.
They come from the original .proto files, so a comparison finds errors in ours.
"""

import zlib
from collections.abc import Iterator
from pathlib import Path

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FileDescriptorProto,
    ServiceDescriptorProto,
)
from google.protobuf.message import DecodeError

GZIP_MAGIC = b"\x1f\x8b\x08"
GZIP_WINDOW = 31  # for zlib: a gzip header, and the largest window
LIMIT_BYTES = 1 << 20  # of one descriptor, unpacked; the largest (of Kubernetes) has 150 KiB


def embedded_files(program: Path) -> list[FileDescriptorProto]:
    """Yield all gzipped file descriptors in `program`, in order; other data is ignored."""
    data = program.read_bytes()
    return [file for start in _finds(data) if (file := _file_at(data, start)) is not None]


def messages(file: FileDescriptorProto) -> dict[str, DescriptorProto]:
    """The messages of a file by full name, nested ones and map entries included."""
    return {
        name: message for top in file.message_type for name, message in _nested(file.package, top)
    }


def enums(file: FileDescriptorProto) -> dict[str, EnumDescriptorProto]:
    """The enums at the top of a file by full name."""
    return {f"{file.package}.{enum.name}": enum for enum in file.enum_type}


def services(file: FileDescriptorProto) -> dict[str, ServiceDescriptorProto]:
    """The services of a file by full name."""
    return {f"{file.package}.{service.name}": service for service in file.service}


def _finds(data: bytes) -> Iterator[int]:
    start = data.find(GZIP_MAGIC)
    while start >= 0:
        yield start
        start = data.find(GZIP_MAGIC, start + 1)


def _file_at(data: bytes, start: int) -> FileDescriptorProto | None:
    unpacker = zlib.decompressobj(GZIP_WINDOW)
    try:
        content = unpacker.decompress(memoryview(data)[start : start + LIMIT_BYTES], LIMIT_BYTES)
        file = FileDescriptorProto.FromString(content) if unpacker.eof else None
    except (zlib.error, DecodeError):
        return None
    return file if file is not None and file.name.endswith(".proto") else None


def _nested(scope: str, message: DescriptorProto) -> Iterator[tuple[str, DescriptorProto]]:
    name = f"{scope}.{message.name}"
    yield name, message
    for inner in message.nested_type:
        yield from _nested(name, inner)
