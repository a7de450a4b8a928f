"""nerdctl at a prompt, with folders of its own; it is also its containers' logging binary."""

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from typing import Final

from shimv2.shimctl.testbed.containerd import Containerd
from shimv2.shimctl.testbed.releases import CACHE, tool
from shimv2.shimctl.testbed.until import until
from tests.daemons.prompt import Prompt

_FOLDER: Final = os.path.join(CACHE, "nerdctl-1.7.7")


def find_nerdctl() -> str:
    """Return the folder of a nerdctl, which is built once, or "" without go.

    Raises:
        ReleaseMissing: the build failed; the text is the output of go.
    """
    if not os.path.isdir(_FOLDER):
        if not shutil.which("go"):
            return ""
        tool("nerdctl.sh")
    return _FOLDER


class Nerdctl(Prompt):
    """`runtime` is what `--runtime` gets: a shim's name, or an OCI runtime's path."""

    def __init__(self, containerd: Containerd, *, folder: str, runtime: str, path: str) -> None:
        self.folder = os.path.join(containerd.folder, "n")
        self.runtime = runtime
        os.mkdir(self.folder)
        config = os.path.join(self.folder, "nerdctl.toml")
        names = ("data_root", "cni_path", "cni_netconfpath")
        with open(config, "w", encoding="utf-8") as file:
            file.writelines(f'{name} = "{self.folder}/{name}"\n' for name in names)
        env = {
            "CONTAINERD_ADDRESS": containerd.address,
            "CONTAINERD_NAMESPACE": containerd.namespace,
            "NERDCTL_TOML": config,
        }
        super().__init__(env, path=[path, folder])

    def __call__(
        self, *args: str, check: bool = True, stdin: str = ""
    ) -> "subprocess.CompletedProcess[str]":
        """Run `nerdctl args`; see `Prompt.run`."""
        return self.run("nerdctl", *args, check=check, stdin=stdin)

    def words(self, *flags: str) -> tuple[str, ...]:
        """Return the beginning of `nerdctl run`, with the runtime and the host's network."""
        return ("run", "--runtime", self.runtime, "--net", "none", *flags)

    def status(self, name: str) -> str:
        """Return the status that `nerdctl ps` prints for a container: Up, Paused, Exited (137)
        ..."""
        shown = self("ps", "--all", "--format", "{{.Names}}\t{{.Status}}").stdout
        return dict(line.split("\t") for line in shown.splitlines())[name]

    def inspected(self, name: str) -> Mapping[str, object]:
        """Return the `State` of `nerdctl inspect`."""
        found: Mapping[str, object] = json.loads(self("inspect", name).stdout)[0]["State"]
        return found

    def wait_logged(self, name: str, text: str) -> None:
        """Wait until `text` is in a container's log."""
        until(lambda: text in self("logs", name).stdout, f"{text!r} in the log of {name}")

    def remove_all(self) -> None:
        """Remove the containers that a test left behind, with nerdctl."""
        if names := self("ps", "--all", "--quiet").stdout.split():
            self("rm", "--force", *names)
