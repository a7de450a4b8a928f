"""containerd with its CRI plugin in a network namespace of its own, and crictl beside it."""

import contextlib
import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any, Final

from shimv2.shimctl.testbed.containerd import UNNEEDED, Containerd
from shimv2.shimctl.testbed.programs import ended
from shimv2.shimctl.testbed.releases import CACHE, Release, tool
from shimv2.shimctl.testbed.until import until
from tests.daemons.page import box

NAMESPACE: Final = "k8s.io"  # the CRI plugin's
PAUSE: Final = "localhost/pyrunc/pause:latest"
# Like the real pause program: it exits at SIGTERM, and reaps orphans of a shared pid namespace.
# Not `sleep`, because critest searches for a process of that name.
PAUSE_COMMAND: Final = (
    "sh",
    "-c",
    "trap 'exit 0' TERM; while :; do tail -f /dev/null & wait $!; done",
)
HANDLER: Final = "pyrunc"  # as docs/daemons.md has it, and the one with options
OTHER_HANDLER: Final = "pyrunc-crun"
# Handlers with wrong configurations.
BROKEN: Final = {"missing": "/no/such/runtime", "failing": "/bin/false"}
_PROGRAM: Final = "/usr/bin/crun"  # its runtime, as printed
# Visible only in the daemon's network namespace.
SUBNET: Final = "10.88.0"
_TOOLS: Final = "sigs.k8s.io/cri-tools@v1.36.0"
_PLUGINS: Final = "containernetworking-plugins"
_LIMIT_S: Final = 120.0
_CNI_STATE: Final = ("/var/lib/cni/results", "/var/lib/cni")

# The configuration for the test machine; the handlers come from docs/daemons.md.
_V2: Final = """
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = {pause}
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true
[plugins."io.containerd.grpc.v1.cri".registry]
config_path = {hosts}
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = {plugins}
conf_dir = {networks}
"""
_V3: Final = """
[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = {pause}
[plugins.'io.containerd.cri.v1.images'.registry]
config_path = {hosts}
[plugins.'io.containerd.cri.v1.runtime']
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true
[plugins.'io.containerd.cri.v1.runtime'.cni]
bin_dirs = [{plugins}]
conf_dir = {networks}
"""


def cri_tools() -> str:
    """Return the folder of crictl and critest, which are built once.

    Raises:
        ReleaseMissing: there is no go to build them.
    """
    folder = os.path.join(CACHE, f"cri-tools-{_TOOLS.rpartition('@v')[2]}")
    tool("go-tool.sh", _TOOLS, folder, "cmd/crictl", "cmd/critest")
    return folder


def cni_plugins() -> str:
    """Return the folder of Debian's CNI plugins."""
    folder = os.path.join(CACHE, "cni-bookworm")
    tool("debs.sh", "bookworm", folder, _PLUGINS)
    return os.path.join(folder, "usr/lib/cni")


def config_version(release: str) -> int:
    """Return the version of a release's configuration format."""
    return 2 if release.startswith("1.") else 3


def handlers(release: str, runtimes: Mapping[str, str], folder: str) -> str:
    """Return the part of the configuration with the handlers, as docs/daemons.md has it.

    `runtimes` maps names of further handlers to the paths of their runtimes; their files are in
    `folder`.
    """
    version = config_version(release)
    found = [box({2: "cri-v2", 3: "cri-v3"}[version])]
    for name, program in runtimes.items():
        instead = {OTHER_HANDLER: name}
        if release == "1.6":
            options = os.path.join(folder, f"{name}.toml")
            with open(options, "w", encoding="utf-8") as file:
                file.write(box("crun.toml", instead={_PROGRAM: program}))
            instead = {"/etc/containerd/crun.toml": options, **instead}
            found.append(box("cri-options-1.6", instead=instead))
        else:
            printed = {2: "cri-options-v2", 3: "cri-options-v3"}[version]
            found.append(box(printed, instead={_PROGRAM: program, **instead}))
    return "".join(found)


