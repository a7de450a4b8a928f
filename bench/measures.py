"""What is measured, and which of it has to be how good.  Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

Samples = Mapping[str, Sequence[float]]  # by measure
Round = Mapping[str, Samples]  # by shim: of all, taken one right after the other

MS: Final = 1e3  # of these a second has
US: Final = 1e6

OURS: Final = "ours"
UNSHARED: Final = "ours-unshared"  # with `share_memory = "off"`
PYTHON_3_13: Final = "ours-3.13"  # installed for that Python
PYTHON_3_14: Final = "ours-3.14"
GO_1_6: Final = "go-1.6"
GO_1_7: Final = "go-1.7"
GO_2_1: Final = "go-2.1"
GO_2_4: Final = "go-2.4"
RUST: Final = "rust"


def is_ours(name: str) -> bool:
    """Tell whether a shim is ours or a variant of it, which is compared with the peers, too."""
    return name == OURS or name.startswith(f"{OURS}-")


@dataclass(frozen=True, slots=True)
class Measure:
    """One figure.  Its samples have one unit; the ratio of two shims' medians is printed."""

    name: str
    title: str
    unit: str
    more_is_better: bool = False


@dataclass(frozen=True, slots=True)
class Bar:
    """A bound on the ratio ours / peer, or without a peer on our own figure.

    It is met when the end of the 95 % interval that is nearer to it is within: a lucky median does
    not count.
    """

    measure: str
    peer: str  # "" = the bound is on our own figure
    limit: float
    at_least: bool = False  # the ratio is to be that or more
    goal: float | None = None  # where we want to be; printed, not judged
    ours: str = OURS  # or a variant of it

    def __str__(self) -> str:
        text = f"{'≥' if self.at_least else '≤'} {self.limit:g}"
        return text if self.goal is None else f"{text} ({self.goal:g})"

    def is_met(self, low: float, high: float) -> bool:
        return low >= self.limit if self.at_least else high <= self.limit

    def is_broken(self, low: float, high: float) -> bool:
        """Tell whether it is missed for certain: what a guard on a noisy machine asks."""
        return high < self.limit if self.at_least else low > self.limit


BARS: Final = (
    Bar("start", GO_2_1, 0.35),
    Bar("start", GO_1_6, 0.55),
    Bar("start", RUST, 0.7),
    Bar("start_cold", GO_2_1, 10.0),
    Bar("delete", GO_2_1, 1.0),
    Bar("delete", GO_1_6, 1.0),
    Bar("gone", GO_2_1, 1.1),
    Bar("whole", GO_2_1, 0.7),
    Bar("whole", GO_1_6, 0.95),
    Bar("whole", RUST, 1.0),
    Bar("whole_crun", GO_2_1, 0.7),
    Bar("whole_crun", GO_1_6, 0.85),
    Bar("exec", GO_2_1, 1.0, goal=0.95),
    Bar("exec", GO_1_6, 1.0, goal=0.95),
    Bar("exec", RUST, 1.15, goal=1.0),
    Bar("exec_read_wait", GO_2_1, 1.8),
    Bar("exec_read_wait", GO_1_6, 1.8),
    Bar("state_p50", GO_2_1, 1.1),
    Bar("state_p50", GO_1_6, 1.15),
    Bar("state_p50", RUST, 1.0),
    Bar("state_rate", GO_2_1, 0.9, at_least=True),
    Bar("state_rate", GO_1_6, 0.9, at_least=True),
    Bar("cat_8", GO_2_1, 1.2),
    Bar("cat_4096", GO_2_1, 1.0),
    Bar("cat_65536", GO_2_1, 0.75),
    Bar("stdout", GO_2_1, 3.3, at_least=True),
    Bar("stdout", GO_1_6, 1.5, at_least=True),
    Bar("stdout_cpu", GO_2_1, 0.25),
    Bar("stdout_cpu", GO_1_6, 0.2),
    Bar("pss_1", GO_2_1, 1.5, goal=1.2),
    Bar("pss_used_20", GO_2_1, 0.6),
    Bar("pss_used_20", GO_1_6, 1.1),
    Bar("pss_used_20", RUST, 1.8, goal=1.2),
    Bar("pss_used_20", GO_2_1, 0.7, ours=PYTHON_3_13),
    Bar("pss_used_20", GO_2_1, 0.8, ours=PYTHON_3_14),
    Bar("pss_used_20", GO_2_1, 1.0, ours=UNSHARED),
    Bar("wakeups", "", 0.0),
)
"""What `make bench` has to show."""

GUARD: Final = (
    Bar("start", GO_1_6, 1.5),  # without the zygote: 8
    Bar("delete", GO_1_6, 3.0),
    Bar("whole", GO_1_6, 3.0),  # what runc takes is in both
    Bar("stdout_cpu", GO_1_6, 0.6),  # without splice: about 1
    Bar("stdout", GO_1_6, 0.8, at_least=True),
    Bar("pss_10", GO_1_6, 1.4),  # it is 1.1; one that gives nothing back: 2.6; shares nothing: 4
    Bar("wakeups", "", 4.0),  # in 5 s: a timer once a second is more
)
"""Wide: what breaks one of these has lost a whole mechanism."""
