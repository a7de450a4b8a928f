"""Memory that forks share: what is published, what is given up, and that no write is lost."""

import ctypes
import mmap
import os
import resource
import subprocess
import sys
import threading
from pathlib import Path
from typing import Final

import pytest

from shimv2 import COMPILED_DIR
from shimv2.pagesharing import library, prefault, publish, reclaim
from tests.support.forks import in_fork
from tests.support.host import linux_version
from tests.support.interposed import compiled, needs_compiler

pytestmark = pytest.mark.usefixtures("_large_process")

LIBRARY = Path(COMPILED_DIR, "libmemory.so")
ROOT = Path(publish.__file__).parents[2]
needs_library = pytest.mark.skipif(not LIBRARY.exists(), reason="no C compiler")
TEXT = b"12345678" * 8


def anonymous_kib() -> int:
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1])
    raise AssertionError("no such line")


@needs_library
def test_fork_gives_up_the_copies_it_has_made() -> None:
    """Changes that are undone: the pages are equal to the image, and are shared again."""

    def work() -> bool:
        things = [bytearray(TEXT) for _ in range(100_000)]
        publish.prepare()
        publish.publish(publish.settle())

        def child() -> bool:
            for _ in range(2):
                for each in things:
                    each[0] ^= 1
            copied = anonymous_kib()
            given = reclaim.reclaim()
            left = anonymous_kib()
            # Its results and its memory are unharmed.
            things.append(bytearray())
            return given > 1000 and left < copied / 3 and set(map(bytes, things[:-1])) == {TEXT}

        return in_fork(child) == 0

    assert in_fork(work) == 0


@needs_library
def test_interpreters_own_data_is_published_too() -> None:
    """Its classes and small integers are in the data of the program, or of libpython."""

    def work() -> bool:
        publish.publish(publish.settle())
        maps = Path("/proc/self/maps").read_text().splitlines()
        places = (os.path.realpath(sys.executable), "/libpython3.")
        return not any(" rw-p " in line and place in line for line in maps for place in places)

    assert in_fork(work) == 0


@needs_library
def test_what_was_changed_is_kept() -> None:
    """Only equal pages are given up: the values of a fork and of its parent are kept."""

    def work() -> bool:
        values = list(range(1000, 100_000))
        block = bytearray(1 << 20)
        publish.publish()
        block[0] = 1  # after the publishing: not in the image

        def child() -> bool:
            for index in range(0, len(values), 7):
                values[index] = -index
            block[-1] = 2
            reclaim.reclaim()
            changed = all(values[index] == -index for index in range(0, len(values), 7))
            return changed and values[1] == 1001 and (block[0], block[-1]) == (1, 2)

        return in_fork(child) == 0 and block[-1] == 0

    assert in_fork(work) == 0


@needs_library
def test_large_blocks_can_still_grow() -> None:
    """malloc moves and extends its mappings, also behind the published part."""

    def work() -> bool:
        block = bytearray(b"x" * (3 << 20))
        publish.publish()
        block += b"y" * (5 << 20)
        return block[: 3 << 20].count(b"x") == 3 << 20 and block.count(b"y") == 5 << 20

    assert in_fork(work) == 0


# A signal comes at the moment between the comparison of a page and its removal.
_INTERRUPTED: Final = """
static volatile long *counter;
static void count(int number) { ++*counter; }
__attribute__((visibility("default"))) void count_signals_at(volatile long *at)
{
    counter = at;
    signal(SIGUSR1, count);
}
static void interrupt(void *at, size_t size)
{
    if ((void *)counter >= at && (char *)counter < (char *)at + size)
        raise(SIGUSR1);
}
"""
_INTERRUPTED_RECLAIM: Final = """
static int interrupted_madvise(void *at, size_t size, int advice)
{
    interrupt(at, size);
    return madvise(at, size, advice);
}
#define madvise(at, size, advice) interrupted_madvise(at, size, advice)
"""
_INTERRUPTED_PUBLISH: Final = """
static void *interrupted_mmap(void *at, size_t size, int prot, int flags, int fd, off_t to)
{
    interrupt(at, size);
    return mmap(at, size, prot, flags, fd, to);
}
#define mmap(at, size, prot, flags, fd, to) interrupted_mmap(at, size, prot, flags, fd, to)
"""


def count_signals_on_a_page(path: str) -> ctypes.c_long:
    """Count SIGUSR1 from now on, in a word at the beginning of a page that stays allocated."""
    memory = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    word = ctypes.c_long.from_buffer(memory)
    word.value = 0  # present, so that it is published
    ctypes.CDLL(path).count_signals_at(ctypes.byref(word))
    return word