class CriContainerd(Containerd):
    """A daemon for pods.  Their network is a bridge inside the daemon's own network namespace.

    For its pods the daemon's namespaces are those of the node; it has an IPC namespace of its own
    too.

    `handlers` is the part of its configuration with the runtimes.
    """

    _disabled = UNNEEDED

    def __init__(
        self,
        folder: str,
        *,
        release: Release,
        handlers: str,
        crictl: str,
        path: str,
        env: Mapping[str, str],
    ) -> None:
        self.release = release.name
        self._handlers = handlers
        self._crictl = crictl
        self._config_version = config_version(release.name)
        self._networks = os.path.join(folder, "net.d")
        self.hosts = os.path.join(folder, "hosts.d")  # the addresses of registries
        for path_ in (self._networks, self.hosts):
            os.makedirs(path_)
        with open(f"{self._networks}/10-pods.conflist", "w", encoding="utf-8") as file:
            json.dump(_network(os.path.join(folder, "addresses")), file)
        super().__init__(folder, namespace=NAMESPACE, path=path, env=env, binaries=release.binaries)

    def start(self) -> None:
        super().start()
        until(
            lambda: self.crictl("version", check=False).returncode == 0,
            f"the CRI plugin to answer, see {self.log}",
        )

    def stop(self, number: int = 15) -> None:
        super().stop(number)
        for path in _CNI_STATE:  # shared by all daemons of a machine
            with contextlib.suppress(OSError):
                os.rmdir(path)

    def wait_images(self, *names: str) -> None:
        """Wait until the plugin knows images that were imported without it."""

        def known() -> bool:
            listed = self.ask("images", "-o", "json")["images"]
            return set(names) <= {name for image in listed for name in image["repoTags"]}

        until(known, "the images to be known")

    def inside(self, *command: str) -> list[str]:
        """Return a command that runs in the daemon's namespaces."""
        return ["nsenter", "--net", "--ipc", f"--target={self.pid}", *command]

    def crictl_command(self, *args: str) -> list[str]:
        endpoint = f"unix://{self.address}"
        # The time limit of one call: on a busy machine a pod starts slowly.
        known = ("-r", endpoint, "-i", endpoint, "-t", f"{_LIMIT_S:.0f}s", "-c", os.devnull)
        return self.inside(self._crictl, *known, *args)

    def crictl(
        self, *args: str, check: bool = True, stdin: bytes = b""
    ) -> "subprocess.CompletedProcess[bytes]":
        """Run crictl to its end.

        Raises:
            AssertionError: it failed and `check` is set; the text has its output.
        """
        return ended(
            self.crictl_command(*args),
            label=f"crictl {' '.join(args)}",
            check=check,
            stdin=stdin,
            timeout_s=_LIMIT_S,
        )

    def ask(self, *args: str) -> Any:
        """Return the JSON that crictl prints."""
        return json.loads(self.crictl(*args).stdout)

    def _launch(self) -> list[str]:
        script = 'ip link set lo up && exec "$@"'
        return ["unshare", "--net", "--ipc", "sh", "-c", script, "sh", *super()._launch()]

    def _more_toml(self) -> Sequence[str]:
        values = {
            "pause": PAUSE,
            "hosts": self.hosts,
            "plugins": cni_plugins(),
            "networks": self._networks,
        }
        known = {2: _V2, 3: _V3}[self._config_version].format(
            **{name: json.dumps(value) for name, value in values.items()}
        )
        return (known, self._handlers)


def _network(addresses: str) -> dict[str, object]:
    return {
        "cniVersion": "0.4.0",
        "name": "pods",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "pods0",
                "isGateway": True,
                "ipam": {
                    "type": "host-local",
                    "dataDir": addresses,
                    "ranges": [[{"subnet": f"{SUBNET}.0/24"}]],
                },
            }
        ],
    }
