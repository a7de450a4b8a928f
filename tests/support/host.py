"""A test's mark and folder, and the shim under test under its name."""

import os
import secrets
import shutil
import subprocess
import sys
from dataclasses import dataclass
from typing import Final

from shimv2.shimctl.harness import Setup
from shimv2.shimctl.reply import Generation
from shimv2.shimctl.testbed.leaks import HostLeaks
from shimv2.shimctl.testbed.programs import run_by
from shimv2.shimctl.testbed.runtimes import RUNTIMES
from tests.support import launched

NAME: Final = "containerd-shim-pyrunc-v2"
RUNTIME: Final = "io.containerd.pyrunc.v2"
# Another shim to test, which shows whether the suite itself is right: make test SHIM=…
OTHER_SHIM: Final = os.environ.get("SHIM", "")
# Without the zygote, as on a machine without a compiler.
COLD: Final = os.environ.get("SHIM_TEST_COLD") == "1"
# The runtime of containers in the end-to-end tests that name none.
RUNTIME_UNDER_TEST: Final = os.environ.get("SHIM_TEST_RUNTIME", "runc")
ROOT: Final = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_SCRIPT: Final = """{first}
import sys
import warnings

warnings.simplefilter("error")
sys.path.insert(0, {root!r})
from shimv2.cli import main

sys.exit(main())
"""


@dataclass(frozen=True, slots=True)
class Host:
    mark: str
    folder: str  # short: sockets are in it
    leaks: HostLeaks

    @classmethod
    def make(cls) -> "Host":
        mark = f"t{secrets.token_hex(4)}"
        folder = f"/tmp/{mark}"
        for name in ("", "tmp", "bin"):
            os.mkdir(os.path.join(folder, name))
        install_shim(os.path.join(folder, "bin", NAME))
        if RUNTIME_UNDER_TEST != "runc":
            # With the default name of runtimes, so that no test runs runc by accident.
            os.symlink(RUNTIMES[RUNTIME_UNDER_TEST](folder), os.path.join(folder, "bin", "runc"))
        return cls(mark, folder, HostLeaks(mark, folder))

    @property
    def bin(self) -> str:
        return os.path.join(self.folder, "bin")

    @property
    def shim(self) -> str:
        return os.path.join(self.bin, NAME)

    @property
    def env(self) -> dict[str, str]:
        """Return the additional environment of shims and daemons: temporary files are counted as
        leaks."""
        env = {"TMPDIR": os.path.join(self.folder, "tmp")}
        if RUNTIME_UNDER_TEST != "runc":
            env["PATH"] = f"{self.bin}:{os.environ['PATH']}"
        return env

    def setup(
        self,
        *,
        rootfs: str,
        generation: Generation = Generation.V1_6,
        runtime: str = "",
        env: dict[str, str] | None = None,
    ) -> Setup:
        return Setup(
            shim=self.shim,
            state=os.path.join(self.folder, "s"),
            namespace=self.mark,
            rootfs=rootfs,
            generation=generation,
            runtime=runtime,
            env={**self.env, **(env or {})},
        )

    def remove(self) -> None:
        self.leaks.remove_namespace_folders()
        shutil.rmtree(self.folder, ignore_errors=True)


def install_shim(path: str) -> None:
    """Install the shim under test at `path`; the file name there decides its runtime's name.

    It is installed as by `make install`, with one zygote for the run.  With SHIM_TEST_COLD=1, or
    without a compiler, each `start` and `delete` has an interpreter of its own.
    """
    if OTHER_SHIM:
        os.symlink(os.path.abspath(OTHER_SHIM), path)
        return
    if launched.LAUNCHER.exists() and not COLD:
        os.symlink(launched.shared(), path)
        return
    write_shim(path, root=ROOT, python=sys.executable)


def write_shim(path: str, *, root: str, python: str) -> None:
    """Write a script that runs the shim of the tree at `root`, with warnings as errors."""
    with open(path, "w", encoding="utf-8") as file:
        file.write(_SCRIPT.format(first=run_by(python), root=root))
    os.chmod(path, 0o755)


def words(*, runc: str, crun: str) -> str:
    """Return the text of the runtime under test, where their texts differ."""
    return {"runc": runc, "crun": crun}[RUNTIME_UNDER_TEST]


def linux_version() -> tuple[int, ...]:
    """Return the kernel's version and patch level."""
    return tuple(map(int, os.uname().release.split("-")[0].split(".")[:2]))


def runs_as_root() -> bool:
    """Whether containers can be made on this machine."""
    if os.geteuid() != 0 or not shutil.which("runc"):
        return False
    return subprocess.run(["runc", "--version"], check=False, capture_output=True).returncode == 0
