"""What is measured, and which of it has to be how good.  Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

Samples = Mapping[str, Sequence[float]]  # by measure
Round = Mapping[str, Samples]  # by shim: of all, taken one right after the other

MS: Final = 1e3  # of these a second has
US: Final = 1e6

OURS: Final = "ours"
GO_1_6: Final = "go-1.6"
GO_1_7: Final = "go-1.7"
GO_2_1: Final = "go-2.1"


@dataclass(frozen=True, slots=True)
class Measure:
    """One figure: its samples are numbers of one unit, the ratio of two shims' medians is told."""

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

    def __str__(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.limit:g}"

    def is_met(self, low: float, high: float) -> bool:
        return low >= self.limit if self.at_least else high <= self.limit

    def is_broken(self, low: float, high: float) -> bool:
        """Tell whether it is missed for certain: what a guard on a noisy machine asks."""
        return high < self.limit if self.at_least else low > self.limit


BARS: Final = (
    Bar("start", GO_2_1, 0.7),
    Bar("start", GO_1_6, 0.8),
    Bar("delete", GO_2_1, 1.0),
    Bar("delete", GO_1_6, 1.0),
    Bar("whole", GO_2_1, 0.95),
    Bar("whole", GO_1_6, 0.95),
    Bar("whole_crun", GO_2_1, 0.85),
    Bar("whole_crun", GO_1_6, 0.85),
    Bar("exec", GO_2_1, 1.0),
    Bar("exec", GO_1_6, 1.0),
    Bar("state_p50", GO_2_1, 1.5),
    Bar("state_p50", GO_1_6, 1.7),
    Bar("pss_used_20", GO_2_1, 0.6),
    Bar("pss_used_20", GO_1_6, 1.1),
    Bar("stdout", GO_2_1, 1.3, at_least=True),
    Bar("stdout", GO_1_6, 1.5, at_least=True),
    Bar("stdout_cpu", GO_2_1, 0.25),
    Bar("stdout_cpu", GO_1_6, 0.2),
    Bar("wakeups", "", 0.0),
    Bar("start_cold", GO_2_1, 10.0),
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
