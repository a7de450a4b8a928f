"""The generated modules match their .proto files, can be imported anywhere, and have the expected
names."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from protos import generate, task_v2_pb2, task_v3_pb2
from ttrpc import _wire_pb2

EDITED = "protos/runc.proto"
MODULE = "protos/runc_pb2.py"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the .proto files and modules that a test may change; it shares the compiler, which
    is big."""
    for folder in generate.FOLDERS:
        (tmp_path / folder).mkdir()
    names = [*generate.sources(), *generate.outputs(), generate.LOCK, "pyproject.toml"]
    for name in names:
        shutil.copy(generate.ROOT / name, tmp_path / name)
    cache = generate.ROOT / ".cache"
    cache.mkdir(exist_ok=True)
    (tmp_path / ".cache").symlink_to(cache)
    return tmp_path


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)


def compiled_differently(root: Path) -> list[str]:
    try:
        return generate.changed_since_generation(root)
    except generate.GeneratorUnavailableError as exc:
        pytest.skip(str(exc))


def test_modules_fit_the_lock() -> None:
    """`make protos` was run after the last change of a .proto file, and no module was edited."""
    assert generate.changed_since_lock() == []


def test_modules_are_what_the_compiler_writes() -> None:
    """The pinned compiler generates exactly these modules."""
    assert compiled_differently(generate.ROOT) == []


def test_changed_text_makes_its_module_stale(copy: Path) -> None:
    """The lock and the compiler find a .proto file that was edited alone."""
    append(copy / EDITED, "message Another {}\n")

    assert generate.changed_since_lock(copy) == [EDITED]
    assert compiled_differently(copy) == [MODULE, MODULE + "i"]


def test_edited_module_is_stale_even_with_a_new_lock(copy: Path) -> None:
    """The compiler finds an edited module even if the lock was renewed by hand."""
    append(copy / MODULE, "# edited\n")
    by_lock = generate.changed_since_lock(copy)
    (copy / generate.LOCK).write_text(generate.lock_text(copy))

    assert by_lock == [MODULE]
    assert generate.changed_since_lock(copy) == []
    assert compiled_differently(copy) == [MODULE]


def test_new_text_and_left_over_module_are_stale(copy: Path) -> None:
    """A .proto file without a module and a module without a .proto file are both found."""
    (copy / EDITED).rename(copy / "protos/other.proto")

    assert generate.changed_since_lock(copy) == ["protos/other.proto", EDITED]
    assert compiled_differently(copy) == [
        "protos/other_pb2.py",
        "protos/other_pb2.pyi",
        MODULE,
        MODULE + "i",
    ]


def test_another_compiler_makes_everything_stale(copy: Path) -> None:
    """Another pinned compiler changes every module."""
    project = copy / "pyproject.toml"
    project.write_text(re.sub("grpcio-tools==[0-9.]+", "grpcio-tools==1.70.0", project.read_text()))

    stale = generate.changed_since_lock(copy)

    assert any("grpcio-tools==1.70.0" in line for line in stale)


def test_writing_drops_left_overs_and_renews_the_lock(copy: Path) -> None:
    """After a generation the tree is clean in any case."""
    (copy / "protos/gone_pb2.py").write_text("")
    made = {name: (copy / name).read_bytes() for name in generate.outputs()}
    made[MODULE] += b"# new\n"

    generate.write(made, copy)

    assert generate.changed_since_lock(copy) == []
    assert generate.outputs(copy) == sorted(made)


def test_missing_lock_is_stale(copy: Path) -> None:
    """Without the lock the modules cannot be checked."""
    (copy / generate.LOCK).unlink()

    assert generate.changed_since_lock(copy) == [generate.LOCK]


def test_lower_bound_of_protobuf_is_the_modules_version() -> None:
    """A module needs a protobuf that is not older than its own, so the package has to require
    that."""
    text = (generate.ROOT / MODULE).read_text()
    version = re.search(r"# Protobuf Python Version: (\d+\.\d+)\.", text)
    project = tomllib.loads((generate.ROOT / "pyproject.toml").read_text())["project"]
    bounds = [line for line in project["dependencies"] if line.startswith("protobuf")]

    assert version is not None
    assert bounds[0].startswith(f"protobuf>={version[1]};")


def test_modules_import_without_a_warning_beside_googleapis() -> None:
    """googleapis-common-protos, which owns google.rpc, can live in the same process.

    In a new interpreter, in which the name is not registered yet.
    """
    modules = [
        name.removesuffix(".proto").replace("/", ".") + "_pb2" for name in generate.sources()
    ]
    program = "\n".join(
        [
            "from google.protobuf import descriptor_pb2, descriptor_pool",
            "file = descriptor_pb2.FileDescriptorProto(",
            "    name='google/rpc/status.proto', package='google.rpc', syntax='proto3')",
            "file.message_type.add(name='Status')",
            "descriptor_pool.Default().AddSerializedFile(file.SerializeToString())",
            *(f"import {module}" for module in modules),
        ]
    )
    strict = ["-X", "dev", "-bb", "-W", "error"]
    done = subprocess.run(
        [sys.executable, *strict, "-c", program],
        cwd=generate.ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")


def test_envelopes_stay_in_a_package_of_our_own() -> None:
    """No message of the envelopes is registered under a foreign name."""
    assert _wire_pb2.DESCRIPTOR.package == "pyrunc.ttrpc.wire"
    assert {
        message.full_name for message in _wire_pb2.DESCRIPTOR.message_types_by_name.values()
    } == {
        "pyrunc.ttrpc.wire.Request",
        "pyrunc.ttrpc.wire.Response",
        "pyrunc.ttrpc.wire.KeyValue",
        "pyrunc.ttrpc.wire.Status",
    }


def test_both_versions_of_the_task_service_are_identical() -> None:
    """V2 and v3 differ in the package's name alone."""
    v2, v3 = FileDescriptorProto(), FileDescriptorProto()
    task_v2_pb2.DESCRIPTOR.CopyToProto(v2)
    task_v3_pb2.DESCRIPTOR.CopyToProto(v3)

    renamed = str(v2).replace("containerd.task.v2", "containerd.task.v3")

    assert renamed.replace("protos/task_v2.proto", "protos/task_v3.proto") == str(v3)
