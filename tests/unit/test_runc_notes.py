"""What the shim reads in a runtime's state files of a container."""

import asyncio
import sys
from pathlib import Path

import pytest

from shimv2.kernel.reaper import Reaper
from shimv2.runtime.command import is_compiled
from shimv2.runtime.runc import Runc


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("state.json", '{"id": "c1", "init_process_pid": 42}', True),  # runc
        ("status", '{"pid": 42, "bundle": "/b"}', True),  # crun
        ("state.json", '{"init_process_pid": 41}', False),
        ("state.json", '{"init_process_pid": "42"}', False),
        ("state.json", '{"pid": 42}', False),
        ("state.json", "[42]", False),
        ("state.json", '{"init_proc', False),
        ("state.json", "", False),
        ("state", '{"init_process_pid": 42}', False),
    ],
)
def test_init_is_the_process_that_the_runtime_notes_as_such(
    tmp_path: Path, name: str, text: str, expected: bool
) -> None:
    """In the files of runc or crun; other files are ignored."""
    loop = asyncio.new_event_loop()
    loop.close()  # no process is started
    runc = Runc(reaper=Reaper(loop), binary=sys.executable, root=str(tmp_path), log_path="")
    assert not runc.has_init("c1", 42)
    Path(tmp_path, "c1").mkdir()
    assert not runc.has_init("c1", 42)
    Path(tmp_path, "c1", name).write_text(text)
    assert runc.has_init("c1", 42) is expected


@pytest.mark.parametrize(
    ("content", "mode", "expected"),
    [
        (b"\x7fELF\x02", 0o755, True),
        (b"\x7fELF\x02", 0o644, True),  # an attempt to run it shows the error
        (b"#!/bin/sh\n", 0o755, False),
        (b"", 0o755, False),
        (None, 0, False),
    ],
)
def test_program_differs_from_a_script(
    tmp_path: Path, content: bytes | None, mode: int, expected: bool
) -> None:
    """The first bytes decide; also if it is found on PATH."""
    path = tmp_path / "program"
    if content is not None:
        path.write_bytes(content)
        path.chmod(mode)
    assert is_compiled(str(path)) is expected
    assert not is_compiled("no-such-program")
    assert is_compiled("env")
