"""A runtime made of a few lines of shell, in its own folder, and a loop with a reaper."""

import asyncio
import os
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import pytest

from shimv2.kernel.reaper import Reaper
from shimv2.runtime.runc import Runc
from shimv2.values.errors import RuntimeFailed
from shimv2.values.model import CheckpointSpec
from tests.support.aio import LoopName, run

T = TypeVar("T")
Verb = Callable[[Runc], Coroutine[Any, Any, None]]
LIMIT_S: Final = 20.0
PROCESS: Final[Mapping[str, object]] = {"args": ["sh"], "env": ["ä=\ud800"], "terminal": False}


class FakeRuntime:
    """Writes the script, and runs verbs of a `Runc` that calls it.

    The script finds `$VERB` (the first word after the global arguments), `$LOG` and `$HERE` (the
    folder) set; the test reads files that it writes to `$HERE` with `saw`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bundle = folder / "bundle"
        self.bundle.mkdir()
        self.binary = str(folder / "fakerunc")
        self.root = str(folder / "root")
        self.log = self.bundle / "log.json"

    def script(self, body: str) -> None:
        path = Path(self.binary)
        head = f'#!/bin/sh\nHERE={self.folder}\nROOT="$2" LOG="$4"\n'
        skip = 'for ARG; do shift; set -- "$@" "$ARG"; done\nVERB="$7"\n'
        path.write_text(head + skip + body)
        path.chmod(0o755)

    def saw(self, name: str) -> str:
        return (self.folder / name).read_text()

    def has_seen(self, name: str) -> bool:
        return (self.folder / name).exists()

    def runc(self, reaper: Reaper, **options: Any) -> Runc:
        given = {"binary": self.binary, "root": self.root, "log_path": str(self.log)}
        return Runc(reaper=reaper, **{**given, **options})

    def run(
        self,
        verb: Callable[[Runc], Coroutine[Any, Any, T]],
        *,
        loop: LoopName = "shim",
        timeout_s: float = 20.0,
        **options: Any,
    ) -> T:
        """Run `verb` on a loop with a reaper; the options are those of `Runc`."""

        async def main() -> T:
            reaper = Reaper(asyncio.get_running_loop())
            reaper.start()
            try:
                return await verb(self.runc(reaper, **options))
            finally:
                reaper.stop()

        return run(main(), timeout_s, loop=loop)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


# --- each verb, with arbitrary arguments ---------------------------------------


def create(runc: Runc, **options: Any) -> Coroutine[Any, Any, None]:
    given: dict[str, Any] = {"bundle": "/b", "pid_file": "/b/init.pid", "fds": {}}
    return runc.create("c1", **{**given, "spawned": lambda: None, "timeout_s": LIMIT_S, **options})


def exec_(runc: Runc, **options: Any) -> Coroutine[Any, Any, None]:
    given: dict[str, Any] = {"process": PROCESS, "pid_file": "/b/e1.pid", "fds": {}}
    return runc.exec("c1", **{**given, "spawned": lambda: None, "timeout_s": LIMIT_S, **options})


def checkpoint(runc: Runc, **options: Any) -> Coroutine[Any, Any, None]:
    given = {"work_path": "/w", "timeout_s": LIMIT_S, **options}
    return runc.checkpoint("c1", given.pop("spec", CheckpointSpec("/i")), **given)


def restore(runc: Runc, **options: Any) -> Coroutine[Any, Any, None]:
    given: dict[str, Any] = {"image_path": "/i", "work_path": "/w", "bundle": "/b", "fds": {}}
    given |= {"pid_file": "/b/init.pid", "spawned": lambda: None, "timeout_s": LIMIT_S}
    return runc.restore("c1", **{**given, **options})


VERBS: Final[dict[str, Verb]] = {
    "create": create,
    "start": lambda runc: runc.start("c1", timeout_s=LIMIT_S),
    "exec": exec_,
    "kill": lambda runc: runc.kill("c1", 9, timeout_s=LIMIT_S),
    "kill-all": lambda runc: runc.kill("c1", 9, all=True, timeout_s=LIMIT_S),
    "delete": lambda runc: runc.delete("c1", timeout_s=LIMIT_S),
    "delete-force": lambda runc: runc.delete("c1", force=True, timeout_s=LIMIT_S),
    "pause": lambda runc: runc.pause("c1", timeout_s=LIMIT_S),
    "resume": lambda runc: runc.resume("c1", timeout_s=LIMIT_S),
    "update": lambda runc: runc.update("c1", resources={"cpu": {}}, timeout_s=LIMIT_S),
    "checkpoint": checkpoint,
    "restore": restore,
}
PREFIXES: Final = {
    "create": "OCI runtime create failed",
    "start": "OCI runtime start failed",
    "exec": "OCI runtime exec failed",
    "delete": "failed to delete task",
    "pause": "OCI runtime pause failed",
    "resume": "OCI runtime resume failed",
    "restore": "OCI runtime restore failed",
}


def failure(fake: FakeRuntime, verb: Verb, **options: Any) -> str:
    """Run a verb that fails; return the error that a client gets."""
    with pytest.raises(RuntimeFailed) as caught:
        fake.run(verb, **options)
    return str(caught.value)
