"""Our protocol texts against the descriptors inside Debian 12's containerd 1.6.20.

The tables below list our messages and fields that differ or do not exist there, with reasons.  A
row that is not needed any more fails too.
"""

import gzip
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pytest
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    ServiceDescriptorProto,
)

from protos import generate, types_pb2
from tests.support import descriptors

PROGRAMS: Final = ("containerd", "containerd-shim-runc-v2", "ctr")
FOLDER: Final = Path("/usr/bin")

# Ours -> theirs, by prefix of the full name: moved or renamed, the same bytes.
ALIASES: Final = {
    "containerd.task.v3.": "containerd.task.v2.",  # 1.6 has v2 only; the two are identical
    "containerd.types.Envelope": "containerd.services.events.ttrpc.v1.Envelope",  # moved in 1.7
    "pyrunc.ttrpc.wire.Status": "google.rpc.Status",  # private: two of one name cannot be loaded
}

# Messages (by prefix of the full name), enums and services that 1.6 does not have.
NEWER: Final = {
    "containerd.runtime.bootstrap.v1.": "since 2.3",
    "containerd.runtime.sandbox.v1.": "after 1.6",
    "containerd.events.Sandbox": "after 1.6",
    "containerd.types.ActiveMount": "after 1.6",
    "containerd.types.ActivationInfo": "after 1.6",
    "containerd.types.Runtime": "the information of `-info`, after 1.6",
    "containerd.types.Sandbox": "after 1.6",
    "io.containerd.cgroups.v2.PSI": "after 1.6",
    "io.containerd.cgroups.v2.NetworkStat": "after 1.6",
    "pyrunc.ttrpc.wire.Request": "1.6 has Go structs and no descriptor; see the golden bytes",
    "pyrunc.ttrpc.wire.Response": "the same",
    "pyrunc.ttrpc.wire.KeyValue": "the same",
}

# Fields that only one side has.
FIELDS: Final = {
    ("containerd.runc.v1.Options", 12): "after 1.6, deprecated",
    ("containerd.runc.v1.Options", 13): "after 1.6, deprecated",
    ("containerd.runc.v1.CheckpointOptions", 10): "since 2.4",
    ("containerd.types.Platform", 4): "after 1.6",
    ("containerd.types.Platform", 5): "after 1.6",
    ("runtimeoptions.v1.Options", 3): "after 1.6",
    ("io.containerd.cgroups.v2.Metrics", 9): "after 1.6",
    ("io.containerd.cgroups.v2.CPUStat", 7): "pressure, after 1.6",
    ("io.containerd.cgroups.v2.CPUStat", 8): "bursts, after 1.6",
    ("io.containerd.cgroups.v2.CPUStat", 9): "bursts, after 1.6",
    ("io.containerd.cgroups.v2.MemoryStat", 36): "peaks, after 1.6",
    ("io.containerd.cgroups.v2.MemoryStat", 37): "peaks, after 1.6",
    ("io.containerd.cgroups.v2.MemoryStat", 38): "pressure, after 1.6",
    ("io.containerd.cgroups.v2.MemoryStat", 39): "split working set, in no release checked",
    ("io.containerd.cgroups.v2.MemoryStat", 40): "split working set, in no release checked",
    ("io.containerd.cgroups.v2.MemoryStat", 41): "split working set, in no release checked",
    ("io.containerd.cgroups.v2.MemoryStat", 42): "split working set, in no release checked",
    ("io.containerd.cgroups.v2.MemoryEvents", 6): "after 1.6",
    ("io.containerd.cgroups.v2.IOStat", 2): "pressure, after 1.6",
    ("io.containerd.cgroups.v2.HugeTlbStat", 4): "after 1.6",
}

type_names = FieldDescriptorProto.Type.Name
label_names = FieldDescriptorProto.Label.Name


@pytest.fixture(scope="module")
def theirs() -> list[FileDescriptorProto]:
    found = [FOLDER / name for name in PROGRAMS if (FOLDER / name).exists()]
    if not found:
        pytest.skip("no containerd is installed here")
    return [file for program in found for file in descriptors.embedded_files(program)]


@pytest.fixture(scope="module")
def ours() -> list[FileDescriptorProto]:
    files = []
    for name in generate.sources():
        module = importlib.import_module(name.removesuffix(".proto").replace("/", ".") + "_pb2")
        file = FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(file)
        files.append(file)
    return files


def counterpart(name: str) -> str:
    """Return the full name in containerd of our `name`."""
    for prefix, other in ALIASES.items():
        if name.startswith(prefix):
            return other + name.removeprefix(prefix)
    return name


def newer(name: str) -> str | None:
    """Return the row of NEWER that covers `name`."""
    return next((prefix for prefix in NEWER if name.startswith(prefix)), None)


