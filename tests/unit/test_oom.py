"""The OOM watch on a cgroup made of ordinary files, and on a real file of cgroup v2."""

import asyncio
import logging
import os
import select
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from shimv2.cgroups.oom import FileEvents, OomWatch
from shimv2.cgroups.tree import Cgroup
from shimv2.shimctl.testbed.until import eventually, stays
from tests.support.aio import run

UNIFIED: Final = next(
    (
        Path(mount)
        for mount in ("/sys/fs/cgroup/unified", "/sys/fs/cgroup")
        if os.path.exists(f"{mount}/cgroup.procs")
    ),
    None,
)


class V1Memory:
    """A folder with the files of a v1 memory cgroup; `signal` acts as the kernel."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "memory"
        self.folder.mkdir()
        (self.folder / "cgroup.event_control").touch()
        self.count(0)
        self.cgroup = Cgroup(str(self.folder), {"memory": str(self.folder)})
        self.published = 0

    def count(self, kills: int | None) -> None:
        """Write the counter; None: no counter, as before Linux 4.13."""
        text = "oom_kill_disable 0\nunder_oom 0\n"
        text += "" if kills is None else f"oom_kill {kills}\n"
        (self.folder / "memory.oom_control.new").write_text(text)
        (self.folder / "memory.oom_control.new").rename(self.folder / "memory.oom_control")

    def signal(self) -> None:
        fd = int((self.folder / "cgroup.event_control").read_text().split()[0])
        os.eventfd_write(fd, 1)

    def taken(self) -> bool:
        """Whether the watch has read the last signal."""
        fd = int((self.folder / "cgroup.event_control").read_text().split()[0])
        return not select.select([fd], [], [], 0)[0]

    def remove(self) -> None:
        for path in self.folder.iterdir():
            path.unlink()
        self.folder.rmdir()

    def watch(self) -> OomWatch:
        return OomWatch(self.cgroup, self._publish, container_id="c1")

    def _publish(self) -> None:
        self.published += 1


def open_fds() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def memory(tmp_path: Path) -> V1Memory:
    return V1Memory(tmp_path)


def test_kill_that_is_counted_after_its_signal_is_published_once(memory: V1Memory) -> None:
    """v1 signals before it kills, so the counter is read again a little later."""

    async def scenario() -> None:
        watch = memory.watch()
        memory.signal()
        await asyncio.sleep(0)
        memory.count(1)
        await eventually(lambda: memory.published, "the event of the kill")
        watch.check()
        watch.close()

        assert memory.published == 1

    run(scenario(), timeout_s=10)


def test_signal_without_a_kill_is_not_published(memory: V1Memory) -> None:
    """Memory was used up and then freed: no process was killed."""

    async def scenario() -> None:
        watch = memory.watch()
        before = len(asyncio.all_tasks())
        memory.signal()
        await eventually(memory.taken, "the signal to be taken")
        await stays(lambda: memory.published == 0, "no event", for_s=1.0)  # the later checks too
        memory.count(1)
        memory.signal()
        await eventually(lambda: memory.published, "the event of a kill: the watch is at work")
        watch.close()

        assert memory.published == 1
        assert len(asyncio.all_tasks()) == before

    run(scenario(), timeout_s=10)


def test_poll_before_an_exit_publishes_what_was_counted_until_then(memory: V1Memory) -> None:
    """Kills from before the watch count too; several at once are published once."""

    async def scenario() -> None:
        memory.count(2)
        watch = memory.watch()
        assert watch.has_killed()
        watch.check()
        watch.check()
        assert memory.published == 1
        memory.count(5)
        watch.check()
        assert memory.published == 2
        watch.close()
        memory.count(6)
        watch.check()
        watch.close()
        assert memory.published == 2
        assert not watch.has_killed()

    run(scenario(), timeout_s=10)


def test_removed_cgroup_ends_the_watch_without_an_event(memory: V1Memory) -> None:
    """The kernel signals the removal too; no file stays open."""

    async def scenario() -> None:
        before = open_fds()
        watch = memory.watch()
        fd = os.eventfd(0)  # a copy, because the signal comes after the removal
        os.dup2(int((memory.folder / "cgroup.event_control").read_text().split()[0]), fd)
        memory.remove()
        os.eventfd_write(fd, 1)
        os.close(fd)
        await eventually(lambda: open_fds() == before, "the watch to end")
        watch.check()
        watch.close()

        assert memory.published == 0

    run(scenario(), timeout_s=10)


def test_kernel_that_does_not_count_is_believed_by_its_signal(memory: V1Memory) -> None:
    """Before Linux 4.13 there is only the signal; a check without a signal reports nothing."""

    async def scenario() -> None:
        memory.count(None)
        watch = memory.watch()
        watch.check()
        assert memory.published == 0
        memory.signal()
        await eventually(lambda: memory.published, "the event of the signal")
        await stays(lambda: memory.published == 1, "one event")  # checked again meanwhile
        watch.close()

    run(scenario(), timeout_s=10)


def test_watch_that_cannot_begin_is_logged_and_leaves_nothing_open(
    memory: V1Memory, caplog: pytest.LogCaptureFixture
) -> None:
    """The container runs without OOM events."""

    async def scenario() -> None:
        before = open_fds()
        memory.remove()
        with caplog.at_level(logging.WARNING):
            watch = memory.watch()
        watch.check()
        watch.close()

        assert open_fds() == before
        assert "cannot watch for OOM kills" in caplog.text

    run(scenario(), timeout_s=10)


def test_cgroup_without_the_memory_controller_is_not_watched(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """There is nothing to watch, and nothing is logged."""

    async def scenario() -> None:
        watch = OomWatch(Cgroup("/nowhere", {"pids": "/nowhere"}), lambda: None, container_id="c1")
        watch.check()
        watch.close()

        assert caplog.records == []

    run(scenario(), timeout_s=10)


@pytest.fixture
def unified_group() -> Iterator[Path]:
    assert UNIFIED is not None, "no hierarchy of cgroup v2 is mounted"
    folder = UNIFIED / f"t{os.getpid()}"
    folder.mkdir()
    yield folder
    if folder.exists():
        folder.rmdir()


@pytest.mark.vm
@pytest.mark.root
@pytest.mark.parametrize("loop", ["shim", "stock"])
def test_file_of_cgroup_v2_wakes_once_for_each_change(unified_group: Path, loop: str) -> None:
    """With a real file of the kernel: it signals, is silent once it was read, and ends with
    ENODEV."""

    async def scenario() -> None:
        before = open_fds()
        events = FileEvents(str(unified_group / "cgroup.events"), "populated")
        seen: list[int | None] = []
        running = asyncio.get_running_loop()
        running.add_reader(events.fd, lambda: seen.append(events.kills()))
        assert events.kills() == 0
        with subprocess.Popen(["sleep", "100"]) as member:  # noqa: ASYNC220 - ends at once
            (unified_group / "cgroup.procs").write_text(f"{member.pid}\n")
            await eventually(lambda: seen == [1], "the change to be signalled")
            await stays(lambda: seen == [1], "one signal")
            member.kill()
        await eventually(lambda: seen == [1, 0], "the change back to be signalled")
        await stays(lambda: seen == [1, 0], "two signals")
        unified_group.rmdir()
        with pytest.raises(OSError, match="No such device"):
            events.kills()
        running.remove_reader(events.fd)
        events.close()
        assert open_fds() == before

    run(scenario(), timeout_s=20, loop="shim" if loop == "shim" else "stock")


def test_file_that_cannot_signal_is_refused_and_closed(tmp_path: Path) -> None:
    """An ordinary file acts as a file for which the kernel does not signal."""
    path = tmp_path / "memory.events"
    path.write_text("oom_kill 0\n")
    before = open_fds()

    with pytest.raises(PermissionError):
        FileEvents(str(path), "oom_kill")

    assert open_fds() == before
