"""Programs of tests: clients, which run to their end, and daemons, which are killed and started."""

import re
import shlex
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from shimv2.shimctl.testbed.until import until

_SHOWN_BYTES: Final = 2000  # of the output that a failure shows
_STOP_LIMIT_S: Final = 60.0


def run_by(python: str, flags: str = "-I") -> str:
    """Return the first lines of a script that runs with the interpreter `python`.

    The kernel reads the path after `#!` up to a blank, and at most 127 bytes of the line.  If the
    path does not fit, sh executes the interpreter (as in tools/script.sh).
    """
    first = f"#!{python} {flags}"
    if not re.search(r"\s", python) and len(first) <= 127:
        return first
    return f"#!/bin/sh\n'''exec' {shlex.quote(python)} {flags} \"$0\" \"$@\"\n' '''"


def ended(
    command: Sequence[str],
    *,
    label: str,
    check: bool,
    stdin: bytes = b"",
    timeout_s: float,
) -> "subprocess.CompletedProcess[bytes]":
    """Run a client to its end.

    Raises:
        AssertionError: it failed and `check` is set; the text has its output.
    """
    done = subprocess.run(command, check=False, input=stdin, capture_output=True, timeout=timeout_s)
    if check and done.returncode:
        shown = (done.stdout[-_SHOWN_BYTES:] + done.stderr[-_SHOWN_BYTES:]).decode(errors="replace")
        raise AssertionError(f"{label}: status {done.returncode}: {shown}")
    return done


class Daemon:
    """One process of a daemon at a time.  Its output is appended to the file `log`."""

    def __init__(self, name: str, log: str, env: Mapping[str, str]) -> None:
        self.log = log
        self._name = name
        self._env = env
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None, f"{self._name} is not running"
        return self._process.pid

    def start(self, command: Sequence[str], answers: Callable[[], bool], *, limit_s: float) -> None:
        """Start it and wait until it answers.

        Raises:
            AssertionError: it does not answer; the text has its output.
        """
        assert self._process is None, f"{self._name} is running already"
        with open(self.log, "ab") as log:
            process = self._process = subprocess.Popen(
                command,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

        def ready() -> bool:
            if process.poll() is not None:
                self._process = None
                tail = Path(self.log).read_bytes()[-_SHOWN_BYTES:].decode(errors="replace")
                raise AssertionError(f"{self._name} did not start: {tail}")
            return answers()

        until(ready, f"{self._name} to answer, see {self.log}", limit_s=limit_s)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Signal it and wait for its exit.  Does nothing if it does not run."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(number)
            process.wait(timeout=_STOP_LIMIT_S)
