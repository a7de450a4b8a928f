"""Objects whose counts have no meaning: a fork forgets what it has counted, and nothing else."""

import gc
import itertools
import os
import resource
import sys
from array import array
from collections.abc import Callable
from pathlib import Path

import pytest

from shimv2 import COMPILED_DIR
from shimv2.pagesharing import immortal, memory
from tests.support.forks import in_fork

pytestmark = pytest.mark.usefixtures("_large_process")

LIBRARY = Path(COMPILED_DIR, "libmemory.so")
needs_library = pytest.mark.skipif(not LIBRARY.exists(), reason="no C compiler")
needs_layout = pytest.mark.skipif(
    not immortal.IS_CPYTHON_3_11 and not immortal.HAS_IMMORTALS, reason="not looked at"
)

MANY = 200_000  # objects of this kind lie on more than a thousand pages


def in_fork_of_published(work: Callable[[list[str]], object]) -> int:
    """Run `work` in a fork of a process that has published many strings, which it is given."""

    def publish() -> bool:
        things = [str(number) for number in range(MANY)]
        assert memory.publish(memory.settle())
        return in_fork(lambda: work(things)) == 0

    return in_fork(publish)


def has_no_meaning(count: int) -> bool:
    """Whether a count is one of those that `make` leaves."""
    if immortal.IS_CPYTHON_3_11:
        return immortal.BIAS <= count < 2 * immortal.BIAS
    return count == 2**32 - 1


@needs_layout
def test_counts_of_everything_lose_their_meaning_once() -> None:
    """Whatever can be reached: of the heap and of the program, known to the collector or not."""

    def work() -> bool:
        text = f"a text of {os.getpid()}"
        code = work.__code__
        inner = (1.5, text)
        kept = {"key": [inner]}
        addresses = immortal.make()
        seen = [text, inner, kept, *kept, code, code.co_consts, code.co_names, code.co_linetable]
        seen += [None, type, int.__add__, dict.__dict__["get"], os.path.join, sys.modules, array]
        assert [each for each in seen if not has_no_meaning(sys.getrefcount(each))] == []
        if immortal.IS_CPYTHON_3_11:  # later ones write nothing that could be taken back
            assert {id(each) for each in seen} <= set(addresses)
        assert len(addresses) == len(set(addresses))
        later = f"a text of {len(seen)}"
        return sys.getrefcount(later) == 2 and immortal.BIAS > 2**30

    assert in_fork(work) == 0


@needs_layout
@needs_library
def test_looking_at_things_keeps_no_page() -> None:
    """3.11 writes to each, and takes it back at the reclaim; later ones write nothing."""

    def work(things: list[str]) -> bool:
        def copied() -> int:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            for each in things:
                assert each
            return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

        copied()  # pages are read for the first time
        if not immortal.IS_CPYTHON_3_11:
            return copied() < 10
        return memory.reclaim() > 1000 and copied() > 1000

    assert in_fork_of_published(work) == 0


@needs_layout
@needs_library
def test_references_a_fork_holds_keep_no_page() -> None:
    """Only counts have changed: the pages are given up, and what is on them is unharmed."""

    def work(things: list[str]) -> bool:
        for _ in range(3):
            held = [things[:] for _ in range(5)]
            given = memory.reclaim()
            assert given > 1000 or not immortal.IS_CPYTHON_3_11, given
            assert memory.reclaim() < 100
            del held  # lowers five more times what was forgotten to be raised
            gc.collect()
        memory.reclaim()
        return things == [str(number) for number in range(MANY)]

    assert in_fork_of_published(work) == 0


@needs_layout
@needs_library
def test_immortal_is_never_freed_nor_changed_in_place() -> None:
    """Dropped by all who held it, again and again, it is there; nobody takes it for its own."""

    def work(things: list[str]) -> bool:
        addresses = [id(each) for each in things]
        pair = things[:2]
        for _ in range(3):
            held = things[:]
            memory.reclaim()
            del held
        del things[:]
        gc.collect()
        memory.reclaim()
        fresh = [str(number) + "!" for number in range(MANY)]
        pair[0] += " and more"  # in place, if nobody else had it
        assert not {id(each) for each in fresh} & set(addresses)
        return pair == ["0 and more", "1"] and fresh[-1] == f"{MANY - 1}!"

    assert in_fork_of_published(work) == 0


@needs_layout
@needs_library
def test_other_changes_beside_the_counts_are_kept() -> None:
    """Whatever else a page says differently, it stays, and so do the counts on it."""

    def publish() -> bool:
        lists = [[number] for number in range(MANY)]
        assert memory.publish(memory.settle())

        def child() -> bool:
            held = lists[:]
            for each in itertools.islice(lists, 0, None, 7):
                each.append(-1)
            memory.reclaim()
            del held
            changed = all(lists[n] == [n, -1] for n in range(0, MANY, 7))
            return changed and lists[1] == [1] and lists[6] == [6]

        return in_fork(child) == 0

    assert in_fork(publish) == 0


@needs_layout
@needs_library
def test_counts_of_mortal_objects_are_kept() -> None:
    """What was made after the counts were raised is freed when the last reference goes."""

    def publish() -> bool:
        counts = memory.settle()
        things = [str(number) for number in range(MANY)]
        assert memory.publish(counts)

        def child() -> bool:
            held = [things[:] for _ in range(5)]
            memory.reclaim()
            assert {sys.getrefcount(each) for each in things} == {len(held) + 3}
            held.clear()
            memory.reclaim()
            assert {sys.getrefcount(each) for each in things} == {3}
            return things == [str(number) for number in range(MANY)]

        return in_fork(child) == 0

    assert in_fork(publish) == 0


@needs_library
def test_count_that_was_not_raised_is_kept_wherever_it_is_said_to_be() -> None:
    """The library looks at the counts as well: a small one has a meaning."""

    def publish() -> bool:
        things = [[number] for number in range(1000)]
        assert memory.publish(array("Q", map(id, things)))

        def child() -> bool:
            alone = {sys.getrefcount(each) for each in things}
            held = things[:]
            memory.reclaim()
            return {sys.getrefcount(each) - 1 for each in held} == alone

        return in_fork(child) == 0

    assert in_fork(publish) == 0


@pytest.mark.parametrize(
    "known",
    [
        {"immortal.IS_CPYTHON_3_11": False, "immortal.HAS_IMMORTALS": False},
        {"sys.gettotalrefcount": lambda: 0},
    ],
    ids=["version", "debug build"],
)
def test_unknown_interpreter_is_left_alone(
    known: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No count is where it is expected to be: nothing is written."""
    thing = object()
    count = sys.getrefcount(thing)
    for name, value in known.items():
        monkeypatch.setattr(
            name.replace("immortal", "shimv2.pagesharing.immortal"), value, raising=False
        )

    assert not immortal.make()
    assert sys.getrefcount(thing) == count


def test_count_that_does_not_follow_the_references_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The probe decides, whatever the version says."""

    class Count:
        value = 1

    monkeypatch.setattr(immortal, "_count_at", lambda _address: Count)

    assert not immortal.make()
    assert Count.value == 1
