"""The state in a launcher's request: the process attributes that a process can change itself.

description.c writes one line for each attribute.  The waiting child first writes its own state with
the same C code.  Usually the two are equal, and nothing has to be changed.  Otherwise only the
attributes that differ are changed.
"""

import ctypes
import os
import resource
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from shimv2 import COMPILED_DIR
from shimv2.cgroups import parse, tree
from shimv2.kernel import linux

# Operations of prctl(2).
_PR_SET_TIMERSLACK: Final = 29
_PR_GET_TIMERSLACK: Final = 30
_PR_MCE_KILL: Final = 33
_PR_MCE_KILL_SET: Final = 1
_PR_MCE_KILL_GET: Final = 34
_COREDUMP_FILTER: Final = "/proc/self/coredump_filter"

_UNKNOWN: Final = "a line of the state is not understood: "
_LIBRARY: Final = os.path.join(COMPILED_DIR, "libstate.so")


def library_function(name: str, *more: Any) -> "ctypes._NamedFuncPointer | None":
    """Return a function of libstate.so; None without the file.

    Its parameters are bytes, their size, and `more`.
    """
    try:
        function: ctypes._NamedFuncPointer = getattr(ctypes.PyDLL(_LIBRARY), name)
    except (OSError, AttributeError):
        return None  # no compiler at the installation, or a file of another build
    function.argtypes = [ctypes.c_char_p, ctypes.c_long, *more]
    return function


_is_like: Final = library_function("pyrunc_is_like_1")


def has_library() -> bool:
    return _is_like is not None


def apply_state(state: bytes) -> None:
    """Take over the launcher's state.

    Raises:
        ValueError: a line is not understood.  OSError: the kernel refuses a change.
    """
    if _is_like is None or not _is_like(state, len(state)):
        State.parse(state).apply()


@dataclass(slots=True)
class State:
    """The attributes that a process keeps through an exec and can change itself."""

    umask: int = 0o022
    nice: int = 0
    io_priority: int = 0
    scheduler: tuple[int, int] = (os.SCHED_OTHER, 0)  # policy, priority
    affinity: frozenset[int] = frozenset()
    timer_slack_ns: int = 50_000
    machine_check_policy: int = 2  # of PR_MCE_KILL: 0 late, 1 early, 2 the system's default
    coredump_filter: str = "-"  # as in /proc/self; "-": the kernel has no core dumps
    soft_limits: dict[int, int] = field(default_factory=dict)  # by the kernel's number
    cgroups: list[str] = field(default_factory=list)  # lines of /proc/self/cgroup

    @classmethod
    def parse(cls, state: bytes) -> "State":
        """Read the launcher's lines.

        Raises:
            ValueError: a line is not understood, or a number is out of range.
        """
        self = cls()
        for line in os.fsdecode(state).splitlines():
            word, _, rest = line.partition(" ")
            if word == "cgroup":
                self.cgroups.append(rest)
                continue
            try:
                self._take(word, rest.split())
            except (ValueError, IndexError):
                raise ValueError(f"{_UNKNOWN}{line}") from None
        return self

    def _take(self, word: str, values: Sequence[str]) -> None:
        if word == "umask":
            self.umask = int(values[0], 8)
        elif word == "nice":
            self.nice = int(values[0])
        elif word == "ioprio":
            self.io_priority = int(values[0])
        elif word == "scheduler":
            self.scheduler = int(values[0]), int(values[1])
        elif word == "affinity":
            self.affinity = frozenset(map(int, values))
        elif word == "timer-slack":
            self.timer_slack_ns = int(values[0])
        elif word == "machine-check":
            self.machine_check_policy = int(values[0])
        elif word == "coredump-filter":
            self.coredump_filter = values[0]
        elif word == "soft":
            self.soft_limits[int(values[0])] = int(values[1])
        else:
            raise ValueError(word)

    def apply(self) -> None:
        """Change the attributes of this process that differ.

        Raises:
            OSError, ValueError: the kernel refuses a change; earlier changes remain.
        """
        os.umask(self.umask)
        self._join_cgroups()
        for number, soft in self.soft_limits.items():
            now, hard = resource.getrlimit(number)
            if soft != _unsigned(now):
                resource.setrlimit(number, (_signed(soft), hard))
        if os.sched_getaffinity(0) != self.affinity:
            os.sched_setaffinity(0, self.affinity)
        if (os.sched_getscheduler(0), os.sched_getparam(0).sched_priority) != self.scheduler:
            policy, priority = self.scheduler
            os.sched_setscheduler(0, policy, os.sched_param(priority))
        if os.getpriority(os.PRIO_PROCESS, 0) != self.nice:
            os.setpriority(os.PRIO_PROCESS, 0, self.nice)
        if linux.io_priority() != self.io_priority:
            linux.set_io_priority(self.io_priority)
        if linux.prctl(_PR_GET_TIMERSLACK) != self.timer_slack_ns:
            linux.prctl(_PR_SET_TIMERSLACK, self.timer_slack_ns)
        if linux.prctl(_PR_MCE_KILL_GET) != self.machine_check_policy:
            linux.prctl(_PR_MCE_KILL, _PR_MCE_KILL_SET, self.machine_check_policy)
        if self.coredump_filter != "-":
            with open(_COREDUMP_FILTER, "r+", encoding="ascii") as file:
                if file.read().strip() != self.coredump_filter:
                    file.seek(0)
                    file.write(f"0x{self.coredump_filter}")

    def _join_cgroups(self) -> None:
        with open("/proc/self/cgroup", encoding="utf-8") as file:
            now = file.read()
        if now.splitlines() == self.cgroups:
            return
        current, wanted = parse.memberships(now), parse.memberships("\n".join(self.cgroups))
        for folder in tree.directories({c: p for c, p in wanted.items() if current.get(c) != p}):
            with open(f"{folder}/cgroup.procs", "w", encoding="ascii") as procs:
                procs.write(str(os.getpid()))


def _unsigned(limit: int) -> int:
    return limit % 2**64


def _signed(limit: int) -> int:
    return resource.RLIM_INFINITY if limit == 2**64 - 1 else limit
