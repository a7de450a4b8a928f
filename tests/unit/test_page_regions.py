"""The pages that are published and given up: those of the image, at their own addresses."""

import ctypes
import errno
import mmap
import os
import threading
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from typing import Final

import pytest

from shimv2 import COMPILED_DIR
from shimv2.pagesharing import publish, reclaim
from shimv2.shimctl.testbed.until import until
from tests.support.forks import in_fork
from tests.support.host import linux_version

LIBRARY: Final = Path(COMPILED_DIR, "libmemory.so")
pytestmark = [
    pytest.mark.skipif(not LIBRARY.exists(), reason="no C compiler"),
    pytest.mark.usefixtures("_large_process"),
]

LIBC: Final = ctypes.CDLL(None, use_errno=True)
LIBC.mmap.restype = LIBC.mremap.restype = ctypes.c_void_p
PAGE: Final = mmap.PAGESIZE
SIZE: Final = 8 << 20  # malloc makes a mapping of its own for it
READ_WRITE: Final = mmap.PROT_READ | mmap.PROT_WRITE
MAP_FIXED: Final = 0x10
MREMAP_MAYMOVE_FIXED: Final = 3
MADV_WIPEONFORK: Final = 18  # Linux 4.14; `mmap` does not have this one
MADV_GUARD_INSTALL: Final = 102  # nor this one: Linux 6.13
FAILED: Final = ctypes.c_void_p(-1).value


def map_at(address: int, size: int) -> int:
    """Map new memory; if `address` is not 0, at `address`, replacing what is mapped there."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | (MAP_FIXED if address else 0)
    place = ctypes.c_void_p(address)
    found = LIBC.mmap(place, ctypes.c_size_t(size), READ_WRITE, flags, -1, ctypes.c_long(0))
    assert found != FAILED, os.strerror(ctypes.get_errno())
    return int(found)


def move_to(address: int, source: int, size: int) -> None:
    """Move a mapping to `address`, replacing what is mapped there."""
    length = ctypes.c_size_t(size)
    flags = MREMAP_MAYMOVE_FIXED
    to = ctypes.c_void_p(address)
    found = LIBC.mremap(ctypes.c_void_p(source), length, length, flags, to)
    assert found == address, os.strerror(ctypes.get_errno())


def pages_of(block: bytearray) -> int:
    """Return the address of the first whole page of a block."""
    address = ctypes.addressof(ctypes.c_char.from_buffer(block))
    return -(-address // PAGE) * PAGE


def new_memory(place: int, size: int, text: bytes, _other: int) -> None:
    """Do what malloc does when a block is freed and another one allocated."""
    LIBC.munmap(ctypes.c_void_p(place), ctypes.c_size_t(size))
    map_at(place, size)
    ctypes.memmove(place, text, size)


def moved_memory(place: int, size: int, text: bytes, _other: int) -> None:
    """Do what realloc does with a block that has to grow."""
    source = map_at(0, size)
    ctypes.memmove(source, text, size)
    move_to(place, source, size)


def moved_image(place: int, size: int, text: bytes, other: int) -> None:
    """Map pages of the image, but those of another region."""
    ctypes.memmove(other, text, size)
    move_to(place, other, size)


@pytest.mark.parametrize("replace", [new_memory, moved_memory, moved_image])
def test_memory_that_took_a_published_regions_place_is_kept(
    replace: Callable[[int, int, bytes, int], None],
) -> None:
    """It happens to have the same bytes, but is not the image, so no page may be given up."""

    def parent() -> bool:
        text = b"12345678" * (SIZE // 8)
        block, other = bytearray(text), bytearray(SIZE)
        place, spare = pages_of(block), pages_of(other)
        size = SIZE - PAGE
        other[:] = b"abcdefgh" * (SIZE // 8)  # present, so that it is published
        publish.publish()

        def child() -> bool:
            replace(place, size, text[:size], spare)
            reclaim.reclaim()
            return ctypes.string_at(place, size) == text[:size]

        return in_fork(child) == 0

    assert in_fork(parent) == 0


def test_rest_of_a_region_that_was_unmapped_in_part_is_still_given_up() -> None:
    """The kernel makes two mappings of it; each has the image at its own addresses."""

    def parent() -> bool:
        block = bytearray(b"12345678" * (SIZE // 8))
        place = pages_of(block)
        publish.publish()

        def child() -> bool:
            reclaim.reclaim()
            LIBC.munmap(ctypes.c_void_p(place + (1 << 20)), ctypes.c_size_t(1 << 20))
            for at in range(place + (2 << 20), place + (6 << 20), PAGE):
                ctypes.memmove(at, b"1", 1)
            given = reclaim.reclaim()
            return given >= (4 << 20) // PAGE and ctypes.string_at(place, 8) == b"12345678"

        status = in_fork(child)
        return status == 0

    assert in_fork(parent) == 0


def image_mappings() -> list[tuple[int, int]]:
    """List the shared mappings of the image, with which pages are compared."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    found = [line.split()[0] for line in lines if "r--s" in line and "pyrunc-image" in line]
    return [(int(start, 16), int(end, 16)) for start, end in (each.split("-") for each in found)]


def open_image(mode: str) -> FileIO:
    """Open the file again, which needs root (CAP_CHECKPOINT_RESTORE)."""
    start, end = image_mappings()[0]
    return FileIO(f"/proc/self/map_files/{start:x}-{end:x}", mode)


