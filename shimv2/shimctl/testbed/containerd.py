"""A containerd with folders and a PATH of its own, which tests kill and start again."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from shimv2.shimctl.testbed.programs import Daemon, ended
from shimv2.shimctl.testbed.until import until

CONTAINERD: Final = "containerd"
_READY_LIMIT_S: Final = 20.0
_CTR_LIMIT_S: Final = 60.0
# Plugins that no test needs: they slow the start down, or fail without a network or a kernel
# module.
UNNEEDED: Final = (
    "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.zfs",
    "io.containerd.internal.v1.opt",
    "io.containerd.internal.v1.tracing",
    "io.containerd.tracing.processor.v1.otlp",
    "io.containerd.nri.v1.nri",
)


@dataclass(frozen=True, slots=True)
class Task:
    """One line of `ctr task ls`."""

    id: str
    pid: int
    status: str


class Containerd:
    """One daemon.  Owns its process; the caller owns its folders.

    `folder` must be short: containerd's socket is in it, and a socket's path has at most 107 bytes.
    `binaries` is the folder of containerd and ctr, if they are not on PATH.  It may be changed to
    that of another release while the daemon is stopped.
    """

    _config_version = 2
    _disabled: Sequence[str] = (*UNNEEDED, "io.containerd.grpc.v1.cri")

    def __init__(
        self,
        folder: str,
        *,
        namespace: str,
        path: str,
        env: Mapping[str, str] | None = None,
        binaries: str = "",
    ) -> None:
        self.binaries = binaries
        self.folder = folder
        self.namespace = namespace
        self.address = os.path.join(folder, "c.sock")
        self.state = os.path.join(folder, "state")
        self.log = os.path.join(folder, "containerd.log")
        self.fifos = os.path.join(folder, "fifo")
        self._env = {**os.environ, **(env or {}), "PATH": f"{path}:{os.environ['PATH']}"}
        self._config = os.path.join(folder, "config.toml")
        self._daemon = Daemon(CONTAINERD, self.log, self._env)
        os.makedirs(self.fifos, exist_ok=True)
        with open(self._config, "w", encoding="utf-8") as file:
            file.write(self._toml())

    @property
    def pid(self) -> int:
        return self._daemon.pid

    def start(self) -> None:
        """Start the daemon and wait until it answers."""
        self._daemon.start(self._launch(), self._answers, limit_s=_READY_LIMIT_S)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Stop the daemon and wait for its exit; its shims continue to run."""
        self._daemon.stop(number)

    def kill(self) -> None:
        self.stop(signal.SIGKILL)

    def ctr(
        self,
        *args: str,
        check: bool = True,
        stdin: bytes = b"",
        timeout_s: float = _CTR_LIMIT_S,
    ) -> "subprocess.CompletedProcess[bytes]":
        """Run ctr against this daemon.

        Raises:
            AssertionError: it failed and `check` is set; the text has its output.
        """
        return ended(
            self.command(*args),
            label=f"ctr {' '.join(args)}",
            check=check,
            stdin=stdin,
            timeout_s=timeout_s,
        )

    def command(self, *args: str) -> list[str]:
        ctr = os.path.join(self.binaries, "ctr")
        return [ctr, "--address", self.address, "--namespace", self.namespace, *args]

    def tasks(self) -> dict[str, Task]:
        """Return `ctr task ls` by id."""
        lines = self.ctr("task", "ls").stdout.decode().splitlines()[1:]
        found = (Task(words[0], int(words[1]), words[2]) for words in map(str.split, lines))
        return {task.id: task for task in found}

    def wait_status(self, container_id: str, status: str, *, limit_s: float = 15.0) -> Task:
        def reached() -> bool:
            task = self.tasks().get(container_id)
            return task is not None and task.status == status

        until(reached, f"{container_id} to be {status}", limit_s=limit_s)
        return self.tasks()[container_id]

    def remove_task(self, container_id: str) -> int:
        """Run `ctr task rm` and return the exit status that it prints."""
        output = self.ctr("task", "rm", container_id).stderr.decode()
        match = re.search(r"exit with non-zero exit code (\d+)", output)
        return int(match[1]) if match else 0

    def shim_pid(self, container_id: str) -> int:
        """Find the shim's process by its arguments: no API of containerd 1.6 returns the pid."""
        for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))):
            words = _arguments(pid)
            if container_id in words and self.address in words and "-id" in words:
                return pid
        msg = f"no shim of {container_id}"
        raise LookupError(msg)

    def events(self, output: str) -> "subprocess.Popen[bytes]":
        """Start `ctr events` writing to a file; wait until it has subscribed."""
        with open(output, "wb") as file:
            process = subprocess.Popen(
                self.command("events"), stdin=subprocess.DEVNULL, stdout=file, stderr=file
            )
        # It does not print that it has subscribed: cause events until the first one is printed.
        for attempt in range(100):
            self.ctr("namespaces", "label", self.namespace, f"probe={attempt}")
            if b"/namespaces/" in _contents(output):
                return process
            time.sleep(0.05)  # between two checks
        process.kill()
        process.wait()
        msg = "ctr events printed no event"
        raise AssertionError(msg)

    def _launch(self) -> list[str]:
        """Return the command that becomes the daemon."""
        return [os.path.join(self.binaries, CONTAINERD), "--config", self._config]

    def _answers(self) -> bool:
        # The ttrpc socket is the last one it opens.
        if not os.path.exists(f"{self.address}.ttrpc"):
            return False
        return self.ctr("version", check=False).returncode == 0

    def _toml(self) -> str:
        def text(value: str) -> str:
            return json.dumps(value)

        lines = [
            f"version = {self._config_version}",
            f"root = {text(os.path.join(self.folder, 'root'))}",
            f"state = {text(self.state)}",
            f"disabled_plugins = {json.dumps(self._disabled)}",
            "[grpc]",
            f"address = {text(self.address)}",
            "[ttrpc]",
            f"address = {text(self.address + '.ttrpc')}",
            "[debug]",
            'level = "info"',
            *self._more_toml(),
        ]
        return "\n".join(lines) + "\n"

    def _more_toml(self) -> Sequence[str]:
        """Return further tables of the configuration."""
        return ()


def parse_events(text: str, container_id: str) -> list[tuple[str, str]]:
    """Return topic and process id of each task event of one container, in order.

    `ctr events` prints: date time zone zone-name namespace topic JSON.
    """
    found = []
    for line in text.splitlines():
        match = re.search(r" (/tasks/\S+) (\{.*\})$", line)
        if match and (body := json.loads(match[2])).get("container_id") == container_id:
            process = body.get("exec_id") or body.get("id") or container_id
            found.append((match[1].removeprefix("/tasks/"), str(process)))
    return found


def _contents(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _arguments(pid: int) -> Sequence[str]:
    try:
        # A process that has set its title has one string with blanks there.
        return _contents(f"/proc/{pid}/cmdline").decode(errors="replace").replace("\0", " ").split()
    except OSError:
        return ()


def available() -> bool:
    return all(shutil.which(program) for program in (CONTAINERD, "ctr", "runc"))
