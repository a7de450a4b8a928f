"""Generates the protobuf modules from the .proto files: `make protos`, `python -m protos.generate`.

`--check` writes nothing; its exit status is 1 if a module is stale.

The compiler is pinned in pyproject.toml, extra `protoc`.  It is an old one on purpose: a generated
module runs with the protobuf release it was generated for and with newer ones, not with older ones.
It is installed below `.cache`, outside the virtual environment, because it needs an old protobuf.
`GENERATED.lock` has the checksum of every .proto file and module, in the form of `sha256sum -c`, so
a stale module is found without the compiler.
"""

import argparse
import contextlib
import hashlib
import os
import re
import subprocess  # noqa: TID251 - a tool of the developer's, no part of the daemon
import sys
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
LOCK: Final = "protos/GENERATED.lock"
FOLDERS: Final = ("protos", "ttrpc")  # each reproduced in the modules' import statements
NEWEST_PYTHON: Final = (3, 12)  # the pinned compiler has no wheel for a newer one
INSTALL_LIMIT_S: Final = 300
COMPILE_LIMIT_S: Final = 60


class GeneratorUnavailableError(Exception):
    """The compiler cannot be installed: no package index, or an unsupported Python version."""


def sources(root: Path = ROOT) -> list[str]:
    """List the .proto files, as paths below the root; the descriptors contain these paths."""
    return sorted(
        path.relative_to(root).as_posix()
        for folder in FOLDERS
        for path in (root / folder).glob("*.proto")
    )


def outputs(root: Path = ROOT) -> list[str]:
    """List the generated files that exist, stale ones included."""
    return sorted(
        path.relative_to(root).as_posix()
        for folder in FOLDERS
        for pattern in ("*_pb2.py", "*_pb2.pyi")
        for path in (root / folder).glob(pattern)
    )


def pins(root: Path = ROOT) -> list[str]:
    """List the packages of the compiler, each as name==version."""
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    wanted = project["optional-dependencies"]["protoc"]
    return [str(requirement) for requirement in wanted]


def lock_text(root: Path = ROOT) -> str:
    """Return the lock file's content for the current files."""
    lines = ["# " + " ".join(pins(root))]
    for name in [*sources(root), *outputs(root)]:
        digest = hashlib.sha256((root / name).read_bytes()).hexdigest()
        lines.append(f"{digest}  {name}")
    return "\n".join(lines) + "\n"


def changed_since_lock(root: Path = ROOT) -> list[str]:
    """List the files that differ from the lock; empty if none changed since the generation."""
    try:
        locked = (root / LOCK).read_text().splitlines()
    except FileNotFoundError:
        return [LOCK]
    different = set(locked) ^ set(lock_text(root).splitlines())
    return sorted({line.split("  ")[-1] for line in different})


def changed_since_generation(root: Path = ROOT) -> list[str]:
    """List the modules that the compiler would change, remove or add.

    Raises:
        GeneratorUnavailableError: the compiler cannot be installed.
    """
    wanted = compile_all(root)
    present = {name: (root / name).read_bytes() for name in outputs(root)}
    return sorted(
        name for name in wanted.keys() | present.keys() if wanted.get(name) != present.get(name)
    )


def compile_all(root: Path = ROOT) -> dict[str, bytes]:
    """Run the compiler and return the content of every module by its path below the root.

    Raises:
        GeneratorUnavailableError: the compiler cannot be installed.
        subprocess.CalledProcessError: a .proto file is wrong; the compiler printed where.
    """
    compiler = _compiler(root)
    with tempfile.TemporaryDirectory() as folder:
        to = [f"--python_out={folder}", f"--pyi_out={folder}"]
        _run(
            ["-m", "grpc_tools.protoc", "-I.", *to, *sources(root)],
            cwd=root,
            env={**os.environ, "PYTHONPATH": str(compiler)},
            timeout_s=COMPILE_LIMIT_S,
        )
        made = {name: (Path(folder) / name).read_bytes() for name in outputs(Path(folder))}
    return {
        name: _strict(content) if name.endswith("i") else content for name, content in made.items()
    }


def write(made: Mapping[str, bytes], root: Path = ROOT) -> None:
    """Write the modules, remove those without a .proto file, and write the lock."""
    for name in outputs(root):
        if name not in made:
            (root / name).unlink()
    for name, content in made.items():
        (root / name).write_bytes(content)
    (root / LOCK).write_text(lock_text(root))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="protos.generate", description="make the protobuf modules"
    )
    parser.add_argument("--check", action="store_true", help="write nothing, fail when stale")
    if not parser.parse_args(argv).check:
        write(compile_all())
        return 0
    stale = changed_since_lock()
    try:
        stale += changed_since_generation()
    except GeneratorUnavailableError as exc:
        print(f"only the lock was checked: {exc}", file=sys.stderr)
    for name in sorted(set(stale)):
        print(f"stale: {name} (run make protos)", file=sys.stderr)
    return 1 if stale else 0


def _strict(stub: bytes) -> bytes:
    """Complete the one type annotation that the compiler leaves generic, for strict checkers."""
    return re.sub(rb"(?<!as )\b_Mapping\b(?!\[)", b"_Mapping[str, object]", stub)


def _compiler(root: Path) -> Path:
    """Return the directory that holds the compiler, after installing it if it is missing.

    It is installed under another name and renamed, so an existing directory is complete.
    """
    if sys.version_info[:2] > NEWEST_PYTHON:
        newest = ".".join(map(str, NEWEST_PYTHON))
        raise GeneratorUnavailableError(f"the compiler needs Python {newest} or older")
    wanted = pins(root)
    key = hashlib.sha256(" ".join([*wanted, sys.version]).encode()).hexdigest()[:12]
    cache = root / ".cache"
    folder = cache / f"protoc-{key}"
    if folder.is_dir():
        return folder
    cache.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as made:
        target = Path(made) / "packages"
        # No dependencies: grpc and protobuf are needed for service stubs only.
        flags = ["--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:"]
        try:
            _run(
                ["-m", "pip", "install", *flags, "--target", str(target), *wanted],
                cwd=root,
                env=dict(os.environ),
                timeout_s=INSTALL_LIMIT_S,
            )
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as exc:
            raise GeneratorUnavailableError(f"cannot install {' '.join(wanted)}") from exc
        with contextlib.suppress(OSError):  # another process was faster: its result is the same
            target.rename(folder)
    return folder


def _run(args: Sequence[str], *, cwd: Path, env: Mapping[str, str], timeout_s: float) -> None:
    """Run this interpreter, with the warnings of old packages off."""
    quiet = {
        key: value for key, value in env.items() if key not in ("PYTHONWARNINGS", "PYTHONDEVMODE")
    }
    command = [sys.executable, "-W", "ignore", *args]
    subprocess.run(command, cwd=cwd, env=quiet, timeout=timeout_s, check=True)


if __name__ == "__main__":
    sys.exit(main())
