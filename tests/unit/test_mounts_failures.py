"""Mounts that fail or are cancelled: the error, and that nothing stays mounted."""

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from shimv2.kernel import linux
from shimv2.mounts import umount
from shimv2.mounts.umount import mount_points_below
from shimv2.values.errors import Refused
from shimv2.values.model import Mount
from tests.support.aio import LOOPS, LoopName, run
from tests.support.mounts import a_rootfs, layers, mount_all, overlay, unmount_all

pytestmark = pytest.mark.root

PREFIX = "failed to mount rootfs component: "
TMPFS = Mount("tmpfs", "tmpfs", "")


@pytest.fixture
def rootfs(tmp_path: Path) -> Iterator[str]:
    with a_rootfs(tmp_path) as target:
        yield target


@pytest.mark.rule("mounts.mount.7")
def test_refused_mount_has_the_error_text_of_the_reference(rootfs: str) -> None:
    """The text of 2.1.9: Go's quoting, and Go's text for the errno."""

    async def main() -> None:
        with pytest.raises(Refused) as caught:
            await mount_all([Mount("nofs", "nosrc", "")], rootfs)
        assert str(caught.value) == (
            f'{PREFIX}mount source: "nosrc", target: "{rootfs}", fstype: nofs, flags: 0, '
            'data: "", err: no such device'
        )
        with pytest.raises(Refused) as caught:
            await mount_all([Mount("bind", '/g"one', "/in", ("rbind", "a", "b=c"))], rootfs)
        assert str(caught.value) == (
            f'{PREFIX}mount source: "/g\\"one", target: "{rootfs}/in", fstype: bind, '
            'flags: 20480, data: "a,b=c", err: no such file or directory'
        )
        with pytest.raises(Refused, match=r'source: "a\\x00b".* err: invalid argument'):
            await mount_all([Mount("tmpfs", "a\0b", "")], rootfs)

    run(main())


@pytest.mark.rule("mounts.mount.1")
@pytest.mark.parametrize(
    ("mount", "error", "text"),
    [
        (
            Mount("ext4", "/gone", "", ("loop",)),
            Refused,
            "open /gone: no such file or directory",
        ),
        (
            Mount("tmpfs", "tmpfs", "", ("X-containerd.a=b",)),
            Refused,
            'internal mount option "X-containerd.a=b" was not consumed by the mount manager',
        ),
        (Mount("ext4", "/nul\0", "", ("loop",)), ValueError, ""),
        (Mount("overlay", "overlay", "", ("x" * 4096,)), Refused, "mount options is too long"),
        (
            Mount("bind", "/", "", ("bind", "gidmap=0:1:1")),
            Refused,
            "an idmapped mount needs both uidmap and gidmap",
        ),
        (
            Mount("bind", "/", "", ("bind", "uidmap=0:1", "gidmap=0:1:1")),
            Refused,
            'mount option uidmap="0:1": expected CONTAINER:HOST:SIZE[,...]',
        ),
        (
            Mount("", "", "", ("remount", "ro", "uidmap=0:1:1", "gidmap=0:1:1")),
            Refused,
            "cannot idmap what is mounted already",
        ),
    ],
)
def test_other_mounts_are_undone_if_one_cannot_be_made(
    rootfs: str, mount: Mount, error: type[Exception], text: str
) -> None:
    """All or nothing: the two mounts before it are undone."""

    async def main() -> None:
        with pytest.raises(error) as caught:
            await mount_all([TMPFS, TMPFS, mount], rootfs)
        assert str(caught.value) == PREFIX + text or error is ValueError
        assert mount_points_below(rootfs) == []

    run(main())


def test_undo_leaves_what_was_mounted_there_before(rootfs: str) -> None:
    """Only our own mounts are unmounted, one by one, and not all stacked ones."""

    async def main() -> None:
        await mount_all([TMPFS], rootfs)
        (Path(rootfs) / "mine").touch()
        with pytest.raises(Refused):
            await mount_all([TMPFS, Mount("nofs", "x", "")], rootfs)
        assert os.listdir(rootfs) == ["mine"]
        await unmount_all([TMPFS], rootfs)

    run(main())


