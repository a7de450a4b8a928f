"""Containers outlive their daemon: killed and restarted again and again, nothing is lost."""

import glob
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from shimv2.ctl.image import IMAGE
from tests.support.containerd import Containerd
from tests.support.host import RUNTIME, Host
from tests.support.until import until

pytestmark = pytest.mark.root

LINES_PER_S: Final = 100
# Ten lines each tenth of a second, once /go/go is there; /go/stop-NAME ends it with NAME's status.
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
STATUS: Final = {"f1": 11, "f2": 0, "p1": 137, "p2": 13, "p3": 7}
ENDS_ALONE: Final = "p3"  # while the daemon is away


@dataclass
class Reader:
    """Reads one FIFO to its end in a thread of its own, all the time."""

    path: str
    data: bytearray = field(default_factory=bytearray)

    def __post_init__(self) -> None:
        # A daemon thread: after a failure nobody ends the stream it waits for.
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


@pytest.mark.rule("io.open.7")
def test_three_restarts_lose_no_line_and_no_status(containerd: Containerd, host: Host) -> None:
    """kill -9 of the daemon, 3 times: same pids, every line once, statuses right (design 4)."""
    _restarts(containerd, host, 3)


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_twenty_restarts_lose_no_line_and_no_status(containerd: Containerd, host: Host) -> None:
    """The same, 20 times."""
    _restarts(containerd, host, 20)


def _restarts(containerd: Containerd, host: Host, times: int) -> None:
    go = Path(host.folder, "go")
    go.mkdir()
    logs = {name: Path(host.folder, f"{name}.log") for name in FILES}
    _start_all(containerd, go, logs)
    with _readers(containerd) as readers:
        pids = {name: task.pid for name, task in containerd.tasks().items()}
        shims = {name: containerd.shim_pid(name) for name in pids}
        assert sorted(pids) == sorted((*FILES, *PIPES))
        began = time.monotonic()
        (go / "go").touch()
        for restart in range(times):
            _grown(logs, readers, running=_running(containerd))
            containerd.kill()
            if restart == times // 2:
                (go / f"stop-{ENDS_ALONE}").touch()
                until(readers[ENDS_ALONE].ended, f"the end of {ENDS_ALONE}'s output")
            containerd.start()
            tasks = containerd.tasks()
            assert {name: task.pid for name, task in tasks.items()} == pids
            assert {name: containerd.shim_pid(name) for name in pids} == shims
            for name, task in tasks.items():
                gone = name == ENDS_ALONE and restart >= times // 2
                assert task.status == ("STOPPED" if gone else "RUNNING"), name
        _grown(logs, readers, running=_running(containerd))
        lasted_s = time.monotonic() - began
        statuses = _end_all(containerd, go)

    assert statuses == STATUS
    for name in (*FILES, *PIPES):
        text = logs[name].read_bytes() if name in logs else bytes(readers[name].data)
        lines = text.decode().splitlines()
        assert lines == [f"line {i + 1}" for i in range(len(lines))], name
        if name != ENDS_ALONE:
            # The machine may be slow; a stalled container would show far fewer.
            assert len(lines) > lasted_s * LINES_PER_S / 4, name


def _start_all(containerd: Containerd, go: Path, logs: dict[str, Path]) -> None:
    mount = f"type=bind,src={go},dst=/go,options=rbind:ro"
    for name in (*FILES, *PIPES):
        to = (
            ("--log-uri", f"file://{logs[name]}")
            if name in logs
            else ("--fifo-dir", containerd.fifos)
        )
        script = COUNTING.format(name=name, status=STATUS[name])
        run = ("run", "--runtime", RUNTIME, "-d", *to, "--mount", mount)
        containerd.ctr(*run, IMAGE, name, "sh", "-c", script)


@contextmanager
def _readers(containerd: Containerd) -> Iterator[dict[str, Reader]]:
    """Read the three FIFOs; ctr, which made them, is gone by now."""
    readers = {}
    for name in PIPES:
        (path,) = glob.glob(f"{containerd.fifos}/*/{name}-stdout")
        readers[name] = Reader(path)
    yield readers
    for reader in readers.values():
        reader.join()


def _running(containerd: Containerd) -> set[str]:
    return {name for name, task in containerd.tasks().items() if task.status == "RUNNING"}


def _grown(logs: dict[str, Path], readers: dict[str, Reader], *, running: set[str]) -> None:
    """Wait until every running container has written some more."""

    def size(name: str) -> int:
        return logs[name].stat().st_size if name in logs else len(readers[name].data)

    before = {name: size(name) for name in running}
    until(
        lambda: all(size(name) > before[name] + 300 for name in running),
        "all containers to write on",
    )


def _end_all(containerd: Containerd, go: Path) -> dict[str, int]:
    """End the four that still run, each in another way; return what `ctr task rm` says of all."""
    for name in FILES:
        (go / f"stop-{name}").touch()
    containerd.ctr("task", "kill", "-s", "SIGKILL", "p1")
    containerd.ctr("task", "kill", "-s", "SIGTERM", "p2")
    statuses = {}
    for name in (*FILES, *PIPES):
        containerd.wait_status(name, "STOPPED")
        statuses[name] = containerd.remove_task(name)
    return statuses
