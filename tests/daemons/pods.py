"""Pods and their containers as a kubelet makes them, with crictl."""

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from shimv2.shimctl.image import IMAGE
from shimv2.shimctl.testbed.until import until
from tests.daemons.cri import CriContainerd
from tests.support.cgroups import folder_of, unified

_RUNTIME_STATE: Final = "/run/containerd/runc/k8s.io"
# Values of namespace_options.
POD, CONTAINER, NODE = 0, 1, 2
_LIMIT_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Pod:
    id: str
    config: str  # the path of its configuration


class Pods:
    """The pods of one daemon.  The names of their cgroups and folders contain the test's mark."""

    def __init__(self, daemon: CriContainerd, *, mark: str, handler: str) -> None:
        self.daemon = daemon
        self.handler = handler
        self._mark = mark
        self._folder = os.path.join(daemon.folder, "pods")
        self._made: list[str] = []
        os.mkdir(self._folder)

    # --- making -----------------------------------------------------------------------------------

    def run(self, name: str = "pod", *, pid: int = CONTAINER, network: int = POD) -> Pod:
        """Run a pod's sandbox."""
        config = self.pod_config(name, pid=pid, network=network)
        return self._note(Pod(self._output("runp", "-r", self.handler, config), config))

    def pod_config(self, name: str, *, pid: int = CONTAINER, network: int = POD) -> str:
        """Write the configuration of a sandbox, and return its path."""
        logs = os.path.join(self._folder, f"{name}.logs")
        os.mkdir(logs)
        namespaces = {"pid": pid, "network": network}
        value = {
            "metadata": {"name": name, "namespace": "default", "uid": name, "attempt": 0},
            "hostname": "" if network == NODE else name,
            "log_directory": logs,
            "dns_config": {"servers": ["192.0.2.1"]},
            "linux": {
                "cgroup_parent": f"/{self._mark}",
                "security_context": {"namespace_options": namespaces},
            },
        }
        return self._written(f"{name}.json", value)

    def create(
        self, pod: Pod, name: str, *command: str, memory_bytes: int = 0, **more: object
    ) -> str:
        """Create a container and return its id; `more` are further members of its configuration."""
        with open(pod.config, encoding="utf-8") as file:
            security = json.load(file)["linux"]["security_context"]
        value = {
            "metadata": {"name": name},
            "image": {"image": IMAGE},
            "command": command,
            "log_path": f"{name}.log",
            "linux": {
                "resources": {"memory_limit_in_bytes": memory_bytes},
                "security_context": security,
            },
            **more,
        }
        config = self._written(f"{pod.id[:12]}-{name}.json", value)
        container = self._output("create", pod.id, config, pod.config)
        self._made.append(container)
        return container

    def start(
        self, pod: Pod, name: str, *command: str, memory_bytes: int = 0, **more: object
    ) -> str:
        """Create and start a container."""
        container = self.create(pod, name, *command, memory_bytes=memory_bytes, **more)
        self.daemon.crictl("start", container)
        return container

    # --- reading ----------------------------------------------------------------------------------

    def status(self, container: str) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.daemon.ask("inspect", container)["status"]
        return found

    def pid_of_pod(self, pod: Pod) -> int:
        return int(self.daemon.ask("inspectp", pod.id)["info"]["pid"])

    def pid(self, container: str) -> int:
        return int(self.daemon.ask("inspect", container)["info"]["pid"])

    def exited(self, container: str) -> Mapping[str, Any]:
        """Wait for a container's exit; return the status."""
        until(
            lambda: self.status(container)["state"] == "CONTAINER_EXITED",
            f"container {container} to exit",
            limit_s=_LIMIT_S,
        )
        return self.status(container)

    def exec(self, container: str, *command: str) -> "subprocess.CompletedProcess[bytes]":
        """Run a command in a container, through the streams that the daemon serves."""
        return self.daemon.crictl("exec", container, *command, check=False)

    def log(self, container: str) -> "subprocess.CompletedProcess[bytes]":
        """Return a container's log as crictl prints it, by stream."""
        return self.daemon.crictl("logs", container)

    def memory_limit_bytes(self, container: str) -> int:
        """Read a container's limit from its cgroup."""
        name = "memory.max" if unified() else "memory.limit_in_bytes"
        return int((folder_of(self.pid(container), "memory") / name).read_text())

    # --- removing ---------------------------------------------------------------------------------

    def remove(self, pod: Pod) -> None:
        """Stop and remove a pod with all that is in it."""
        self.daemon.crictl("stopp", pod.id)
        self.daemon.crictl("rmp", pod.id)

    def remove_all(self) -> None:
        """Remove all pods in any state; nothing of them remains in the runtime."""
        self.daemon.crictl("rmp", "--all", "--force")
        assert self.daemon.tasks() == {}
        left = set(self._made) & set(_listed(_RUNTIME_STATE))
        assert left == set()

    def _note(self, pod: Pod) -> Pod:
        self._made.append(pod.id)
        return pod

    def _output(self, *args: str) -> str:
        return self.daemon.crictl(*args).stdout.decode().strip()

    def _written(self, name: str, value: object) -> str:
        path = os.path.join(self._folder, name)
        with open(path, "w", encoding="utf-8") as file:
            json.dump(value, file)
        return path


def _listed(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []
