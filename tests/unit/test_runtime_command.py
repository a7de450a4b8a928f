"""Looking up a runtime, its output, and its pid file."""

import os
import stat
from pathlib import Path

import pytest

from shimv2.runtime import command
from shimv2.runtime.interface import read_pid_file
from shimv2.values.errors import Refused

# --- the pid file ------------------------------------------------------------------------------


def test_pid_is_read_from_its_file(tmp_path: Path) -> None:
    """Decimal, without a newline."""
    (tmp_path / "init.pid").write_text("4711")

    assert read_pid_file(str(tmp_path / "init.pid")) == 4711


def test_missing_pid_file_is_reported_as_the_reference_does() -> None:
    """The text is Go's for a missing file."""
    with pytest.raises(Refused) as caught:
        read_pid_file("/no/init.pid")

    assert str(caught.value) == (
        "failed to retrieve OCI runtime container pid: open /no/init.pid: no such file or directory"
    )


@pytest.mark.parametrize("text", ["", "0", "-1", "12x", "1 2", "\n", "٣", "\x00"])
def test_pid_file_without_a_pid_is_refused(tmp_path: Path, text: str) -> None:
    """Signals to zero and negative numbers would go to process groups."""
    (tmp_path / "e1.pid").write_text(text)
    with pytest.raises(Refused, match=r"OCI runtime exec pid: strconv\.Atoi: "):
        read_pid_file(str(tmp_path / "e1.pid"), whose="exec")


# --- finding the program -----------------------------------------------------------------------


def test_program_is_found_as_go_finds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """exec.LookPath: the first file with an x bit; folders and other files are skipped."""
    (tmp_path / "a" / "runc").mkdir(parents=True)
    for name, mode in {"b": 0o644, "c": 0o755}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "runc").write_text("#!/bin/sh\n")
        (tmp_path / name / "runc").chmod(mode)
    path = ":".join(str(tmp_path / name) for name in ("none", "a", "b", "c"))
    monkeypatch.setenv("PATH", path)

    assert command.look_up("runc") == str(tmp_path / "c" / "runc")
    assert command.look_up("./runc") == "./runc"


def test_program_beside_the_working_directory_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The working directory is a bundle: no file in it may be used as the runtime."""
    program = tmp_path / "runc"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(command.CommandFailed) as caught:
        command.look_up("runc")

    what = "cannot run executable found relative to current directory"
    assert str(caught.value) == f'exec: "runc": {what}'


def test_memory_file_is_read_from_its_start() -> None:
    fd = command.memory_file("x", b"content")
    try:
        assert os.read(fd, 100) == b"content"
        assert stat.S_ISREG(os.fstat(fd).st_mode)
        assert not os.get_inheritable(fd)
    finally:
        os.close(fd)


def test_output_without_end_is_bounded_in_memory() -> None:
    """A runtime that writes without end must not use up the memory."""
    fd = command.memory_file("x")
    writer = os.dup(fd)  # as a child's: the offset is shared
    try:
        for number in range(40):
            os.write(writer, b"%06d\n" % number * 20_000)
            command.trim(fd)
            assert os.fstat(fd).st_size <= 2_000_000
        os.write(writer, b"the end")
        text = command.output(fd)
    finally:
        os.close(fd)
        os.close(writer)

    assert text.endswith("000039\nthe end")
    assert "\0" not in text
    assert len(text) == command.OUTPUT_LIMIT_BYTES
