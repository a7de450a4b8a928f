"""`-info`: the features of the shim and its runtime."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf.any_pb2 import Any as Packed

from protos.runc_pb2 import CheckpointOptions, Options
from protos.runtimeoptions_pb2 import Options as GenericOptions
from protos.types_pb2 import RuntimeInfo
from shimv2 import VERSION
from tests.support.boot import RUNTIME, Boot, Done

FEATURES = {"ociVersionMin": "1.0.0", "linux": {"mountExtensions": {"idmap": {"enabled": True}}}}
RUNC_OPTIONS = "containerd.runc.v1.Options"


@pytest.fixture
def boot() -> Iterator[Boot]:
    with Boot() as made:
        (made.folder / "bin").mkdir()
        program(made, "runc", f"test \"$1\" = features && echo '{json.dumps(FEATURES)}'")
        yield made


def program(boot: Boot, name: str, body: str) -> str:
    path = boot.folder / "bin" / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


def ask(boot: Boot, stdin: bytes = b"") -> Done:
    env = {"PATH": f"{boot.folder}/bin:/usr/bin:/bin"}
    return boot.run([str(boot.shim), "-info"], stdin=stdin, env=env)


def info_of(done: Done) -> RuntimeInfo:
    assert (done.returncode, done.stderr) == (0, b"")
    return RuntimeInfo.FromString(done.stdout)


def packed(*, url: str = RUNC_OPTIONS, **options: Any) -> bytes:
    return Packed(type_url=url, value=Options(**options).SerializeToString()).SerializeToString()


@pytest.mark.rule("cli.info.1")
def test_info_names_the_shim_and_what_its_runtime_can_do(boot: Boot) -> None:
    """Without options, as containerd runs it once."""
    info = info_of(ask(boot))

    assert (info.name, info.version.version) == (RUNTIME, VERSION)
    assert not info.HasField("options")
    assert info.features.type_url == (
        "types.containerd.io/opencontainers/runtime-spec/1/features/Features"
    )
    assert json.loads(info.features.value) == FEATURES
    assert not info.annotations


@pytest.mark.rule("cli.info.2")
@pytest.mark.parametrize("url", [RUNC_OPTIONS, f"type.googleapis.com/{RUNC_OPTIONS}"])
def test_options_are_echoed_with_a_bare_type(boot: Boot, url: str) -> None:
    """The daemon compares the name."""
    info = info_of(ask(boot, packed(url=url, root="/x")))

    assert info.options.type_url == RUNC_OPTIONS
    assert Options.FromString(info.options.value) == Options(root="/x")


@pytest.mark.rule("options.generic.3")
def test_runtime_can_be_named_in_a_configuration_file(boot: Boot) -> None:
    """Options for a runtime that the daemon does not know are returned unchanged."""
    other = program(boot, "other", "echo '{\"other\": 1}'")
    config = boot.folder / "options.toml"
    config.write_text(f'BinaryName = "{other}"\nUnknown = 1\n')
    url = "runtimeoptions.v1.Options"
    value = GenericOptions(config_path=str(config)).SerializeToString()

    info = info_of(ask(boot, Packed(type_url=url, value=value).SerializeToString()))

    assert (info.options.type_url, info.options.value) == (url, value)
    assert json.loads(info.features.value) == {"other": 1}


@pytest.mark.rule("options.generic.3")
@pytest.mark.parametrize("text", ["BinaryName = 1", "BinaryName = ", ""])
def test_configuration_file_of_no_use_is_an_error(boot: Boot, text: str) -> None:
    """The error names the file, the line and the fault."""
    config = boot.folder / "options.toml"
    if text:
        config.write_text(f"# first\n{text}\n")
    value = GenericOptions(config_path=str(config)).SerializeToString()
    packed = Packed(type_url="runtimeoptions.v1.Options", value=value)

    done = ask(boot, packed.SerializeToString())

    assert (done.returncode, done.stdout) == (1, b"")
    errors = done.stderr.decode()
    assert errors.startswith(f"{RUNTIME}: failed to read runtime options (*options.Options): ")
    wrong = {"BinaryName = 1": "expected str, not int", "BinaryName = ": "at line 2"}
    assert str(config) in errors
    assert wrong.get(text, "no such file or directory") in errors


@pytest.mark.rule("cli.info.3")
@pytest.mark.parametrize(
    "body", ["exit 1", "echo no json", "echo '[]'", "echo", "echo '{}' >&2; exit 3"]
)
def test_runtime_that_reports_no_features_is_not_an_error(boot: Boot, body: str) -> None:
    """crun 1.8.1 has no such command; the reply has no features then."""
    other = program(boot, "other", body)

    info = info_of(ask(boot, packed(binary_name=other)))

    assert not info.HasField("features")


@pytest.mark.rule("cli.info.3", "cli.info.4")
@pytest.mark.parametrize(
    ("stdin", "text"),
    [
        (
            packed(binary_name="nosuch"),
            (
                'failed to look up the path of "nosuch": '
                'exec: "nosuch": executable file not found in $PATH'
            ),
        ),
        (
            Packed(
                type_url="containerd.runc.v1.CheckpointOptions",
                value=CheckpointOptions(exit=True).SerializeToString(),
            ).SerializeToString(),
            (
                "failed to read runtime options (*options.Options): "
                "invalid type *options.CheckpointOptions: invalid argument"
            ),
        ),
        (
            packed(binary_name="/no/such/runtime"),
            (
                'failed to look up the path of "/no/such/runtime": '
                'exec: "/no/such/runtime": stat /no/such/runtime: no such file or directory'
            ),
        ),
        (
            packed(binary_name="/etc"),
            'failed to look up the path of "/etc": exec: "/etc": is a directory',
        ),
        (
            packed(binary_name="/etc/passwd"),
            'failed to look up the path of "/etc/passwd": exec: "/etc/passwd": permission denied',
        ),
        (
            Packed(type_url="foo.Bar", value=b"x").SerializeToString(),
            "failed to read runtime options (*options.Options): type with url foo.Bar: not found",
        ),
        (
            b"\xff\xff",
            (
                "failed to read runtime options (*options.Options): "
                "proto: cannot parse invalid wire-format data"
            ),
        ),
    ],
)
def test_options_of_no_use_are_an_error(boot: Boot, stdin: bytes, text: str) -> None:
    done = ask(boot, stdin)

    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.decode() == f"{RUNTIME}: {text}"
