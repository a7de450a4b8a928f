"""What a run has found: samples, and the rows that are told of them.  Pure, but for its JSON."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Self

from bench.measures import OURS, Bar, Measure, Round
from bench.ratios import Ratio, ratio, spread


@dataclass(frozen=True, slots=True)
class Row:
    """Ours against one peer in one measure."""

    measure: Measure
    peer: str  # its label
    pairs: int
    ours: float
    theirs: float | None  # None: a bound on our own figure
    ratio: Ratio  # or our own figure with its interval
    bar: Bar | None

    @property
    def is_met(self) -> bool | None:
        return None if self.bar is None else self.bar.is_met(self.ratio.low, self.ratio.high)

    @property
    def is_broken(self) -> bool:
        return self.bar is not None and self.bar.is_broken(self.ratio.low, self.ratio.high)


@dataclass(slots=True)
class Results:
    machine: Mapping[str, str]
    peers: Mapping[str, str]  # name: label
    bars: Sequence[Bar]
    measures: dict[str, Measure] = field(default_factory=dict)
    samples: dict[str, dict[str, list[float]]] = field(default_factory=dict)  # measure, peer

    def add(self, measures: Sequence[Measure], found: Round) -> None:
        """Take the samples of one round, those of the measures that are asked for."""
        for measure in measures:
            for peer, samples in found.items():
                if measure.name in samples:
                    self.measures[measure.name] = measure
                    of_measure = self.samples.setdefault(measure.name, {})
                    of_measure.setdefault(peer, []).extend(samples[measure.name])

    def rows(self) -> Iterator[Row]:
        """Compare, in the order of the measures; a bar on our own figure has a row of its own."""
        for name, measure in self.measures.items():
            ours = self.samples[name].get(OURS)
            if ours is None:
                continue
            for peer, label in self.peers.items():
                theirs = self.samples[name].get(peer)
                if peer != OURS and theirs is not None:
                    compared = ratio(ours, theirs)
                    yield Row(
                        measure,
                        label,
                        len(ours),
                        median(ours),
                        median(theirs),
                        compared,
                        self._bar(name, peer),
                    )
            if bar := self._bar(name, ""):
                yield Row(measure, "", len(ours), median(ours), None, spread(ours), bar)

    def _bar(self, measure: str, peer: str) -> Bar | None:
        return next((b for b in self.bars if (b.measure, b.peer) == (measure, peer)), None)

    # --- JSON -------------------------------------------------------------------------------------

    def to_json(self) -> str:
        """Write everything that is needed to tell it again, and the ratios for other readers."""
        ratios = [
            {
                "measure": row.measure.name,
                "peer": row.peer,
                "ours": row.ours,
                "theirs": row.theirs,
                "ratio": row.ratio.value,
                "interval": [row.ratio.low, row.ratio.high],
                "bar": None if row.bar is None else str(row.bar),
                "met": row.is_met,
            }
            for row in self.rows()
        ]
        whole = {
            "machine": dict(self.machine),
            "peers": dict(self.peers),
            "bars": [asdict(bar) for bar in self.bars],
            "measures": [asdict(measure) for measure in self.measures.values()],
            "samples": self.samples,
            "ratios": ratios,
        }
        return json.dumps(whole, indent=1, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Self:
        whole = json.loads(text)
        measures = [Measure(**each) for each in whole["measures"]]
        return cls(
            machine=whole["machine"],
            peers=whole["peers"],
            bars=[Bar(**each) for each in whole["bars"]],
            measures={measure.name: measure for measure in measures},
            samples=whole["samples"],
        )