@pytest.mark.root
def test_memory_that_was_never_touched_costs_nothing() -> None:
    """A mapping of 256 MiB with one used page needs one page in the image."""

    def parent() -> bool:
        sparse = mmap.mmap(-1, 256 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        sparse[100 << 20] = 7
        publish.publish()
        with open_image("r") as image:
            used = os.fstat(image.fileno()).st_blocks * 512

        def child() -> bool:
            sparse[100 << 20] = 8
            sparse[200 << 20] = 9  # in a hole
            reclaim.reclaim()
            return (sparse[100 << 20], sparse[200 << 20], sparse[0]) == (8, 9, 0)

        return used < publish._MAX_IMAGE_BYTES and in_fork(child) == 0

    assert in_fork(parent) == 0


def test_more_memory_than_the_bound_is_not_published(monkeypatch: pytest.MonkeyPatch) -> None:
    """The node would lack it for as long as one shim runs."""
    monkeypatch.setattr(publish, "_MAX_IMAGE_BYTES", 1 << 20)

    def parent() -> bool:
        block = bytearray(b"x" * (2 << 20))
        with pytest.raises(publish.CannotShare, match="too much memory"):
            publish.publish()
        is_mapped = "pyrunc-image" in Path("/proc/self/maps").read_text()
        return not publish.is_published() and not is_mapped and block.count(b"x") == 2 << 20

    assert in_fork(parent) == 0


def test_process_with_two_threads_publishes_nothing() -> None:
    """The other thread could write to memory that is being replaced."""

    def parent() -> bool:
        go = threading.Event()
        thread = threading.Thread(target=go.wait)
        thread.start()
        with pytest.raises(publish.CannotShare, match="more than one thread"):
            publish.publish()
        go.set()
        thread.join()
        return not publish.is_published()

    assert in_fork(parent) == 0


def test_process_that_had_a_second_thread_can_publish() -> None:
    """After a second thread, glibc writes to the thread's memory during each call that can be
    cancelled."""

    def parent() -> bool:
        thread = threading.Thread(target=int)
        thread.start()
        thread.join()  # returns shortly before the thread has ended
        until(publish.has_one_thread, "the thread to end")
        publish.publish()
        return publish.is_published()

    assert in_fork(parent) == 0


def test_memory_that_forks_get_wiped_is_not_shared() -> None:
    """A random number generator has its state there: two forks would generate the same numbers."""

    def parent() -> bool:
        secret = mmap.mmap(-1, PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        secret.madvise(MADV_WIPEONFORK)
        secret[:6] = b"secret"
        publish.publish()
        return secret[:6] == b"secret" and in_fork(lambda: secret[:6] == bytes(6)) == 0

    assert in_fork(parent) == 0


def test_memory_that_forks_do_not_get_is_not_shared() -> None:
    """Forks must not get it from the image either."""

    def parent() -> bool:
        private = mmap.mmap(-1, PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        private.madvise(mmap.MADV_DONTFORK)
        place = ctypes.addressof(ctypes.c_char.from_buffer(private))
        publish.publish()

        def is_mapped() -> bool:
            vector = ctypes.create_string_buffer(1)
            status: int = LIBC.mincore(ctypes.c_void_p(place), ctypes.c_size_t(PAGE), vector)
            return status == 0

        return is_mapped() and in_fork(is_mapped) == 1

    assert in_fork(parent) == 0


@pytest.mark.skipif(linux_version() < (6, 15), reason="guard pages cannot be seen")
def test_memory_with_a_guard_page_is_not_shared() -> None:
    """It cannot be read.  glibc 2.42 and later has one in the stack of each thread."""

    def parent() -> bool:
        block = mmap.mmap(-1, 3 * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        block[0], block[2 * PAGE] = 1, 3
        guard = ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(block)) + PAGE)
        assert LIBC.madvise(guard, ctypes.c_size_t(PAGE), MADV_GUARD_INSTALL) == 0
        publish.publish()
        _, writer = os.pipe()
        status: int = LIBC.write(writer, guard, ctypes.c_size_t(1))
        return (status, ctypes.get_errno()) == (-1, errno.EFAULT) and block[2 * PAGE] == 3

    assert in_fork(parent) == 0


def test_forks_get_different_random_numbers() -> None:
    """They are used for names of files in shared folders."""

    def parent() -> bool:
        os.urandom(8)  # glibc 2.41 and later: makes the generator's state
        publish.publish()
        heard, writer = os.pipe()
        for _ in range(2):
            assert in_fork(lambda: os.write(writer, os.urandom(8))) == 0
        return os.read(heard, 8) != os.read(heard, 8)

    assert in_fork(parent) == 0


@pytest.mark.root
def test_no_fork_can_write_into_the_image() -> None:
    """Neither through its mappings nor by opening the file again, because it would affect all
    forks."""

    def parent() -> bool:
        publish.publish()

        def child() -> bool:
            views = image_mappings()
            assert views
            for start, end in views:
                length = ctypes.c_size_t(end - start)
                assert LIBC.mprotect(ctypes.c_void_p(start), length, READ_WRITE) == -1
            with open_image("r+") as image:
                with pytest.raises(PermissionError):
                    image.write(b"x")
                with pytest.raises(PermissionError):
                    mmap.mmap(image.fileno(), PAGE, mmap.MAP_SHARED, READ_WRITE)
                for size in (PAGE, 1 << 48):
                    with pytest.raises(PermissionError):
                        image.truncate(size)
            return True

        return in_fork(child) == 0

    assert in_fork(parent) == 0
