"""The canary: faults of shared memory are found before a shim depends on it."""

import contextlib
import ctypes
import dis
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from shimv2 import COMPILED_DIR
from shimv2.pagesharing import bytecode, canary, library, publish, reclaim
from shimv2.shimctl.testbed.until import until
from tests.support.children import status_of
from tests.support.forks import in_fork
from tests.support.interposed import compiled, needs_compiler

needs_library = pytest.mark.skipif(
    not Path(COMPILED_DIR, "libmemory.so").exists(), reason="no C compiler"
)
pytestmark = pytest.mark.usefixtures("_large_process")
ANSWERS: Final = "Create: pid=0"


def live() -> str:
    """Write to many pages, with reclaims in between, and return a description of the result."""
    blocks = [bytearray(1 << 20) for _ in range(8)]
    for number, block in enumerate(blocks):
        block[::512] = bytes([number + 1]) * 2048
        reclaim.reclaim()
    whole = all(block.count(number + 1) == 2048 for number, block in enumerate(blocks))
    return ANSWERS if whole else "wrong"


def shared(life: Callable[[], str], *, limit_s: float = 20.0) -> str:
    """Share in a fork; return the report of the process that continues, and whether it shares
    memory."""
    heard, writer = os.pipe()

    def zygote() -> bool:
        def report_successor(pid: int) -> None:
            os.write(writer, f"{pid}|".encode())

        reason = canary.share(life, ANSWERS, report_successor, limit_s=limit_s)
        os.write(writer, f"{os.getpid()}|{reason}|{publish.is_published()}".encode())
        return True

    in_fork(zygote)
    os.close(writer)
    with os.fdopen(heard) as file:
        *moved, pid, reason, is_published = file.read().split("|")
    assert is_published == str(reason == "")
    assert moved == ([pid] if reason == "" else [])
    return reason


@needs_library
def test_memory_is_shared_if_the_canary_answers_as_expected() -> None:
    """The fork, which has published, continues; the first process has ended."""
    assert shared(live) == ""


@needs_library
@pytest.mark.parametrize(
    ("life", "reason"),
    [
        (lambda: "another answer", "a shim with shared memory answers differently"),
        (os.abort, "a process crashed"),
        (lambda: 1 / 0, "the canary fails"),
    ],
    ids=["answer", "crash", "exception"],
)
def test_canary_that_fails_means_that_nothing_is_shared(
    life: Callable[[], str], reason: str
) -> None:
    """The first process continues, unchanged."""
    assert shared(life) == reason


@needs_library
def test_canary_without_an_end_is_not_waited_for() -> None:
    """Afterwards the canary and the candidate have ended."""
    marker = f"canary-{os.getpid()}"

    def life() -> str:
        Path(f"/proc/{os.getpid()}/comm").write_text(marker[:15], encoding="ascii")
        while True:
            time.sleep(60)  # the limit of the canary is shorter

    assert shared(life, limit_s=1.0) == "the canary did not end in time"
    until(lambda: not _running(marker[:15]), "the canary to end")


def _running(name: str) -> list[str]:
    """List the processes of that name; one that has ended may not have been reaped yet."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            status = status_of(path.name)
            if status["Name"] == name and status["State"][0] != "Z":
                found.append(path.name)
    return found


@needs_library
def test_code_that_has_changed_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The answers may still be right, but the checksum covers all code."""

    def life() -> str:
        live.__code__ = live.__code__.replace(co_name="dead")
        return ANSWERS

    before = live.__code__
    assert shared(life) == "shared memory has changed"
    assert live.__code__ is before


# Wrong system calls, which replace the right ones when the C part is compiled.
FAULTS: Final = {
    "a byte is written wrong": (
        "#define syscall(number, fd, at, size, to) wrong_pwrite(fd, at, size, to)",
        """
        static ssize_t wrong_pwrite(int fd, const void *at, size_t size, off_t to)
        {
            char page[4096];
            ssize_t done = pwrite(fd, at, size, to);
            memcpy(page, at, 4096);
            page[100] ^= 1;
            pwrite(fd, page, 4096, to);
            return done;
        }
        """,
        "the image differs from the memory it was made of",
    ),
    "regions are exchanged": (
        "#define mmap(at, size, prot, flags, fd, to) wrong_mmap(at, size, prot, flags, fd, to)",
        """
        static void *wrong_mmap(void *at, size_t size, int prot, int flags, int fd, off_t to)
        {
            return (mmap)(at, size, prot, flags, fd, flags & MAP_FIXED ? to + 4096 : to);
        }
        """,
        "a process crashed",
    ),
    "pages that differ are given up": (
        "#define memcmp(one, other, size) 0",
        "",
        "",
    ),
}


