"""A shell whose clients use the daemons of a test without an option."""

import os
import subprocess
from collections.abc import Mapping, Sequence
from typing import Final

from shimv2.shimctl.testbed.programs import ended
from tests.support.terminal import Terminal

_LIMIT_S: Final = 60.0


class Prompt:
    """Runs commands as the pages print them: the environment has the addresses of the daemons."""

    def __init__(
        self, env: Mapping[str, str], *, path: Sequence[str], within: Sequence[str] = ()
    ) -> None:
        """`path` is the first folder of PATH; `within` is a command that runs all others."""
        self._within = within
        self._env = {**env, "PATH": ":".join((*path, os.environ["PATH"]))}

    def run(
        self, *command: str, check: bool = True, stdin: str = "", timeout_s: float = _LIMIT_S
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command, or one string as a shell's line; no terminal.

        Raises:
            AssertionError: it failed and `check` is set; the text has its output.
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