@needs_compiler
def test_signal_during_a_reclaim_is_handled_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the handler writes to a page that is given up would be lost.

    CPython's handler notes the signal in the interpreter's data.  CPython 3.13 and 3.14 have it on
    a page that is given up.
    """
    path = compiled(tmp_path, "_reclaim.c", _INTERRUPTED + _INTERRUPTED_RECLAIM)
    monkeypatch.setattr(library, "_PATH", path)

    def parent() -> bool:
        counter = count_signals_on_a_page(path)
        publish.publish()

        def child() -> bool:
            counter.value = 1
            counter.value = 0  # a copy, equal to the image
            reclaim.reclaim()
            return counter.value == 1

        return in_fork(child) == 0

    assert in_fork(parent) == 0


@needs_compiler
def test_signal_while_memory_is_published_is_handled_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the handler writes after the image was written would be lost."""
    path = compiled(tmp_path, "_publish.c", _INTERRUPTED + _INTERRUPTED_PUBLISH)
    monkeypatch.setattr(library, "_PATH", path)

    def work() -> bool:
        counter = count_signals_on_a_page(path)
        publish.publish()
        return counter.value == 1

    assert in_fork(work) == 0


# The first call fails.  That it was made is noted in the file's flags, which are not in the image.
_BUSY: Final = """
#include <errno.h>
#include <fcntl.h>
static int busy_fcntl(int fd, int command, int seals)
{
    if (command == F_ADD_SEALS && fcntl(fd, F_GETFD)) {
        fcntl(fd, F_SETFD, 0);
        errno = EBUSY;
        return -1;
    }
    return fcntl(fd, command, seals);
}
#define fcntl(fd, command, seals) busy_fcntl(fd, command, seals)
"""


@needs_compiler
def test_image_is_sealed_once_the_kernel_uses_none_of_its_pages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compaction and migration use a page for a while: sealing fails meanwhile."""
    monkeypatch.setattr(library, "_PATH", compiled(tmp_path, "_publish.c", _BUSY))

    def work() -> bool:
        publish.publish()
        return publish.is_published()

    assert in_fork(work) == 0


@needs_library
def test_other_threads_put_a_reclaim_off() -> None:
    """The thread of the mounts may write while the loop is idle."""

    def work() -> bool:
        things = [str(number) for number in range(50_000)]
        publish.prepare()
        publish.publish(publish.settle())
        assert sum(map(len, things)) > 0
        go = threading.Event()
        thread = threading.Thread(target=go.wait)
        thread.start()
        while_it_runs = reclaim.reclaim()
        go.set()
        thread.join()
        return while_it_runs == 0

    assert in_fork(work) == 0


def test_without_the_library_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a compiler shims only use more memory."""
    monkeypatch.setattr(library, "_PATH", "/nonexistent/libmemory.so")

    for step in (publish.settle, publish.publish):
        with pytest.raises(publish.CannotShare, match="not built"):
            step()
    assert not publish.is_published()
    assert reclaim.reclaim() == 0


@needs_library
@pytest.mark.skipif(linux_version() < (5, 14), reason="the kernel makes no copies ahead of need")
def test_what_one_fork_has_touched_another_touches_in_advance() -> None:
    """With the runs of pages of one fork, the next fork has no page fault there."""

    def parent() -> bool:
        block = bytearray(8 << 20)
        publish.publish(publish.settle())
        heard, writer = os.pipe()

        def first() -> bool:
            block[::8192] = b"x" * (len(block) // 8192)  # every second page
            return os.write(writer, prefault.used_pages()) > 0

        def second() -> bool:
            prefault.prefault(runs)
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            block[::8192] = b"y" * (len(block) // 8192)
            faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
            return faults < 100 and block.count(b"y") == 1024 and block.count(b"x") == 0

        assert in_fork(first) == 0
        runs = os.read(heard, 1 << 16)
        return len(runs) // 16 > 1000 and in_fork(second) == 0

    assert in_fork(parent) == 0


@needs_library
def test_classes_can_change_between_reclaims() -> None:
    """The interpreter caches attribute look-ups: it must not find removed attributes there."""

    class Thing:
        value = 0

    def parent() -> bool:
        assert Thing().value == 0
        publish.publish(publish.settle())

        def child() -> bool:
            for number in range(1, 2000):
                Thing.value = number
                if Thing().value != number:
                    return False
                if number % 50 == 0:
                    reclaim.reclaim()
            return Thing().value == 1999

        return in_fork(child) == 0

    assert in_fork(parent) == 0


_HOLES = """
import sys
from shimv2.pagesharing import publish

size = int(sys.argv[1])
kept = [bytes(size) for _ in range(20_000)]
del kept[::2]
publish.settle()
fresh = [bytes(size) for _ in range(5_000)]
pages = {id(each) >> 12 for each in kept}
print(sum(id(each) >> 12 in pages for each in fresh))
"""


@needs_library
@pytest.mark.parametrize("size", [700, 3000])
def test_new_objects_do_not_lie_between_old_ones(size: int) -> None:
    """In malloc's memory: the free parts of shared pages are allocated before."""
    # Tests run with -X dev, which has another allocator.
    command = [sys.executable, "-c", _HOLES, str(size)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)

    assert int(done.stdout) < 50
