"""Memory that forks share: what is published, what is given up, and that nothing is lost by it."""

import asyncio
import os
import resource
import select
import signal
import subprocess
import sys
import threading
from array import array
from collections.abc import Callable
from pathlib import Path

import pytest

from shimv2 import COMPILED_DIR
from shimv2.pagesharing import memory
from tests.support.aio import run
from tests.support.forks import in_fork
from tests.support.host import linux_version

pytestmark = pytest.mark.usefixtures("_large_process")

LIBRARY = Path(COMPILED_DIR, "libmemory.so")
ROOT = Path(memory.__file__).parents[1]
needs_library = pytest.mark.skipif(not LIBRARY.exists(), reason="no C compiler")
TEXT = b"12345678" * 8
only_3_11 = pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="only 3.11 has the switch")


def anonymous_kib() -> int:
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1])
    raise AssertionError("no such line")


@needs_library
def test_fork_gives_up_the_copies_it_has_made() -> None:
    """What is written is undone again: the pages are what they were, and shared again."""

    def work() -> bool:
        things = [bytearray(TEXT) for _ in range(100_000)]
        memory.prepare()
        assert memory.publish(memory.settle())

        def child() -> bool:
            for _ in range(2):
                for each in things:
                    each[0] ^= 1
            copied = anonymous_kib()
            given = memory.reclaim()
            left = anonymous_kib()
            # What it did, and what it is: unharmed.
            things.append(bytearray())
            return given > 1000 and left < copied / 3 and set(map(bytes, things[:-1])) == {TEXT}

        return in_fork(child) == 0

    assert in_fork(work) == 0


@needs_library
def test_interpreters_own_data_is_published_too() -> None:
    """Its classes and small numbers lie there: in the program, or in the library it is built as."""

    def work() -> bool:
        assert memory.publish(memory.settle())
        maps = Path("/proc/self/maps").read_text().splitlines()
        places = (os.path.realpath(sys.executable), "/libpython3.")
        return not any(" rw-p " in line and place in line for line in maps for place in places)

    assert in_fork(work) == 0


@needs_library
def test_what_was_changed_is_kept() -> None:
    """Only equal pages are given up: a fork's own values, and its parent's, stay."""

    def work() -> bool:
        values = list(range(1000, 100_000))
        block = bytearray(1 << 20)
        assert memory.publish(array("Q"))
        block[0] = 1  # after it was published: in no file

        def child() -> bool:
            for index in range(0, len(values), 7):
                values[index] = -index
            block[-1] = 2
            memory.reclaim()
            changed = all(values[index] == -index for index in range(0, len(values), 7))
            return changed and values[1] == 1001 and (block[0], block[-1]) == (1, 2)

        return in_fork(child) == 0 and block[-1] == 0

    assert in_fork(work) == 0


@needs_library
def test_large_blocks_can_still_grow() -> None:
    """malloc moves and lengthens its mappings: behind the published part there is room."""

    def work() -> bool:
        block = bytearray(b"x" * (3 << 20))
        assert memory.publish(array("Q"))
        block += b"y" * (5 << 20)
        return block[: 3 << 20].count(b"x") == 3 << 20 and block.count(b"y") == 5 << 20

    assert in_fork(work) == 0


