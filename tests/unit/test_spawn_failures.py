"""A child that cannot be made is an error that names its cause, and leaves nothing behind."""

import os
import resource
import signal
from pathlib import Path
from typing import Any

import pytest

from shimv2.kernel import spawn
from tests.support.children import wait_for

SLEEP = ("/bin/sleep", "600")
SHELL = "/bin/sh"


@pytest.fixture(params=[spawn.with_library, spawn.with_fork], autouse=True)
def method(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test of this file runs with both ways to make a child."""
    if request.param is spawn.with_library and not spawn.HAS_LIBRARY:
        pytest.skip("the spawn library is not built: no C compiler")
    monkeypatch.setattr(spawn, "method", request.param)


def assert_nothing_left(fds: set[str]) -> None:
    assert set(os.listdir("/proc/self/fd")) == fds
    with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:
        assert file.read() == ""


def test_failed_exec_is_an_error_with_its_file_and_leaves_nothing(tmp_path: Path) -> None:
    """The caller turns it into Go's `fork/exec P: ...`; no child and no fd is left."""
    text = tmp_path / "no-shebang"
    text.write_text("just text")
    text.chmod(0o755)
    plain = tmp_path / "no-x"
    plain.write_text("#!/bin/sh")
    before = set(os.listdir("/proc/self/fd"))

    for path, kind in [
        (tmp_path / "gone", FileNotFoundError),
        (plain, PermissionError),
        (tmp_path, PermissionError),
        (plain / "x", NotADirectoryError),
        (text, OSError),
    ]:
        with pytest.raises(kind) as caught:
            spawn.spawn(["name", "arg"], executable=str(path))
        assert caught.value.filename == str(path)
    assert caught.value.strerror == "Exec format error"
    assert_nothing_left(before)


def test_failure_before_the_exec_names_what_failed(tmp_path: Path) -> None:
    """A missing working directory, a closed fd, arguments that are too long."""
    before = set(os.listdir("/proc/self/fd"))

    with pytest.raises(FileNotFoundError) as caught:
        spawn.spawn(SLEEP, cwd=str(tmp_path / "gone"))
    assert caught.value.filename == str(tmp_path / "gone")
    with pytest.raises(OSError, match=r"Bad file descriptor: 'fds \{1: 999\}'"):
        spawn.spawn(SLEEP, fds={1: 999})
    with pytest.raises(OSError, match="Argument list too long"):
        spawn.spawn([*SLEEP, "x" * 200_000])
    assert_nothing_left(before)


def test_fd_limit_is_an_answer_and_not_a_crash() -> None:
    """Without free fds the caller gets an error; a later call works."""
    before = set(os.listdir("/proc/self/fd"))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, before)), hard))
    try:
        with pytest.raises(OSError, match=r"Too many open files|Invalid argument"):
            spawn.spawn(SLEEP, fds={500: 0})
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert_nothing_left(before)
    assert wait_for(spawn.spawn(["/bin/true"])) == 0


def test_arguments_no_program_can_get_are_refused() -> None:
    """A NUL would cut a string silently, and the container's configuration has such strings."""
    before = set(os.listdir("/proc/self/fd"))
    wrong: list[tuple[list[str], dict[str, Any]]] = [
        ([], {}),
        (["/bin/true"], {"env": {"A=B": ""}}),
        (["/bin/true"], {"env": {"": ""}}),
        (["/bin/true"], {"fds": {1: -1}}),
        (["/bin/true"], {"fds": {-1: 1}}),
    ]
    for argv, options in wrong:
        with pytest.raises(ValueError, match=r"argv|name|negative"):
            spawn.spawn(argv, **options)
    wrong = [
        (["/bin/true", "a\0b"], {}),
        (["/bin/true"], {"executable": "/bin/true\0"}),
        (["/bin/true"], {"cwd": "/\0"}),
        (["/bin/true"], {"env": {"A": "\0"}}),
    ]
    for argv, options in wrong:
        with pytest.raises(OSError, match="Invalid argument"):
            spawn.spawn(argv, **options)
    assert_nothing_left(before)


def test_exit_status_of_a_program_is_its_own() -> None:
    """127 after a successful exec is the program's own status, not a failure of exec."""
    assert wait_for(spawn.spawn([SHELL, "-c", "exit 127"])) == 127
    assert wait_for(spawn.spawn([SHELL, "-c", "kill -SEGV $$"])) == 128 + signal.SIGSEGV
