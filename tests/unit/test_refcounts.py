"""Objects whose counts have no meaning: a fork loses changes of counts, and nothing else."""

import ctypes
import gc
import itertools
import os
import resource
import sys
from array import array
from collections.abc import Callable
from pathlib import Path
from types import FunctionType

import pytest

from shimv2 import COMPILED_DIR
from shimv2.pagesharing import publish, reclaim, refcounts, support
from tests.support.forks import in_fork

pytestmark = pytest.mark.usefixtures("_large_process")

LIBRARY = Path(COMPILED_DIR, "libmemory.so")
needs_library = pytest.mark.skipif(not LIBRARY.exists(), reason="no C compiler")
needs_layout = pytest.mark.skipif(
    bool(support.why_not(support.Build.current())), reason="this interpreter is declined"
)

MANY = 200_000  # these objects are on more than a thousand pages


def in_fork_of_published(work: Callable[[list[str]], object]) -> int:
    """Run `work` with many strings, in a fork of a process that has published them."""

    def parent() -> bool:
        things = [str(number) for number in range(MANY)]
        publish.publish(publish.settle())
        return in_fork(lambda: work(things)) == 0

    return in_fork(parent)


def has_no_meaning(count: int) -> bool:
    """Whether a count is one that `make_immortal` sets."""
    if not refcounts.HAS_IMMORTALS:
        return refcounts.BIAS <= count < 2 * refcounts.BIAS
    return count >= 2**31  # the lower half: the interpreter's own objects may have another value


@needs_layout
def test_counts_of_everything_lose_their_meaning_once() -> None:
    """All reachable objects: on the heap and in the program, tracked by the collector or not."""

    def work() -> bool:
        text = f"a text of {os.getpid()}"
        code = work.__code__
        inner = (1.5, text)
        kept = {"key": [inner]}
        addresses = refcounts.make_immortal()
        seen = [text, inner, kept, *kept, code, code.co_consts, code.co_names, code.co_linetable]
        seen += [None, type, int.__add__, dict.__dict__["get"], os.path.join, sys.modules, array]
        assert [each for each in seen if not has_no_meaning(sys.getrefcount(each))] == []
        if not refcounts.HAS_IMMORTALS:  # later versions do not write to counts
            assert {id(each) for each in seen} <= set(addresses)
        assert len(addresses) == len(set(addresses))
        later = f"a text of {len(seen)}"
        return sys.getrefcount(later) <= 2 and refcounts.BIAS > 2**30

    assert in_fork(work) == 0


@needs_layout
@pytest.mark.skipif(not refcounts.HAS_IMMORTALS, reason="3.11 writes to all objects")
def test_counts_of_immortal_objects_are_not_written() -> None:
    """No kind of reference writes: of a list, of a call, of the interpreter's stack."""

    def returned(thing: object) -> object:
        return thing

    def work() -> bool:
        functions = [each for each in gc.get_objects() if isinstance(each, FunctionType)]
        refcounts.make_immortal()

        def counts() -> list[int]:
            return [ctypes.c_uint64.from_address(id(each)).value for each in functions]

        before = counts()
        held = [returned(each) for each in functions for _ in range(5)]
        del held
        gc.collect()
        return counts() == before

    assert in_fork(work) == 0


@needs_layout
@needs_library
def test_reading_of_objects_keeps_no_page() -> None:
    """3.11 writes to each object, and the reclaim resets that; later versions do not write."""

    def work(things: list[str]) -> bool:
        def copied() -> int:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            for each in things:
                assert each
            return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

        copied()  # pages are read for the first time
        if refcounts.HAS_IMMORTALS:
            return copied() < 10
        return reclaim.reclaim() > 1000 and copied() > 1000

    assert in_fork_of_published(work) == 0


@needs_layout
@needs_library
def test_references_a_fork_holds_keep_no_page() -> None:
    """Only counts have changed: the pages are given up, and the objects on them are unharmed."""

    def work(things: list[str]) -> bool:
        for _ in range(3):
            held = [things[:] for _ in range(5)]
            given = reclaim.reclaim()
            assert given > 1000 or refcounts.HAS_IMMORTALS, given
            assert reclaim.reclaim() < 100
            del held  # decrements five more times than the counts were incremented since
            gc.collect()
        reclaim.reclaim()
        return things == [str(number) for number in range(MANY)]

    assert in_fork_of_published(work) == 0


@needs_layout
@needs_library
def test_immortal_is_never_freed_nor_changed_in_place() -> None:
    """It exists after all references were dropped, repeatedly; no code changes it in place."""

    def work(things: list[str]) -> bool:
        addresses = [id(each) for each in things]
        pair = things[:2]
        for _ in range(3):
            held = things[:]
            reclaim.reclaim()
            del held
        del things[:]
        gc.collect()
        reclaim.reclaim()
        fresh = [str(number) + "!" for number in range(MANY)]
        pair[0] += " and more"  # in place if this were the only reference
        assert not {id(each) for each in fresh} & set(addresses)
        return pair == ["0 and more", "1"] and fresh[-1] == f"{MANY - 1}!"

    assert in_fork_of_published(work) == 0


@needs_layout
@needs_library
def test_other_changes_beside_the_counts_are_kept() -> None:
    """A page with any other change is kept, with the counts on it."""

    def parent() -> bool:
        lists = [[number] for number in range(MANY)]
        publish.publish(publish.settle())

        def child() -> bool:
            held = lists[:]
            for each in itertools.islice(lists, 0, None, 7):
                each.append(-1)
            reclaim.reclaim()
            del held
            changed = all(lists[n] == [n, -1] for n in range(0, MANY, 7))
            return changed and lists[1] == [1] and lists[6] == [6]

        return in_fork(child) == 0

    assert in_fork(parent) == 0


@needs_layout
@needs_library
def test_counts_of_mortal_objects_are_kept() -> None:
    """Later objects are freed with their last reference."""

    def parent() -> bool:
        meaningless = publish.settle()
        things = [str(number) for number in range(MANY)]
        publish.publish(meaningless)

        def child() -> bool:
            (before,) = {sys.getrefcount(each) for each in things}
            held = [things[:] for _ in range(5)]
            reclaim.reclaim()
            assert {sys.getrefcount(each) for each in things} == {before + len(held)}
            held.clear()
            reclaim.reclaim()
            assert {sys.getrefcount(each) for each in things} == {before}
            return things == [str(number) for number in range(MANY)]

        return in_fork(child) == 0

    assert in_fork(parent) == 0


@needs_library
def test_count_that_was_not_raised_is_kept_at_each_published_address() -> None:
    """The library checks the counts too: a small count has a meaning."""

    def parent() -> bool:
        things = [[number] for number in range(1000)]
        publish.publish(publish.Meaningless(counts=array("Q", map(id, things))))

        def child() -> bool:
            alone = {sys.getrefcount(each) for each in things}
            held = things[:]
            reclaim.reclaim()
            return {sys.getrefcount(each) - 1 for each in held} == alone

        return in_fork(child) == 0

    assert in_fork(parent) == 0


def test_count_that_does_not_follow_the_references_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The probe decides, not the version."""

    class Count:
        value = 1

    monkeypatch.setattr(refcounts, "_ob_refcnt", lambda _address: Count)

    assert not refcounts.is_layout_known()
    with pytest.raises(publish.CannotShare):
        publish.settle()
    assert Count.value == 1