def fields(message: DescriptorProto, *, rename: bool) -> dict[int, str]:
    """Return each field as one line, by number."""
    lines = {}
    for field in message.field:
        of = field.type_name.removeprefix(".")
        of = counterpart(of) if rename else of
        lines[field.number] = (
            f"{label_names(field.label)} {type_names(field.type)} {of} {field.name}"
        )
    return lines


def methods(service: ServiceDescriptorProto, *, rename: bool) -> dict[str, tuple[str, str]]:
    """Return request and response of each method; no method streams."""
    assert not any(method.client_streaming or method.server_streaming for method in service.method)
    lines = {}
    for method in service.method:
        ends = (method.input_type.removeprefix("."), method.output_type.removeprefix("."))
        lines[method.name] = (
            (counterpart(ends[0]), counterpart(ends[1])) if rename else (ends[0], ends[1])
        )
    return lines


def all_messages(files: list[FileDescriptorProto]) -> Mapping[str, DescriptorProto]:
    return {name: item for file in files for name, item in descriptors.messages(file).items()}


def all_enums(files: list[FileDescriptorProto]) -> Mapping[str, EnumDescriptorProto]:
    return {name: item for file in files for name, item in descriptors.enums(file).items()}


def all_services(files: list[FileDescriptorProto]) -> Mapping[str, ServiceDescriptorProto]:
    return {name: item for file in files for name, item in descriptors.services(file).items()}


def test_every_field_is_the_references(
    ours: list[FileDescriptorProto], theirs: list[FileDescriptorProto]
) -> None:
    """Numbers, names, types and labels are those of the reference, except in known rows."""
    reference = all_messages(theirs)
    different = {}
    for name, message in all_messages(ours).items():
        if counterpart(name) not in reference:
            continue
        mine = fields(message, rename=True)
        other = fields(reference[counterpart(name)], rename=False)
        for number in mine.keys() | other.keys():
            if mine.get(number) != other.get(number) and (name, number) not in FIELDS:
                different[name, number] = (mine.get(number), other.get(number))

    assert different == {}


def test_every_message_is_compared_or_newer_than_the_reference(
    ours: list[FileDescriptorProto], theirs: list[FileDescriptorProto]
) -> None:
    """All our messages are compared, or have a reason."""
    reference = {**all_messages(theirs), **all_enums(theirs), **all_services(theirs)}
    names = [*all_messages(ours), *all_enums(ours), *all_services(ours)]

    alone = [name for name in names if counterpart(name) not in reference]

    assert [name for name in alone if newer(name) is None] == []
    assert set(NEWER) == {newer(name) for name in alone}


def test_every_exempt_field_really_differs(
    ours: list[FileDescriptorProto], theirs: list[FileDescriptorProto]
) -> None:
    """A row that is not needed would hide a later error."""
    mine, reference = all_messages(ours), all_messages(theirs)

    idle = [
        (name, number)
        for name, number in FIELDS
        if (number in fields(mine[name], rename=True))
        == (number in fields(reference[counterpart(name)], rename=False))
    ]

    assert idle == []


def test_every_enum_value_is_the_references(
    ours: list[FileDescriptorProto], theirs: list[FileDescriptorProto]
) -> None:
    """The states of a task have the reference's numbers."""
    reference = all_enums(theirs)

    compared = {
        name: {value.name: value.number for value in enum.value}
        == {value.name: value.number for value in reference[name].value}
        for name, enum in all_enums(ours).items()
        if name in reference
    }

    assert compared == {"containerd.v1.types.Status": True}


def test_every_method_is_the_references(
    ours: list[FileDescriptorProto], theirs: list[FileDescriptorProto]
) -> None:
    """Methods have the messages of the reference."""
    reference = all_services(theirs)

    compared = {
        name: methods(service, rename=True) == methods(reference[counterpart(name)], rename=False)
        for name, service in all_services(ours).items()
        if counterpart(name) in reference
    }

    assert compared == {
        "containerd.task.v2.Task": True,
        "containerd.task.v3.Task": True,
        "containerd.services.events.ttrpc.v1.Events": True,
    }


def test_descriptors_are_found_between_other_data(tmp_path: Path) -> None:
    """The reader finds only whole descriptors, anywhere in a program."""
    file = FileDescriptorProto()
    types_pb2.DESCRIPTOR.CopyToProto(file)
    packed = gzip.compress(file.SerializeToString())
    other = gzip.compress(b"text.proto")
    program = tmp_path / "program"
    program.write_bytes(b"\x1f\x8b\x08\0junk" + other + packed + packed[:40] + b"\x1f\x8b\x08")

    found = descriptors.embedded_files(program)

    assert found == [file]
    assert "containerd.types.Sandbox.Runtime" in descriptors.messages(found[0])
