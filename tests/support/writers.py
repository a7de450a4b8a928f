"""Five containers that write numbered lines all the time, while their daemon is stopped and
started."""

import glob
import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from shimv2.shimctl.image import IMAGE
from shimv2.shimctl.testbed.containerd import Containerd
from shimv2.shimctl.testbed.until import until

LINES_PER_S: Final = 100
# Ten lines each 0.1 s, once /go/go exists; /go/stop-NAME ends the container with NAME's status.
COUNTING: Final = """
trap "exit 13" TERM
while [ ! -e /go/go ]; do sleep 0.05; done
i=0
while :; do
  n=0
  while [ $n -lt 10 ]; do n=$((n+1)); i=$((i+1)); echo "line $i"; done
  [ -e /go/stop-{name} ] && exit {status}
  sleep 0.1
done
"""
FILES: Final = ("f1", "f2")  # output to a file
PIPES: Final = ("p1", "p2", "p3")  # output to FIFOs that this test reads
NAMES: Final = (*FILES, *PIPES)
STATUS: Final = {"f1": 11, "f2": 0, "p1": 137, "p2": 13, "p3": 7}
ENDS_ALONE: Final = "p3"  # while the daemon is down


@dataclass
class Reader:
    """Reads one FIFO to its end in a thread of its own, all the time."""

    path: str
    data: bytearray = field(default_factory=bytearray)

    def __post_init__(self) -> None:
        # A daemon thread: after a failure its stream never ends.
        self._thread = threading.Thread(target=self._read, name=self.path, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with open(self.path, "rb", buffering=0) as fifo:
            while chunk := fifo.read(65536):
                self.data += chunk

    def ended(self) -> bool:
        return not self._thread.is_alive()

    def join(self) -> None:
        self._thread.join(timeout=20)


class Writers:
    """Starts the five containers with `run`, the beginning of a `ctr run`.  A context manager with
    threads."""

    def __init__(self, containerd: Containerd, folder: str, run: Sequence[str]) -> None:
        self._containerd = containerd
        self._go = Path(folder, "go")
        self._go.mkdir()
        self._logs = {name: Path(folder, f"{name}.log") for name in FILES}
        self._running = set(NAMES)
        for name in NAMES:
            self._start(name, run)
        # ctr, which made the FIFOs, has ended by now.
        self._readers = {name: Reader(self._fifo(name)) for name in PIPES}
        self._pids = {name: task.pid for name, task in containerd.tasks().items()}
        self._shims = {name: containerd.shim_pid(name) for name in NAMES}

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        (self._go / "go").touch()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        for reader in self._readers.values():
            if kind is None:
                reader.join()

    def wait_for_more(self) -> None:
        """Wait until every running container has written more lines."""
        before = {name: self._size(name) for name in self._running}
        until(
            lambda: all(self._size(name) > size + 300 for name, size in before.items()),
            "all containers to write on",
        )

    def restart(
        self, number: int = signal.SIGKILL, *, one_ends: bool = False, binaries: str | None = None
    ) -> None:
        """Stop the daemon with a signal and start it; check that it finds all containers unchanged.

        With `one_ends` one of the containers exits meanwhile.  With `binaries` the daemon of
        another release is started.
        """
        self.wait_for_more()
        self._containerd.stop(number)
        if one_ends:
            (self._go / f"stop-{ENDS_ALONE}").touch()
            until(self._readers[ENDS_ALONE].ended, f"the end of {ENDS_ALONE}'s output")
            self._running.discard(ENDS_ALONE)
        if binaries is not None:
            self._containerd.binaries = binaries
        self._containerd.start()
        self.check_tasks()
        self.wait_for_more()

    def check_tasks(self) -> None:
        """Check that each container has the expected pid, shim and status."""
        tasks = {name: self._containerd.tasks()[name] for name in NAMES}
        assert {name: task.pid for name, task in tasks.items()} == self._pids
        assert {name: self._containerd.shim_pid(name) for name in NAMES} == self._shims
        for name, task in tasks.items():
            assert task.status == ("RUNNING" if name in self._running else "STOPPED"), name

    @property
    def running(self) -> list[str]:
        return sorted(self._running)

    def end(self) -> None:
        """End the running containers, each in another way; check statuses, and that each line came
        once."""
        lasted_s = time.monotonic() - self._began
        for name in (*FILES, *(self._running & {ENDS_ALONE})):
            (self._go / f"stop-{name}").touch()
        self._containerd.ctr("task", "kill", "-s", "SIGKILL", "p1")
        self._containerd.ctr("task", "kill", "-s", "SIGTERM", "p2")
        statuses = {}
        for name in NAMES:
            self._containerd.wait_status(name, "STOPPED")
            statuses[name] = self._containerd.remove_task(name)
            self._containerd.ctr("container", "rm", name)
        assert statuses == STATUS
        for reader in self._readers.values():
            reader.join()
        for name in NAMES:
            lines = self._written(name).decode().splitlines()
            assert lines == [f"line {i + 1}" for i in range(len(lines))], name
            if name != ENDS_ALONE:
                # The machine may be slow; a container that is blocked would have far fewer lines.
                assert len(lines) > lasted_s * LINES_PER_S / 4, name

    def _start(self, name: str, run: Sequence[str]) -> None:
        to = (
            ("--log-uri", f"file://{self._logs[name]}")
            if name in self._logs
            else ("--fifo-dir", self._containerd.fifos)
        )
        mount = f"type=bind,src={self._go},dst=/go,options=rbind:ro"
        script = COUNTING.format(name=name, status=STATUS[name])
        self._containerd.ctr(*run, "-d", *to, "--mount", mount, IMAGE, name, "sh", "-c", script)

    def _fifo(self, name: str) -> str:
        (path,) = glob.glob(f"{self._containerd.fifos}/*/{name}-stdout")
        return path

    def _written(self, name: str) -> bytes:
        if name in self._logs:
            return self._logs[name].read_bytes()
        return bytes(self._readers[name].data)

    def _size(self, name: str) -> int:
        return len(self._written(name))
