"""`make run`: shows a container, and one that survives its client, with comments.

Each step runs `shimctl` as an operator would.  If a step fails, the exit status is 1.
"""

import argparse
import contextlib
import glob
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import IO, Final

from shimv2.shimctl.bundle import mounts_below
from shimv2.shimctl.cli import default_shim

_NAMESPACE: Final = "story"
_RUNTIME_STATE: Final = "/run/containerd/runc"
_LINES: Final = 60
_BEFORE: Final = 15  # lines that the first client shows before it is killed
_HELLO: Final = 'echo "hello from pid $$ of $(uname -s) as $(id -un)"; echo "to stderr" >&2; exit 7'
# After half of its lines it waits for a signal, so that it outlasts the change of clients.
_COUNT: Final = (
    f"trap go=1 USR1; i=0; while [ $i -lt {_LINES} ]; do i=$((i+1)); echo line $i; sleep 0.02; "
    f'while [ $i = {_LINES // 2} ] && [ -z "$go" ]; do sleep 0.02; done; done; exit 5'
)


class WentWrong(Exception):
    """A step of the demonstration failed."""


class Story:
    def __init__(self, shim: str, state: str) -> None:
        self._shim = shim
        self._state = state
        self._began = time.monotonic()

    def run(self) -> None:
        self._print(f"shim      {self._shim}")
        self._one_container()
        self._takeover()
        self._nothing_left()

    def _one_container(self) -> None:
        self._title("1. A container: its output, its exit status")
        began = time.monotonic()
        done = subprocess.run(
            self._shimctl("run", "--shim", self._shim, "--", "sh", "-c", _HELLO),
            check=False,
            capture_output=True,
            text=True,
            timeout=30,
        )
        for stream, text in (("stdout", done.stdout), ("stderr", done.stderr)):
            for line in text.splitlines():
                self._print(f"{stream}    {line}")
        self._print(f"status    {done.returncode}, {_ms(began)} from start to nothing left")
        _check(done.returncode == 7, "exit status 7")
        _check(
            done.stdout.startswith("hello from pid 1 ") and done.stderr == "to stderr\n", "output"
        )

    def _takeover(self) -> None:
        self._title("2. Its daemon is killed, another one takes over")
        count = ("--id", "counter", "--", "sh", "-c", _COUNT)
        first = self._spawn("run", "--shim", self._shim, *count)
        began = time.monotonic()
        before = _lines(first.stdout, _BEFORE)
        _check(len(before) == _BEFORE, "output of the running container")
        pids = self._pids()
        self._print(
            f"client A  pid {first.pid}: container {pids[0]}, shim {pids[1]}; … {before[-1]}"
        )
        first.send_signal(signal.SIGKILL)
        before += _lines(first.stdout)
        first.wait()
        self._print(f"client A  kill -9 after {_ms(began)}; it had shown {len(before)} lines")
        _check(self._pids() == pids, "same container and shim after the kill")
        began = time.monotonic()
        second = self._spawn("attach", "counter")
        self._continue_counter()
        after = _lines(second.stdout, 1)
        self._print(
            f"client B  pid {second.pid}: container {pids[0]}, shim {pids[1]}; {after[0]} …"
        )
        self._print(f"client B  its first line came {_ms(began)} after it was started")
        after += _lines(second.stdout)
        status = second.wait(timeout=30)
        both = before + after
        self._print(f"client B  … {after[-1]}; status {status}; {len(before)} + {len(after)} lines")
        _check(both == [f"line {i}" for i in range(1, _LINES + 1)], "every line, once, in order")
        _check(status == 5, "exit status 5")

    def _nothing_left(self) -> None:
        self._title("3. Nothing is left")
        folder = os.path.join(self._state, _NAMESPACE)
        left = os.listdir(folder) + mounts_below(self._state)
        _check(not left, f"an empty state directory, but it has {left}")
        self._print("no bundle, no FIFO, no mount, no shim")

    def _pids(self) -> tuple[int, int]:
        """Return the pids of the container's init and of its shim."""
        listing = self._shimctl("list")
        table = subprocess.run(listing, check=False, capture_output=True, text=True, timeout=30)
        for line in table.stdout.splitlines():
            words = line.split()
            if words[0] == "counter" and words[2] == "RUNNING":
                return int(words[1]), int(words[4])
        msg = f"no running container in {table.stdout!r} {table.stderr!r}"
        raise WentWrong(msg)

    def _continue_counter(self) -> None:
        signalling = self._shimctl("kill", "-s", "USR1", "counter")
        done = subprocess.run(signalling, check=False, timeout=30)
        _check(done.returncode == 0, "a signal to be delivered")

    def _spawn(self, *args: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(self._shimctl(*args), stdout=subprocess.PIPE, text=True)

    def _shimctl(self, *args: str) -> list[str]:
        mine = [sys.executable, "-m", "shimv2.shimctl", "--state", self._state]
        return [*mine, "--namespace", _NAMESPACE, *args]

    def _title(self, text: str) -> None:
        self._print(f"\n{text}")

    def _print(self, text: str) -> None:
        lead = "\n" if text.startswith("\n") else ""
        print(f"{lead}{time.monotonic() - self._began:6.2f} s  {text.lstrip()}", flush=True)


def _lines(stream: IO[str] | None, count: int | None = None) -> list[str]:
    """Read that many lines, or all that come until the end."""
    assert stream is not None
    lines: list[str] = []
    while count is None or len(lines) < count:
        line = stream.readline()
        if not line:
            break
        lines.append(line.rstrip("\n"))
    return lines


def _check(held: bool, what: str) -> None:
    if not held:
        msg = f"expected {what}"
        raise WentWrong(msg)


def _ms(began: float) -> str:
    return f"{(time.monotonic() - began) * 1000:.0f} ms"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="story", description=__doc__)
    parser.add_argument("--shim", default=default_shim(), metavar="PATH")
    options = parser.parse_args(argv)
    if os.geteuid() != 0:
        print("make run: runc needs root here: run 'sudo make run'", file=sys.stderr)
        return 1
    # Below /run, not $TMPDIR: the paths of sockets and FIFOs must stay short.
    state = tempfile.mkdtemp(prefix="shimctl-", dir="/run")
    try:
        Story(options.shim, state).run()
    except (WentWrong, OSError, subprocess.SubprocessError) as error:
        print(f"\nmake run: {error}", file=sys.stderr)
        return 1
    finally:
        _clean(state)
    return 0


def _clean(state: str) -> None:
    """Remove what a failed demonstration left: containers first, then the directory."""
    folder = os.path.join(state, _NAMESPACE)
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(folder):
            if not name.startswith("."):
                mine = [sys.executable, "-m", "shimv2.shimctl", "--state", state]
                end = [*mine, "--namespace", _NAMESPACE, "delete", "--force", name]
                subprocess.run(end, check=False, timeout=30, stdout=subprocess.DEVNULL)
    shutil.rmtree(state, ignore_errors=True)
    # The namespace's own cgroups and runtime directory, which no runtime removes.
    for path in (*glob.glob(f"/sys/fs/cgroup/*/{_NAMESPACE}"), f"{_RUNTIME_STATE}/{_NAMESPACE}"):
        with contextlib.suppress(OSError):
            os.rmdir(path)


if __name__ == "__main__":
    sys.exit(main())
