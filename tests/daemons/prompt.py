"""A shell whose clients talk to the daemons of a test, without an option that says so."""

import os
import subprocess
from collections.abc import Mapping, Sequence
from typing import Final

from shimv2.shimctl.testbed.programs import ended
from tests.support.terminal import Terminal

_LIMIT_S: Final = 60.0


class Prompt:
    """Runs commands as they are printed: where the daemons are is in the environment."""

    def __init__(
        self, env: Mapping[str, str], *, path: Sequence[str], within: Sequence[str] = ()
    ) -> None:
        """`path`: where programs are looked for first; `within`: what runs all that is typed."""
        self._within = within
        self._env = {**env, "PATH": ":".join((*path, os.environ["PATH"]))}

    def run(
        self, *command: str, check: bool = True, stdin: str = "", timeout_s: float = _LIMIT_S
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command, or one string as a shell's line; no terminal.

        Raises:
            AssertionError: it failed and `check` is set; says what it printed.
        """
        done = ended(
            self.command(*command),
            label=str(command),
            check=check,
            stdin=stdin.encode(),
            timeout_s=timeout_s,
        )
        out, err = done.stdout.decode(), done.stderr.decode()
        return subprocess.CompletedProcess(done.args, done.returncode, out, err)

    def terminal(self, *command: str, columns: int = 80, rows: int = 24) -> Terminal:
        """Start a command, or a shell's line, in a terminal of its own.  The caller ends it."""
        return Terminal(self.command(*command), columns=columns, rows=rows)

    def command(self, *command: str) -> list[str]:
        words = command if len(command) > 1 else ("sh", "-c", *command)
        return [
            *self._within,
            "env",
            *(f"{name}={value}" for name, value in self._env.items()),
            *words,
        ]