@needs_library
def test_no_signal_is_lost_to_a_reclaim() -> None:
    """A handler's writes go to pages that may just be compared: then it has to wait."""

    def work() -> bool:
        memory.prepare()
        assert memory.publish(memory.settle())
        sys.setrecursionlimit(10_000)  # the sender may be faster than the end of the handler
        seen = [0]
        told = 0
        heard, tell = os.pipe()

        def handle(*_: object) -> None:
            seen[0] += 1

        signal.signal(signal.SIGUSR1, handle)
        parent = os.getpid()
        sender = os.fork()
        if sender == 0:
            for number in range(3000):
                for _ in range(number):  # each comes at another moment of a reclaim
                    pass
                os.kill(parent, signal.SIGUSR1)
                if not select.select([heard], [], [], 5)[0]:
                    os._exit(1)  # it was lost
                os.read(heard, 1)
            os._exit(0)
        while not os.waitid(os.P_PID, sender, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            memory.reclaim()
            # Not in the handler: it would be interrupted by the next signal, again and again.
            while told < seen[0]:
                os.write(tell, b"x")
                told += 1
        return os.waitpid(sender, 0)[1] == 0 and seen[0] == 3000

    assert in_fork(work) == 0


@needs_library
def test_other_threads_put_a_reclaim_off() -> None:
    """The thread of the mounts may write while the loop is at rest."""

    def work() -> bool:
        things = [str(number) for number in range(50_000)]
        memory.prepare()
        assert memory.publish(memory.settle())
        assert sum(map(len, things)) > 0
        go = threading.Event()
        thread = threading.Thread(target=go.wait)
        thread.start()
        while_it_runs = memory.reclaim()
        go.set()
        thread.join()
        return while_it_runs == 0

    assert in_fork(work) == 0


def test_without_the_library_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without a compiler: shims take more memory, that is all."""
    monkeypatch.setattr(memory, "_LIBRARY", "/nonexistent/libmemory.so")

    assert not memory.publish(array("Q"))
    assert not memory.is_published()
    assert memory.reclaim() == 0


@needs_library
@pytest.mark.skipif(linux_version() < (5, 14), reason="the kernel makes no copies ahead of need")
def test_what_one_fork_has_touched_another_touches_in_advance() -> None:
    """Told of runs of pages, the next fork is interrupted at none of them."""

    def publish() -> bool:
        block = bytearray(8 << 20)
        assert memory.publish(memory.settle())
        heard, told = os.pipe()

        def first() -> bool:
            block[::8192] = b"x" * (len(block) // 8192)  # every second page
            return os.write(told, memory._touched()) > 0

        def second() -> bool:
            memory.touch_ahead(runs)
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            block[::8192] = b"y" * (len(block) // 8192)
            faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
            return faults < 100 and block.count(b"y") == 1024 and block.count(b"x") == 0

        assert in_fork(first) == 0
        runs = os.read(heard, 1 << 16)
        return len(runs) // 16 > 1000 and in_fork(second) == 0

    assert in_fork(publish) == 0


@only_3_11
def test_objects_made_after_the_tables_were_closed_change_nothing_about_their_class() -> None:
    """They have the attributes that others have, and those that nobody had before."""

    class Thing:
        def __init__(self) -> None:
            self.one, self.two = 1, 2

    def work() -> bool:
        before = Thing()
        memory._close_tables()
        room = memory._room(Thing)
        assert room is not None
        assert room.value == 1
        things = [Thing() for _ in range(50)]
        assert room.value == 1
        for number, each in enumerate([before, *things]):
            vars(each).update({f"later{n}": number for n in range(number % 40)})
            each.three = number  # type: ignore[attr-defined]
        told = [vars(each) for each in (before, *things)]
        return told == [
            {"one": 1, "two": 2, **{f"later{n}": number for n in range(number % 40)}}
            | {"three": number}
            for number in range(51)
        ]

    assert in_fork(work) == 0


@needs_library
def test_classes_can_change_between_reclaims() -> None:
    """The interpreter caches what it has looked up: it must not find there what is no more."""

    class Thing:
        value = 0

    def publish() -> bool:
        assert Thing().value == 0
        assert memory.publish(memory.settle())

        def child() -> bool:
            for number in range(1, 2000):
                Thing.value = number
                if Thing().value != number:
                    return False
                if number % 50 == 0:
                    memory.reclaim()
            return Thing().value == 1999

        return in_fork(child) == 0

    assert in_fork(publish) == 0


_HOLES = """
import sys
from shimv2.pagesharing import memory

size = int(sys.argv[1])
kept = [bytes(size) for _ in range(20_000)]
del kept[::2]
memory.settle()
fresh = [bytes(size) for _ in range(5_000)]
pages = {id(each) >> 12 for each in kept}
print(sum(id(each) >> 12 in pages for each in fresh))
"""


@needs_library
@pytest.mark.parametrize("size", [10, 200, 470, 700, 3000])
def test_new_objects_do_not_lie_between_old_ones(size: int) -> None:
    """Of the interpreter's allocator, and of malloc: what is free on a page is taken."""
    # The allocator of -X dev, which tests run with, is another one.
    command = [sys.executable, "-c", _HOLES, str(size)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)

    assert int(done.stdout) < 50


def test_reclaimer_acts_once_after_work_that_was_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the start, and after a verb, when there is rest; then an idle shim sleeps."""
    done: list[int] = []
    monkeypatch.setattr(memory, "reclaim", lambda: done.append(1))
    monkeypatch.setattr(memory, "_REST_S", 0.01)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        reclaimer = memory.Reclaimer(loop)
        for turns, expected in ((1, 1), (0, 1), (3, 1), (3, 1), (3, 2), (40, 3)):
            reclaimer.before_sleep(turns)
            reclaimer.before_sleep(0)
            await asyncio.sleep(0.05)  # five times its rest
            assert len(done) == expected, (turns, expected)

    run(main())


def test_reclaimer_waits_for_the_end_of_work_but_not_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is copied after a reclaim is kept; a shim that always has a little to do has it, too."""
    looks: list[int] = []
    monkeypatch.setattr(memory, "reclaim", lambda: looks.append(0))
    loop = FakeTimers()
    reclaimer = memory.Reclaimer(loop)  # type: ignore[arg-type]

    reclaimer.before_sleep(1)
    for busy in (True, True, False):
        assert looks == []
        if busy:
            reclaimer.before_sleep(1)
        loop.fire()
        reclaimer.before_sleep(1)  # the timer itself
    assert looks == [0]
    assert loop.due is None

    reclaimer.before_sleep(40)
    for number in range(memory._MOST_WAITS):
        assert looks == [0], number
        reclaimer.before_sleep(3)
        loop.fire()
        reclaimer.before_sleep(1)
    assert looks == [0, 0]


class FakeTimers:
    """As much of a loop as sets one timer; time passes when told to."""

    due: Callable[[], None] | None = None
    delay_s = 0.0
    now_s = 1000.0

    def time(self) -> float:
        return self.now_s

    def call_later(self, delay_s: float, callback: Callable[..., None], *args: int) -> object:
        self.due, self.delay_s = lambda: callback(*args), delay_s
        return self.due

    def fire(self) -> None:
        due, self.due = self.due, None
        assert due is not None
        self.now_s += self.delay_s
        due()


def rest_after(reclaimer: memory.Reclaimer, loop: FakeTimers, away_s: float) -> float:
    """Leave a shim alone, let it work, and return how long it rests until it reclaims."""
    loop.now_s += away_s
    reclaimer.before_sleep(40)
    loop.fire()
    reclaimer.before_sleep(1)  # the timer itself
    return loop.delay_s


def test_shim_that_is_woken_soon_rests_longer_before_it_reclaims(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A probe each ten seconds would have it copy everything each time."""
    monkeypatch.setattr(memory, "reclaim", lambda: 0)
    loop = FakeTimers()
    reclaimer = memory.Reclaimer(loop)  # type: ignore[arg-type]

    rests = [rest_after(reclaimer, loop, away_s) for away_s in (0, 9, 9, 9, 9, 9)]
    assert rests == [0.5, 0.5, 2, 8, 16, 16]
    assert {rest_after(reclaimer, loop, 15.9) for _ in range(2000)} == {16}
    assert rest_after(reclaimer, loop, 16.1) == 0.5
    assert rest_after(reclaimer, loop, 3600) == 0.5


def test_question_after_a_reclaim_counts_as_work_though_not_worth_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What it has to copy is little; it is taken for the sign that it is."""
    monkeypatch.setattr(memory, "reclaim", lambda: 0)
    loop = FakeTimers()
    reclaimer = memory.Reclaimer(loop)  # type: ignore[arg-type]
    assert rest_after(reclaimer, loop, 0) == 0.5

    loop.now_s += 1
    reclaimer.before_sleep(2)
    assert loop.due is None
    assert rest_after(reclaimer, loop, 60) == 0.5
    assert rest_after(reclaimer, loop, 1) == 2


def test_first_reclaim_tells_once_what_was_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it gives anything up; later ones are of no interest."""
    said: list[str] = []
    monkeypatch.setattr(memory, "_published", [None])
    monkeypatch.setattr(memory, "_touched", lambda: b"runs")
    monkeypatch.setattr(memory, "reclaim", lambda: said.append("reclaimed"))
    monkeypatch.setattr(memory, "_REST_S", 0.0)
    memory.tell_touched(lambda runs: said.append(runs.decode()))

    async def main() -> None:
        reclaimer = memory.Reclaimer(asyncio.get_running_loop())
        for _ in range(2):
            reclaimer.before_sleep(40)
            await asyncio.sleep(0.05)  # it rests

    run(main())
    assert said == ["runs", "reclaimed", "reclaimed"]


def test_a_shim_that_never_rests_tells_at_its_end_what_it_has_touched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Once: one that has rested has told.  Nothing is told of memory that was not published."""
    said: list[bytes] = []
    monkeypatch.setattr(memory, "_touched", lambda: b"runs")
    monkeypatch.setattr(memory, "_published", [])
    memory.tell_touched(said.append)
    memory.say_touched()
    assert said == []
    monkeypatch.setattr(memory, "_published", [None])
    memory.say_touched()
    memory.say_touched()
    assert said == [b"runs"]
