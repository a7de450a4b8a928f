"""Each system call has its effect, and a failure is an OSError with its path."""

import os
import signal
import threading
from pathlib import Path

import pytest

from shimv2.kernel import linux
from tests.support.children import status_of
from tests.support.kernel import (
    is_child_subreaper,
    is_dumpable,
    parent_death_signal,
    pipe_capacity_bytes,
)


def test_subreaper_is_set_and_read_back() -> None:
    """The shim gets orphans only while it is a subreaper."""
    before = is_child_subreaper()
    linux.set_child_subreaper()
    assert is_child_subreaper()
    linux.set_child_subreaper(False)
    assert not is_child_subreaper()
    linux.set_child_subreaper(before)


def test_parent_death_signal_is_set_and_read_back() -> None:
    """0 removes it again."""
    before = parent_death_signal()
    linux.set_parent_death_signal(signal.SIGUSR1)
    assert parent_death_signal() == signal.SIGUSR1
    linux.set_parent_death_signal(before)
    assert parent_death_signal() == before


def test_dumpable_is_set_and_read_back() -> None:
    """The last step of a root shim's start-up: /proc/self belongs to root then."""
    before = is_dumpable()
    linux.set_dumpable(False)
    assert not is_dumpable()
    linux.set_dumpable(before)
    assert is_dumpable() == before


def test_refused_call_is_an_error_with_errno_and_path(tmp_path: Path) -> None:
    """The code that converts the error needs both."""
    with pytest.raises(OSError, match="Invalid argument") as caught:
        linux.prctl(-1)
    assert caught.value.filename is None
    gone = str(tmp_path / "gone")
    with pytest.raises((FileNotFoundError, PermissionError)) as caught:
        linux.mount("none", gone, "tmpfs", 0, "")
    assert caught.value.filename == gone
    with pytest.raises((FileNotFoundError, PermissionError)) as caught:
        linux.unmount(gone)
    assert caught.value.filename == gone
    with pytest.raises(FileNotFoundError) as caught:
        linux.filesystem_type(gone)
    assert caught.value.filename == gone
    with pytest.raises(OSError, match="Function not implemented"):
        linux.syscall(100_000)


def test_strings_with_a_nul_are_refused() -> None:
    """The kernel would use another path than the one that was checked."""
    for call in (
        lambda: linux.mount("a\0b", "/x", "tmpfs", 0, ""),
        lambda: linux.mount("a", "/x", "tmpfs", 0, "size=1\0"),
        lambda: linux.unmount("/x\0"),
        lambda: linux.filesystem_type("/\0"),
    ):
        with pytest.raises(OSError, match="Invalid argument"):
            call()


def test_unshared_working_directory_belongs_to_the_thread(tmp_path: Path) -> None:
    """CLONE_FS: a thread of a mount batch may change directory without moving the shim."""
    before, seen = os.getcwd(), list[str]()

    def work() -> None:
        linux.unshare(linux.CLONE_FS)
        os.chdir(tmp_path)
        seen.append(os.getcwd())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()

    assert seen == [str(tmp_path)]
    assert os.getcwd() == before


def test_filesystem_type_distinguishes_proc_from_others() -> None:
    """The magic numbers are those of statfs(2)."""
    assert linux.filesystem_type("/proc") == 0x9FA0
    assert linux.filesystem_type("/proc/self/status") == 0x9FA0
    assert linux.filesystem_type("/") != 0x9FA0


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("plain", "etc/inside"),
        ("/plain", "etc/inside"),
        ("absolute", "etc"),
        ("climbing", "etc"),
        ("../../../etc", "etc"),
        ("dir/../../etc/passwd", None),
        ("loop", None),
        ("gone", None),
    ],
)
def test_path_opened_in_a_root_stays_in_it(tmp_path: Path, path: str, found: str | None) -> None:
    """A rootfs comes from an untrusted image: its symlinks must not lead to the host's files."""
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "dir").mkdir()
    (root / "etc/inside").touch()
    (root / "plain").symlink_to("etc/inside")
    (root / "absolute").symlink_to("/etc")
    (root / "climbing").symlink_to("../../../../../../etc")
    (root / "loop").symlink_to("loop")
    root_fd = os.open(root, os.O_PATH)
    try:
        if found is None:
            with pytest.raises(OSError, match=path) as caught:
                linux.open_in_root(root_fd, path, os.O_PATH)
            assert caught.value.filename == path
        else:
            fd = linux.open_in_root(root_fd, path, os.O_PATH)
            assert os.readlink(f"/proc/self/fd/{fd}") == str(root / found)
            assert not os.get_inheritable(fd)
            os.close(fd)
    finally:
        os.close(root_fd)


def test_duplicate_lands_at_or_above_the_lowest_number() -> None:
    """Above the numbers that a child uses, and closed on exec."""
    fd = linux.duplicate(0, 200)
    try:
        assert fd >= 200
        assert not os.get_inheritable(fd)
    finally:
        os.close(fd)


def test_splice_moves_bytes_and_distinguishes_no_data_from_the_end() -> None:
    """BlockingIOError without data or room, 0 when all writers have closed."""
    source, feed = os.pipe2(os.O_CLOEXEC)
    drain, sink = os.pipe2(os.O_CLOEXEC)
    try:
        with pytest.raises(BlockingIOError):
            linux.splice(source, sink, 100)
        os.write(feed, b"abcdef")
        assert linux.bytes_waiting(source) == 6
        assert linux.splice(source, sink, 4) == 4
        assert linux.bytes_waiting(source) == 2
        assert os.read(drain, 100) == b"abcd"
        os.read(source, 2)
        os.close(feed)
        feed = -1
        assert linux.splice(source, sink, 100) == 0
    finally:
        for fd in (source, feed, drain, sink):
            if fd >= 0:
                os.close(fd)


def test_pipe_capacity_is_what_the_kernel_made_of_it() -> None:
    """It rounds up to a power of two pages."""
    source, sink = os.pipe2(os.O_CLOEXEC)
    try:
        assert linux.set_pipe_capacity(sink, 100_000) == 131_072
        assert pipe_capacity_bytes(source) == 131_072
    finally:
        os.close(source)
        os.close(sink)


def test_status_helper_reads_this_process() -> None:
    """The table that the tests of children rely on."""
    assert status_of("self")["Pid"] == str(os.getpid())
