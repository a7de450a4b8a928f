"""Makes a virtual environment for one interpreter, with the packages of the shim and its tests."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from packaging.requirements import Requirement

TREE: Final = Path(__file__).resolve().parents[2]
CACHE: Final = TREE / ".cache" / "pythons"
_NOT_FOR_TESTS: Final = ("mypy", "ruff", "types-")  # make lint and make type run them
_SCRIPTS: Final = {"containerd-shim-pyrunc-v2": "shimv2.cli", "shimctl": "shimv2.shimctl.cli"}
_QUIET: Final = ("-q", "--disable-pip-version-check", "--root-user-action=ignore")
_VERSION: Final = "import platform; print(platform.python_version())"
_PACKAGES: Final = "import sysconfig; print(sysconfig.get_path('purelib'))"


class Missing(Exception):
    """An interpreter or an environment is not available; the text has the reason."""


@dataclass(frozen=True, slots=True)
class Environment:
    release: str  # as 3.13.5
    python: Path
    folder: Path  # for further files of this interpreter


def find(name: str) -> str:
    """Return the path of the interpreter of this version; a missing one is downloaded.

    Raises:
        Missing: there is none; the text is that of tools/python.sh.
    """
    done = _run([str(TREE / "tools/python.sh"), name], capture=True)
    sys.stderr.write(done.stderr)
    if done.returncode:
        last = done.stderr.strip().rpartition("\n")[2].removeprefix("python: ")
        raise Missing(last or f"tools/python.sh: exit status {done.returncode}")
    return done.stdout.strip()


def make(name: str, interpreter: str) -> Environment:
    """Return the environment of an interpreter; it is made again if the interpreter or the packages
    changed.

    Raises:
        Missing: it cannot be made.
    """
    folder = CACHE / name.strip("/").replace("/", "-")
    venv = folder / "venv"
    made = Environment(_output([interpreter, "-Ic", _VERSION]), venv / "bin" / "python", folder)
    stamp = folder / "made-of.json"
    wanted = json.dumps([interpreter, made.release, str(folder), *_requirements()])
    if not stamp.exists() or stamp.read_text() != wanted:
        print(f"pythons: {name}: a virtual environment with {interpreter}", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        _do([interpreter, "-m", "venv", "--without-pip", str(venv)])
        pip_install(made.python, *_requirements())
        _add_tree(made.python)
        stamp.write_text(wanted)
    return made


def pip_install(python: Path, *requirements: str, target: Path | None = None) -> None:
    """Install packages into the environment of `python`, or into the folder `target` for it.

    Raises:
        Missing: pip fails; the reason is on standard error.
    """
    pip = CACHE / "pip" / "pip"  # one pip for all: Debian's interpreters have none
    if not pip.exists():
        own = [sys.executable, "-m", "pip", "install", *_QUIET]
        _do([*own, "--upgrade", "--target", str(pip.parent), "pip"])
    where = ["--target", str(target)] if target else []
    _do([str(python), "-I", str(pip), "install", *_QUIET, *where, *requirements])


def oldest(package: str, release: str) -> str:
    """Return the oldest version of a dependency that the project allows with this Python."""
    environment = {"python_version": ".".join(release.split(".")[:2])}
    for text in _project()["dependencies"]:
        requirement = Requirement(text)
        marker = requirement.marker
        if requirement.name == package and (not marker or marker.evaluate(environment)):
            (lowest,) = (each for each in requirement.specifier if each.operator == ">=")
            return lowest.version
    msg = f"pyproject.toml: no {package} for Python {release}"
    raise ValueError(msg)


def _add_tree(python: Path) -> None:
    """As `make venv`: make the tree importable, and put its commands beside the interpreter."""
    packages = _output([str(python), "-Ic", _PACKAGES])
    Path(packages, "containerd-shim-pyrunc.pth").write_text(f"{TREE}\n")
    for script, module in _SCRIPTS.items():
        path = python.parent / script
        _do([str(TREE / "tools/script.sh"), str(path), module], {"PY": str(python)})


def _requirements() -> list[str]:
    project = _project()
    extras = project["optional-dependencies"]
    every = [*project["dependencies"], *extras["shimctl"], *extras["dev"], "setuptools>=66"]
    return [each for each in every if not each.startswith(_NOT_FOR_TESTS)]


def _project() -> dict[str, Any]:
    with (TREE / "pyproject.toml").open("rb") as file:
        project: dict[str, Any] = tomllib.load(file)["project"]
    return project


def _do(command: list[str], variables: Mapping[str, str] = {}) -> None:
    done = _run(command, variables)
    if done.returncode:
        raise Missing(f"exit status {done.returncode} of {' '.join(command)}")


def _output(command: list[str]) -> str:
    done = _run(command, capture=True)
    if done.returncode:
        raise Missing(f"exit status {done.returncode} of {' '.join(command)}: {done.stderr}")
    return done.stdout.strip()


def _run(
    command: list[str], variables: Mapping[str, str] = {}, *, capture: bool = False
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command,
        check=False,
        cwd=TREE,
        env={**os.environ, **variables},
        stdin=subprocess.DEVNULL,
        capture_output=capture,
        text=True,
    )