def test_unmount_that_fails_is_logged(
    rootfs: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The error of the Create is reported; a failure of the undo is only logged."""
    monkeypatch.setattr(umount, "BUSY_TRIES", 1)
    real: Callable[..., None] = linux.mount
    held = list[int]()

    def holding(source: str, target: str, fstype: str, flags: int, data: str) -> None:
        real(source, target, fstype, flags, data)
        held.append(os.open(target, os.O_RDONLY))

    monkeypatch.setattr(linux, "mount", holding)

    async def main() -> None:
        with pytest.raises(Refused, match="no such device"):
            await mount_all([TMPFS, Mount("nofs", "x", "")], rootfs)
        await unmount_all([TMPFS], rootfs)
        os.close(held[0])
        await unmount_all([TMPFS], rootfs)

    run(main())

    assert caplog.text.count("Device or resource busy") == 2


def test_options_that_fit_in_no_way_are_refused(tmp_path: Path, rootfs: str) -> None:
    """An error, never a list of layers that is cut off in the middle."""
    mount = overlay(tmp_path, ["/tmp", *layers(tmp_path, 80)])
    mount = replace(mount, options=(*mount.options, "x" * 4000))

    async def main() -> None:
        with pytest.raises(Refused, match="mount options is too long"):
            await mount_all([mount], rootfs)

    run(main())


def test_missing_directory_of_the_layers_is_reported(rootfs: str) -> None:
    """It is entered before the mount, so the error is not that of the mount."""
    lower = ":".join(f"/gone/{number:060}" for number in range(60))

    async def main() -> None:
        with pytest.raises(Refused) as caught:
            await mount_all([Mount("overlay", "o", "", (f"lowerdir={lower}",))], rootfs)
        assert str(caught.value) == f"{PREFIX}chdir /gone: no such file or directory"

    run(main())


def test_bind_whose_read_only_step_fails_is_undone(
    rootfs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first of its two mounts had succeeded: a writable bind must not stay."""
    real = linux.mount

    def refusing(source: str, target: str, fstype: str, flags: int, data: str) -> None:
        if flags & linux.MS_REMOUNT:
            raise PermissionError(1, "Operation not permitted", target)
        real(source, target, fstype, flags, data)

    monkeypatch.setattr(linux, "mount", refusing)

    async def main() -> None:
        with pytest.raises(Refused) as caught:
            await mount_all([Mount("bind", "/", "", ("bind", "ro"))], rootfs)
        assert str(caught.value) == f"{PREFIX}operation not permitted"
        assert mount_points_below(rootfs) == []

    run(main())


@pytest.fixture
def slow_mount(monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, threading.Event]:
    """Make every mount(2) report that it has begun, and wait."""
    begun, let = threading.Event(), threading.Event()
    real: Callable[..., None] = linux.mount

    def waiting(*args: object) -> None:
        begun.set()
        assert let.wait(10)
        real(*args)

    monkeypatch.setattr(linux, "mount", waiting)
    return begun, let


async def begin(begun: threading.Event) -> None:
    while not begun.is_set():  # noqa: ASYNC110 - an event of another thread
        await asyncio.sleep(0)


@pytest.mark.rule("mounts.mount.8")
@pytest.mark.parametrize("loop", LOOPS)
def test_cancelled_mount_waits_and_is_undone(
    rootfs: str, slow_mount: tuple[threading.Event, threading.Event], loop: LoopName
) -> None:
    """mount(2) cannot be interrupted: the caller is cancelled once nothing is mounted any more."""
    begun, let = slow_mount

    async def main() -> None:
        task = asyncio.get_running_loop().create_task(mount_all([TMPFS, TMPFS], rootfs))
        await begin(begun)
        for _ in range(3):
            task.cancel()
            await asyncio.sleep(0)
        assert not task.done()
        let.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert mount_points_below(rootfs) == []
        assert threading.active_count() == 1

    run(main(), loop=loop)


def test_cancelled_mount_that_fails_is_a_cancelled_one(
    rootfs: str, slow_mount: tuple[threading.Event, threading.Event]
) -> None:
    """A timeout stays a timeout, whatever the result of the mount."""
    begun, let = slow_mount

    async def main() -> None:
        async def limited() -> None:
            async with asyncio.timeout(0.01):
                await mount_all([TMPFS, Mount("nofs", "x", "")], rootfs)

        task = asyncio.get_running_loop().create_task(limited())
        await begin(begun)
        await asyncio.sleep(0.02)  # twice the timeout
        let.set()
        with pytest.raises(TimeoutError):
            await task
        assert mount_points_below(rootfs) == []

    run(main())


@pytest.mark.rule("mounts.mount.8")
def test_loop_runs_on_while_a_mount_hangs(
    rootfs: str, slow_mount: tuple[threading.Event, threading.Event]
) -> None:
    """State must be answered while a network filesystem hangs; the thread gets no signal."""
    begun, let = slow_mount

    async def main() -> None:
        here, signalled = asyncio.get_running_loop(), asyncio.Event()
        here.add_signal_handler(signal.SIGUSR1, signalled.set)
        async with asyncio.TaskGroup() as group:
            group.create_task(mount_all([TMPFS], rootfs))
            await begin(begun)
            (thread,) = set(os.listdir("/proc/self/task")) - {str(os.getpid())}
            with open(f"/proc/self/task/{thread}/status", encoding="ascii") as file:  # noqa: ASYNC230 - of /proc
                blocked = next(line for line in file if line.startswith("SigBlk"))
            assert int(blocked.split()[1], 16) & 1 << (signal.SIGCHLD - 1)
            os.kill(os.getpid(), signal.SIGUSR1)
            await signalled.wait()
            let.set()
        here.remove_signal_handler(signal.SIGUSR1)
        await unmount_all([TMPFS], rootfs)

    run(main())


def test_thread_that_cannot_be_started_is_an_answer(
    rootfs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the task limit the caller gets EAGAIN and may try again."""

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def main() -> None:
        monkeypatch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(BlockingIOError, match="Resource temporarily unavailable"):
            await mount_all([TMPFS], rootfs)
        monkeypatch.undo()

    run(main())


def test_batches_at_the_same_time_do_not_disturb_each_other(tmp_path: Path) -> None:
    """A pod shim creates several containers at once: each batch has a directory of its own."""

    async def one(number: int) -> None:
        with a_rootfs(tmp_path / str(number)) as target:
            lower = layers(tmp_path / f"a-folder-with-a-very-long-name-to-fill-it-{number}", 60)
            mount = overlay(tmp_path / f"o{number}", lower)
            await mount_all([mount], target)
            assert len(os.listdir(target)) == 60
            await unmount_all([mount], target)

    async def main() -> None:
        here = os.getcwd()
        async with asyncio.TaskGroup() as group:
            for number in range(5):
                group.create_task(one(number))
        assert os.getcwd() == here

    run(main(), debug=False)
