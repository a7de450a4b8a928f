"""Exit statuses that outlive the shim."""

import contextlib
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shimv2.kernel.proc import start_time_of
from shimv2.task.exits import ExitRecord, ExitRecords, recorded_exit
from shimv2.values.model import Exit

AT_NS = 1_795_475_259_000_000_007
ENDED = Exit(pid=4_000_000, status=3, at_ns=AT_NS)  # beyond the highest pid: no process has it


@contextlib.contextmanager
def records(bundle: Path, container_id: str = "c1") -> Iterator[ExitRecords]:
    opened = ExitRecords(str(bundle), container_id)
    try:
        yield opened
    finally:
        opened.close()


def written(bundle: Path, name: str = "init.json") -> dict[str, object]:
    content: dict[str, object] = json.loads((bundle / "exits" / name).read_bytes())
    return content


def recorded(bundle: Path, *, pid: int = ENDED.pid) -> Exit | None:
    return recorded_exit(str(bundle), container_id="c1", init_pid=pid)


def test_record_has_all_that_is_known(tmp_path: Path) -> None:
    """Id, pid, start time, code, signal, time, oom; for root only."""
    with records(tmp_path) as open_records:
        open_records.write_init(Exit(7, 137, AT_NS), start_time=99, oom=True)

    assert written(tmp_path) == {
        "id": "c1",
        "pid": 7,
        "start_time": 99,
        "code": 137,
        "signal": 9,
        "time": "2026-11-23T23:07:39.000000007Z",
        "oom": True,
    }
    assert stat.S_IMODE((tmp_path / "exits").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "exits" / "init.json").stat().st_mode) == 0o600


def test_recorded_exit_is_the_published_one(tmp_path: Path) -> None:
    """`delete` after a crash reports it, to the nanosecond."""
    with records(tmp_path) as open_records:
        open_records.write_init(ENDED, start_time=12)

    assert recorded(tmp_path) == ENDED


def test_record_of_another_pid_is_not_believed(tmp_path: Path) -> None:
    """A bundle used again has a new init.pid."""
    with records(tmp_path) as open_records:
        open_records.write_init(ENDED)

    assert recorded(tmp_path, pid=ENDED.pid + 1) is None


def test_record_of_another_container_is_not_believed(tmp_path: Path) -> None:
    with records(tmp_path, "c2") as open_records:
        open_records.write_init(ENDED)

    assert recorded(tmp_path) is None


def test_record_of_a_process_that_runs_is_not_believed(tmp_path: Path) -> None:
    """pid and start time identify one process, and a running process has no exit."""
    me = os.getpid()
    with records(tmp_path) as open_records:
        open_records.write_init(Exit(me, 0, AT_NS), start_time=start_time_of(me))

    assert recorded(tmp_path, pid=me) is None


@pytest.mark.parametrize("start_time", [1, None])
def test_record_is_believed_though_a_stranger_has_the_pid(
    tmp_path: Path, start_time: int | None
) -> None:
    """A recycled pid, which has another start time, is another process."""
    me = os.getpid()
    with records(tmp_path) as open_records:
        open_records.write_init(Exit(me, 5, AT_NS), start_time=start_time)

    assert recorded(tmp_path, pid=me) == Exit(me, 5, AT_NS)


def test_record_of_an_earlier_container_is_removed_with_the_next_create(tmp_path: Path) -> None:
    """The new init may get the pid of the old one."""
    with records(tmp_path) as open_records:
        open_records.write_init(ENDED)
    with records(tmp_path):
        pass

    assert recorded(tmp_path) is None


def test_record_is_replaced_whole(tmp_path: Path) -> None:
    """No reader gets a partial file, and no temporary file is left."""
    with records(tmp_path) as open_records:
        open_records.write_init(Exit(8, 1, AT_NS))
        (tmp_path / "exits" / ".init.json.new").write_text("of a shim that died while writing")
        open_records.write_init(ENDED)

    assert recorded(tmp_path) == ENDED
    assert os.listdir(tmp_path / "exits") == ["init.json"]


