"""A private dockerd on a private containerd, and the docker command that talks to it."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from shimv2.shimctl.testbed.containerd import Containerd
from shimv2.shimctl.testbed.programs import Daemon, ended
from shimv2.shimctl.testbed.until import until

IMAGE: Final = "busybox"
_READY_LIMIT_S: Final = 60.0
_DOCKER_LIMIT_S: Final = 90.0
# The kernel of a test machine may have no netfilter: containers get no network, or the host's.
_FLAGS: Final = ("--bridge=none", "--iptables=false")


class Dockerd:
    """One daemon.  Owns its process; the caller owns the containerd and its folder.

    The names of cgroups, namespaces and folders contain containerd's namespace, so leftovers can be
    distinguished from those of other runs.
    """

    def __init__(
        self,
        containerd: Containerd,
        *,
        path: str,
        config: Mapping[str, object],
        env: Mapping[str, str],
    ) -> None:
        """`path` is the first folder in which dockerd, docker and their programs are searched."""
        self.containerd = containerd
        self.folder = containerd.folder
        self.log = os.path.join(self.folder, "dockerd.log")
        self.host = f"unix://{self.folder}/docker.sock"
        self._path = f"{path}:{os.environ['PATH']}"
        self._env = {**os.environ, **env, "PATH": self._path}
        self._config = os.path.join(self.folder, "daemon.json")
        self._flags: Sequence[str] = ()
        self._daemon = Daemon("dockerd", self.log, self._env)
        self.configure(config)

    def configure(self, config: Mapping[str, object], *flags: str) -> None:
        """Write daemon.json and keep `flags`, for the next starts.

        Containers outlive the daemon unless `config` says otherwise.
        """
        self.config, self._flags = config, flags
        with open(self._config, "w", encoding="utf-8") as file:
            json.dump({"live-restore": True, **config}, file)

    def start(self) -> None:
        """Start the daemon and wait until it answers."""
        namespace, folder = self.containerd.namespace, self.folder
        command = [
            "dockerd",
            *_FLAGS,
            f"--config-file={self._config}",
            f"--data-root={folder}/docker",
            f"--exec-root={folder}/x",
            f"--pidfile={folder}/docker.pid",
            f"--host={self.host}",
            f"--containerd={self.containerd.address}",
            f"--containerd-namespace={namespace}",
            f"--containerd-plugins-namespace={namespace}-plugins",
            f"--cgroup-parent=/{namespace}",
            *self._flags,
        ]
        self._daemon.start(command, self._answers, limit_s=_READY_LIMIT_S)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Stop the daemon and wait for its exit; with live restore its containers keep running."""
        self._daemon.stop(number)

    def kill(self) -> None:
        self.stop(signal.SIGKILL)

    def close(self) -> None:
        """Stop it for the last time, and unmount what it keeps mounted for its next start.

        The mounts of a container that still exists remain, so that the check for leaks finds it.
        """
        self.stop()
        with open("/proc/self/mountinfo", encoding="utf-8") as file:
            points = [line.split()[4] for line in file]
        own = (f"{self.folder}/docker", f"{self.folder}/x/netns/default")
        for point in points:
            if point in own:
                subprocess.run(["umount", point], check=False, capture_output=True)

    def docker(
        self,
        *args: str,
        check: bool = True,
        stdin: bytes = b"",
        timeout_s: float = _DOCKER_LIMIT_S,
    ) -> "subprocess.CompletedProcess[bytes]":
        """Run docker against this daemon.

        Raises:
            AssertionError: it failed and `check` is set; the text has its output.
        """
        return ended(
            self.command(*args),
            label=f"docker {' '.join(args)}",
            check=check,
            stdin=stdin,
            timeout_s=timeout_s,
        )

    def command(self, *args: str) -> list[str]:
        # Settings of its own: those of the developer may change the output.
        program = shutil.which("docker", path=self._path) or "docker"
        return [program, f"--config={self.folder}/client", f"--host={self.host}", *args]

    def shell(self, text: str) -> str:
        """Run shell lines in which `docker` is this docker; return their output.

        Raises:
            subprocess.CalledProcessError: a line of it failed.
        """
        where = {"DOCKER_HOST": self.host, "DOCKER_CONFIG": f"{self.folder}/client"}
        done = subprocess.run(
            ["sh", "-ec", text],
            env={**self._env, **where},
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            timeout=_DOCKER_LIMIT_S,
        )
        return done.stdout

    def output(self, *args: str) -> str:
        """Return the output of a docker command, without the last newline."""
        return self.docker(*args).stdout.decode().removesuffix("\n")

    def run(
        self, *args: str, check: bool = True, stdin: bytes = b""
    ) -> "subprocess.CompletedProcess[bytes]":
        """`docker run` without a network."""
        return self.docker("run", "--network=none", *args, check=check, stdin=stdin)

    @contextmanager
    def running(self, *args: str) -> Iterator["subprocess.Popen[bytes]"]:
        """Run a docker command in the background, with its output in a pipe; kill it if it does not
        end."""
        process = subprocess.Popen(
            self.command(*args),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        with process:
            try:
                yield process
            finally:
                process.kill()

    def id(self, container: str) -> str:
        return self.output("inspect", "-f", "{{.Id}}", container)

    def events(self, id_: str) -> list[tuple[str, str]]:
        """Return action and exit status ("" = none) of each event of a container so far.

        The id is used because earlier containers may have had the same name.  The daemon keeps 256
        events.
        """
        what = '{{.Action}}|{{index .Actor.Attributes "exitCode"}}'
        until = f"--until={time.time():.6f}"
        lines = self.output(
            "events", "--since=0", until, f"--filter=container={id_}", f"--format={what}"
        ).splitlines()
        # The event of an exec has its command after a colon.
        return [
            (action.partition(":")[0], code)
            for action, _, code in (line.rpartition("|") for line in lines)
        ]

    def pids(self, container: str) -> list[int]:
        """Return the processes of a container, as the daemon lists them."""
        return [int(word) for word in self.output("top", container, "-eo", "pid").split()[1:]]

    def state(self, container: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(
            self.output("inspect", "-f", "{{json .State}}", container)
        )
        return found

    def wait_state(self, container: str, status: str, *, limit_s: float = 30.0) -> dict[str, Any]:
        """Wait for `State.Status` and return the state."""
        seen: dict[str, Any] = {}

        def reached() -> bool:
            seen.update(self.state(container))
            return bool(seen["Status"] == status)

        until(reached, f"{container} to be {status}", limit_s=limit_s)
        return seen

    def wait_logs(self, container: str, text: str, *, limit_s: float = 30.0) -> None:
        """Wait until a container has printed `text`, and nothing else."""
        what = f"{container} to print {text!r}"

        def output() -> str:
            return self.output("logs", container)

        until(lambda: output() == text, what, limit_s=limit_s, found=lambda: repr(output()))

    def logged(self, text: str) -> bool:
        """Whether the daemon's own log has `text` in a line."""
        with open(self.log, encoding="utf-8") as file:
            return text in file.read()

    def containers(self) -> list[str]:
        """Return the ids of all containers, stopped ones as well."""
        return self.output("ps", "--all", "--quiet", "--no-trunc").split()

    def _answers(self) -> bool:
        return self.docker("version", check=False).returncode == 0
