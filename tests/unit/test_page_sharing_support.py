"""Interpreters and machines without sharing of memory: a check finds each of them."""

from dataclasses import replace

import pytest

from shimv2.pagesharing import publish, support
from shimv2.pagesharing.support import Build, why_not
from shimv2.values.sharing import sharing
from tests.support.forks import in_fork

KNOWN = Build(
    implementation="cpython",
    version=(3, 13),
    is_free_threaded=False,
    counts_references=False,
    traces_references=False,
    runs_jit=False,
    machine="x86_64",
    pointer_bits=64,
    c_library="glibc 2.41",
)


@pytest.mark.parametrize("version", [(3, 11), (3, 12), (3, 13), (3, 14)])
def test_known_versions_share(version: tuple[int, int]) -> None:
    assert why_not(replace(KNOWN, version=version)) == ""


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (replace(KNOWN, implementation="pypy"), "pypy is not CPython"),
        (replace(KNOWN, version=(3, 15)), "CPython 3.15 is not known"),
        (replace(KNOWN, version=(3, 10)), "CPython 3.10 is not known"),
        (replace(KNOWN, is_free_threaded=True), "a free-threaded interpreter"),
        (replace(KNOWN, counts_references=True), "a debug build of the interpreter"),
        (replace(KNOWN, traces_references=True), "an interpreter that traces references"),
        (replace(KNOWN, runs_jit=True), "the interpreter's JIT is enabled"),
        (replace(KNOWN, machine="aarch64"), "the machine is no x86-64 but aarch64"),
        (replace(KNOWN, pointer_bits=32), "pointers have 32 bits"),
        (replace(KNOWN, c_library=""), "the C library is not glibc"),
    ],
)
def test_other_builds_decline(build: Build, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They report the reason before anything is changed."""
    monkeypatch.setattr(Build, "current", lambda: build)

    assert why_not(support.Build.current()) == reason
    with pytest.raises(publish.CannotShare, match=reason):
        publish.settle()


def test_memory_map_shows_why_a_process_does_not_share() -> None:
    """A fork inherits it; the end of a long reason is cut."""

    def work() -> bool:
        with open("/proc/self/maps", encoding="utf-8") as maps:
            assert sharing(maps.read()) == "not shared: started without a zygote"
        publish.note_unshared("the canary fails, " + "x" * 400)
        with open("/proc/self/maps", encoding="utf-8") as maps:
            return sharing(maps.read()).startswith("not shared: the canary fails, xxx")

    assert in_fork(work) == 0