@pytest.mark.parametrize("name", ["exits", "exits/init.json", "exits/.init.json.new"])
def test_links_are_not_followed(tmp_path: Path, name: str) -> None:
    """A user that can write the bundle must not make the shim write elsewhere."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("untouched")
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    with records(bundle) as open_records:
        if "/" in name:
            (bundle / "exits").mkdir()
        (bundle / name).symlink_to(outside if name == "exits" else outside / "file")
        open_records.write_init(ENDED)

    assert (outside / "file").read_text() == "untouched"
    assert os.listdir(outside) == ["file"]


def test_folder_that_is_a_link_is_no_obstacle_for_create(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A record is useful after a crash only, and never a reason to refuse a container."""
    (tmp_path / "exits").symlink_to("/tmp")
    with records(tmp_path) as open_records:
        open_records.write_init(ENDED)

    assert "could not be removed" in caplog.text
    assert recorded(tmp_path) is None


def test_bundle_moved_away_still_gets_its_records(tmp_path: Path) -> None:
    """Records are written to the folder from which the container was made, even if it is
    renamed."""
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    with records(bundle) as open_records:
        bundle.rename(tmp_path / "moved")
        bundle.mkdir()
        open_records.write_init(ENDED)

    assert recorded(tmp_path / "moved") == ENDED
    assert recorded(bundle) is None


@pytest.mark.root
def test_full_disk_is_logged_and_costs_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """This is never fatal; no partial file is left."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = os.system(f"mount -t tmpfs -o size=16k,nr_inodes=8 tmpfs {disk}")
    assert mounted == 0
    try:
        with records(disk) as open_records:
            with contextlib.suppress(OSError), open(disk / "fill", "wb", buffering=0) as file:
                while file.write(bytes(4096)):
                    pass
            open_records.write_init(ENDED)
            left = os.listdir(disk / "exits")
    finally:
        os.system(f"umount {disk}")

    assert left == []
    assert "could not be recorded" in caplog.text
    assert "no space left on device" in caplog.text


def test_bundle_removed_meanwhile_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A daemon may remove the bundle before the last exit."""
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    with records(bundle) as open_records:
        bundle.rmdir()
        open_records.write_init(ENDED)

    assert "no such file or directory" in caplog.text


def test_closed_records_ignore_what_comes_late(tmp_path: Path) -> None:
    """A container deleted while created: its process exits afterwards, and its fd may be reused."""
    with records(tmp_path) as open_records:
        open_records.close()
        open_records.write_init(ENDED)

    assert os.listdir(tmp_path) == []


def test_missing_bundle_is_an_error_of_create() -> None:
    with pytest.raises(FileNotFoundError):
        ExitRecords("/no/such/bundle", "c1")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"[" * 5000,
        b'{"id":"c1"}',
        b'{"id":"c1","pid":0,"start_time":1,"code":0,"time":"2026-11-23T23:07:39.000000007Z","oom":false}',
        b'{"id":"c1","pid":4000000,"start_time":1,"code":256,"time":"2026-11-23T23:07:39.000000007Z","oom":false}',
        b'{"id":"c1","pid":4000000,"start_time":1,"code":0,"time":"yesterday","oom":false}',
        b'{"id":"c1","pid":4000000,"start_time":1,"code":0,"time":"2026-13-23T23:07:39.000000007Z","oom":false}',
    ],
)  # fmt: skip
def test_broken_record_is_not_believed(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """`delete` never fails because of a record: it replies as without one."""
    (tmp_path / "exits").mkdir()
    (tmp_path / "exits" / "init.json").write_bytes(content)

    assert recorded(tmp_path) is None
    assert "cannot be read" in caplog.text


def test_record_that_is_a_fifo_does_not_hang_delete(tmp_path: Path) -> None:
    """containerd kills a `delete` after five seconds."""
    (tmp_path / "exits").mkdir()
    os.mkfifo(tmp_path / "exits" / "init.json")

    assert recorded(tmp_path) is None


def test_missing_bundle_has_no_record() -> None:
    """`delete` works without a bundle, too."""
    assert recorded_exit("/no/such/bundle", container_id="c1", init_pid=1) is None


@given(
    st.text(max_size=20),
    st.integers(1, 2**22),
    st.none() | st.integers(0, 2**63),
    st.integers(0, 255),
    st.integers(0, 4_000_000_000_000_000_000),
    st.booleans(),
)
def test_record_survives_its_text_form(
    id_: str, pid: int, start_time: int | None, code: int, at_ns: int, oom: bool
) -> None:
    record = ExitRecord(id_, pid, start_time, code, at_ns, oom)

    assert ExitRecord.from_json(record.to_json()) == record
