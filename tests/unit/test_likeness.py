"""A waiting child takes over its launcher's state; usually the two are equal already."""

import os
import resource
from pathlib import Path

import pytest

from shimv2.kernel import linux
from shimv2.zygote import attributes
from tests.support.forks import in_fork

LIBRARY = Path(attributes._LIBRARY)
needs_library = pytest.mark.skipif(not LIBRARY.exists(), reason="no C compiler made the library")


def state() -> bytes:
    """Return the text that zygote/description.c writes for this process, made in Python."""
    soft = [resource.getrlimit(number)[0] for number in range(16)]
    policy, priority = os.sched_getscheduler(0), os.sched_getparam(0).sched_priority
    umask = os.umask(0o022)
    os.umask(umask)
    lines = [
        f"umask {umask:o}",
        f"nice {os.getpriority(os.PRIO_PROCESS, 0)}",
        f"ioprio {linux.io_priority()}",
        f"scheduler {policy} {priority}",
        f"timer-slack {linux.prctl(30)}",  # PR_GET_TIMERSLACK
        " ".join(["affinity", *map(str, sorted(os.sched_getaffinity(0)))]),
        f"machine-check {linux.prctl(34)}",  # PR_MCE_KILL_GET
        f"coredump-filter {Path('/proc/self/coredump_filter').read_text().strip()}",
        *(f"soft {number} {limit % 2**64}" for number, limit in enumerate(soft)),
        *(f"cgroup {line}" for line in Path("/proc/self/cgroup").read_text().splitlines()),
    ]
    return "".join(f"{line}\n" for line in lines).encode()


@needs_library
def test_child_with_the_launchers_state_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No line is parsed: the library writes the same ones."""
    monkeypatch.setattr(attributes.State, "parse", lambda _state: 1 / 0)
    attributes.apply_state(state())


@pytest.mark.parametrize("library", [pytest.param(True, marks=needs_library), False])
def test_what_differs_is_made_the_same(monkeypatch: pytest.MonkeyPatch, library: bool) -> None:
    """With and without the library, for the umask and the priority."""
    if not library:
        monkeypatch.setattr(attributes, "_is_like", None)

    def changed() -> bool:
        os.umask(0o022)
        nice = os.getpriority(os.PRIO_PROCESS, 0)
        wanted = state().replace(b"umask 22\n", b"umask 27\n")
        attributes.apply_state(wanted.replace(b"nice %d\n" % nice, b"nice %d\n" % (nice + 1)))
        return os.umask(0) == 0o027 and os.getpriority(os.PRIO_PROCESS, 0) == nice + 1

    assert in_fork(changed) == 0


def test_a_line_that_is_not_understood_is_refused() -> None:
    """A launcher of another build is not served."""
    with pytest.raises(ValueError, match="is not understood: colour blue"):
        attributes.apply_state(state() + b"colour blue\n")
