"""What is measured, and the bounds that the figures have to meet.  Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

Samples = Mapping[str, Sequence[float]]  # by measure
Round = Mapping[str, Samples]  # by shim, one right after the other

MS: Final = 1e3  # milliseconds in a second
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
    """Whether a shim is ours, or a variant of ours that is compared with the peers too."""
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
    """A bound on the ratio ours / peer; without a peer, a bound on our own figure.

    It is met only if the whole 95 % interval is within it: a lucky median does not count.
    """

    measure: str
    peer: str  # "" = the bound is on our own figure
    limit: float
    at_least: bool = False  # the ratio has to be `limit` or more
    goal: float | None = None  # a better value that we aim at; printed, not judged
    ours: str = OURS  # or a variant of it

    def __str__(self) -> str:
        text = f"{'≥' if self.at_least else '≤'} {self.limit:g}"
        return text if self.goal is None else f"{text} ({self.goal:g})"

    def is_met(self, low: float, high: float) -> bool:
        return low >= self.limit if self.at_least else high <= self.limit

    def is_broken(self, low: float, high: float) -> bool:
        """Whether the whole interval is beyond the bound; `make bench-guard` fails only then."""
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
"""The bounds of `make bench`."""

GUARD: Final = (
    Bar("start", GO_1_6, 1.5),  # without the zygote: 8
    Bar("delete", GO_1_6, 3.0),
    Bar("whole", GO_1_6, 3.0),  # the time of runc is in both
    Bar("stdout_cpu", GO_1_6, 0.6),  # without splice: about 1
    Bar("stdout", GO_1_6, 0.8, at_least=True),
    Bar("pss_10", GO_1_6, 1.4),  # usually 1.1; without reclaim 2.6; without sharing 4
    Bar("wakeups", "", 4.0),  # in 5 s: a timer once a second is more
)
"""Wide bounds of `make bench-guard`: beyond one, a whole mechanism does not work."""
