"""A runtime that runs runc, and is slow, fails or dies at a chosen moment."""

import contextlib
import os
from pathlib import Path


class Faults:
    """A runtime in front of runc: it runs the file `<verb>.before` or `<verb>.after` once.

    `$PID` is the pid that runc wrote, if it wrote one; `$@` are the runtime's arguments.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder, "faults")
        self.folder.mkdir()
        self.binary = str(self.folder / "faulty-runc")
        script = f"""#!/bin/sh
for ARG; do
    [ "$PREVIOUS" = --pid-file ] && PIDFILE=$ARG
    case $ARG in
        create|start|exec|kill|delete|pause|resume|update|checkpoint|restore) VERB=${{VERB:-$ARG}};;
    esac
    PREVIOUS=$ARG
done
at() {{
    STEP={self.folder}/$VERB.$1
    shift
    if mv $STEP $STEP.done 2>/dev/null; then
        PID=$(cat "$PIDFILE" 2>/dev/null)
        . $STEP.done
    fi
}}
at before "$@"
runc "$@"
STATUS=$?
at after "$@"
exit $STATUS
"""
        Path(self.binary).write_text(script)
        os.chmod(self.binary, 0o755)

    def at(self, step: str, script: str) -> None:
        """Run `script` at the next `step`, e.g. `create.after`."""
        whole = self.folder / f"{step}.new"
        whole.write_text(script + "\n")
        whole.rename(self.folder / step)

    def hold(self, step: str) -> None:
        """Hold the runtime at the next `step` until `release`."""
        os.mkfifo(self.folder / "gate")
        self.at(step, f"read LINE < {self.folder}/gate")

    def held(self, step: str) -> bool:
        return (self.folder / f"{step}.done").exists()

    def release(self) -> None:
        fd = os.open(self.folder / "gate", os.O_RDWR | os.O_NONBLOCK)
        os.write(fd, b"go\n")
        self._gate = fd

    def close(self) -> None:
        with contextlib.suppress(AttributeError):
            os.close(self._gate)
