"""Make the generated modules from the texts: `make protos`, or `python -m protos.generate`.

With `--check` nothing is written, and the exit status says whether the modules fit the texts.

The compiler is pinned in pyproject.toml, extra `protoc`: an old one on purpose, because a module
runs with the protobuf it was generated for and every newer one, never with an older one.  It wants
an old protobuf beside it, so it lives in a folder of its own below `.cache`, outside the project's
environment.  `GENERATED.lock` holds the sum of every text and module, in the form that
`sha256sum -c` reads: a stale module is found without the compiler.
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
    """The compiler cannot be had here: no index to load it from, or a Python it does not know."""


def sources(root: Path = ROOT) -> list[str]:
    """The texts, as paths below the root; these paths end up in the descriptors."""
    return sorted(
        path.relative_to(root).as_posix()
        for folder in FOLDERS
        for path in (root / folder).glob("*.proto")
    )


def outputs(root: Path = ROOT) -> list[str]:
    """The generated files that are there, wanted or left over."""
    return sorted(
        path.relative_to(root).as_posix()
        for folder in FOLDERS
        for pattern in ("*_pb2.py", "*_pb2.pyi")
        for path in (root / folder).glob(pattern)
    )


def pins(root: Path = ROOT) -> list[str]:
    """What the compiler is made of, exactly: name==version each."""
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    wanted = project["optional-dependencies"]["protoc"]
    return [str(requirement) for requirement in wanted]


def lock_text(root: Path = ROOT) -> str:
    """The lock as it should be for the files as they are now."""
    lines = ["# " + " ".join(pins(root))]
    for name in [*sources(root), *outputs(root)]:
        digest = hashlib.sha256((root / name).read_bytes()).hexdigest()
        lines.append(f"{digest}  {name}")
    return "\n".join(lines) + "\n"


def changed_since_lock(root: Path = ROOT) -> list[str]:
    """Name what does not fit the lock; empty when nothing was touched since the last generation."""
    try:
        locked = (root / LOCK).read_text().splitlines()
    except FileNotFoundError:
        return [LOCK]
    different = set(locked) ^ set(lock_text(root).splitlines())
    return sorted({line.split("  ")[-1] for line in different})


def changed_since_generation(root: Path = ROOT) -> list[str]:
    """Name the modules that the compiler would write differently, leave out, or add.

    Raises:
        GeneratorUnavailableError: the compiler cannot be had.
    """
    wanted = compile_all(root)
    present = {name: (root / name).read_bytes() for name in outputs(root)}
    return sorted(
        name for name in wanted.keys() | present.keys() if wanted.get(name) != present.get(name)
    )


def compile_all(root: Path = ROOT) -> dict[str, bytes]:
    """Run the compiler and return the content of every module by its path below the root.

    Raises:
        GeneratorUnavailableError: the compiler cannot be had.
        subprocess.CalledProcessError: a text is wrong; the compiler has said where.
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
    """Put the modules in place, drop those that nothing asks for any more, and renew the lock."""
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
    """Complete the one type that the compiler leaves half said, for strict type checkers."""
    return re.sub(rb"(?<!as )\b_Mapping\b(?!\[)", b"_Mapping[str, object]", stub)


def _compiler(root: Path) -> Path:
    """Return the folder that holds the compiler, after making it when it is not there.

    It is filled under another name and renamed, so one that exists is complete.
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
        # No dependencies: grpc and protobuf are for stubs, which nobody makes here.
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
        with contextlib.suppress(OSError):  # somebody else was faster: theirs is as good
            target.rename(folder)
    return folder


def _run(args: Sequence[str], *, cwd: Path, env: Mapping[str, str], timeout_s: float) -> None:
    """Run this interpreter, without the warnings that old packages cause in it."""
    quiet = {
        key: value for key, value in env.items() if key not in ("PYTHONWARNINGS", "PYTHONDEVMODE")
    }
    command = [sys.executable, "-W", "ignore", *args]
    subprocess.run(command, cwd=cwd, env=quiet, timeout=timeout_s, check=True)


if __name__ == "__main__":
    sys.exit(main())
