"""The properties of a process in /proc."""

import os
import shutil
from pathlib import Path

import pytest

from shimv2.kernel import proc
from shimv2.kernel.spawn import spawn
from shimv2.shimctl.testbed.until import until

GONE = 2**22 + 1  # above any pid_max


def test_name_with_parentheses_and_spaces_shifts_no_field(tmp_path: Path) -> None:
    """A program chooses its name: `a) R 1 (b` must not be read as state and parent."""
    program = tmp_path / "a) R 1 (b"
    shutil.copy("/bin/sleep", program)
    before = proc.start_time_of(os.getpid())
    child = spawn([str(program), "60"])
    try:
        # vfork(2) returns while execve(2) still runs: the kernel sets the name a moment later.
        comm = Path(f"/proc/{child}/comm")
        until(lambda: comm.read_text(encoding="ascii") == "a) R 1 (b\n", "the name")
        assert proc.parent_of(child) == os.getpid()
        born = proc.start_time_of(child)
        assert born is not None
        assert before is not None
        assert born >= before
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


def test_process_that_was_reaped_has_neither_parent_nor_start_time() -> None:
    """The start time is None, without an exception, and so differs from every recorded one."""
    assert proc.start_time_of(GONE) is None
    with pytest.raises(FileNotFoundError):
        proc.parent_of(GONE)


def test_init_of_a_namespace_is_its_number_1() -> None:
    """Neither this process nor one that has ended is one; process 1 is."""
    assert proc.is_namespace_init(1)
    assert not proc.is_namespace_init(os.getpid())
    assert not proc.is_namespace_init(GONE)