@needs_library
@needs_compiler
@pytest.mark.parametrize("fault", FAULTS)
def test_corrupted_image_is_found(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wrong bytes, wrong addresses, and pages that are given up although they differ."""
    define, function, reason = FAULTS[fault]
    broken = "_reclaim.c" if "given up" in fault else "_publish.c"
    path = compiled(tmp_path, broken, f"{function}\n{define}")
    monkeypatch.setattr(library, "_PATH", path)

    found = shared(live)

    assert found != ""
    assert not reason or found == reason


def test_ranges_of_bytecode_hold_whole_instructions_of_one_page() -> None:
    """An instruction and its caches are reset together, or not at all."""
    source = "\n".join(f"    x = a.b{number} + c[{number}]" for number in range(2000))
    names: dict[str, Callable[..., object]] = {}
    exec(f"def long(a, c):\n{source}", names)
    code = names["long"].__code__
    start = id(code) + type(code).__basicsize__
    ranges = bytecode.find([names["long"]])
    begins = {start + each.offset for each in dis.get_instructions(code)}
    begins.add(start + -(-len(code.co_code) // 8) * 8)
    pairs = list(zip(ranges[::2], ranges[1::2], strict=True))

    assert len(pairs) > 4
    assert all(first // 4096 == (end - 1) // 4096 for first, end in pairs)
    assert all(first in begins and end in begins for first, end in pairs)
    left_out = len(code.co_code) - sum(end - first for first, end in pairs)
    assert left_out <= 24 * len(pairs)  # one instruction at each end of a page


@needs_library
def test_code_goes_back_to_what_it_was_and_still_answers() -> None:
    """A fork specializes code again after each reclaim: for other types, and in other classes."""

    def parent() -> bool:
        names: dict[str, Callable[..., object]] = {}
        text = "def add(a, b):\n    return a + b\n"
        exec("".join(text.replace("add", f"add{n}") for n in range(3000)), names)
        functions = [names[f"add{number}"] for number in range(3000)]
        for add in functions * 10:
            add(1, 2)
        publish.publish(publish.settle())

        def child() -> bool:
            for one, other in ((1, 2), ("a", "b"), (1.5, 1.0), ([1], [2])):
                for _ in range(20):
                    for add in functions:
                        assert add(one, other) == one + other  # type: ignore[operator]
                given = reclaim.reclaim()
                assert given > 100 or one == 1, given  # the specialized form for int exists already
            return True

        return in_fork(child) == 0

    assert in_fork(parent) == 0


@needs_library
@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the counters lie in the bytecode")
def test_calls_that_were_counted_are_forgotten_before_code_is_specialized() -> None:
    """CPython 3.11 counts the calls of a function in its code object until it specializes it."""

    def parent() -> bool:
        names: dict[str, Callable[[], None]] = {}
        exec("".join(f"def f{number}(): pass\n" for number in range(3000)), names)
        functions = [names[f"f{number}"] for number in range(3000)]
        words = bytecode.find_warmups(functions)
        publish.publish(publish.settle())

        def counts() -> list[int]:
            return [ctypes.c_uint64.from_address(word).value for word in words]

        before = counts()

        def child() -> bool:
            for function in functions:
                function()
            changed = counts()
            assert all(now != then for now, then in zip(changed, before, strict=True))
            assert reclaim.reclaim() > 50
            forgotten = sum(now == then for now, then in zip(counts(), before, strict=True))
            return forgotten > 2500  # the others are on pages with other changes

        return len(before) == 3000 and in_fork(child) == 0

    assert in_fork(parent) == 0
