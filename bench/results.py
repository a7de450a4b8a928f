"""The results of a run: samples, and the rows that are printed.  Pure."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Self

from bench.measures import OURS, Bar, Measure, Round, is_ours
from bench.ratios import Ratio, ratio, spread


@dataclass(frozen=True, slots=True)
class Row:
    """Ours, or a variant of it, against one peer in one measure."""

    measure: Measure
    variant: str  # its label, "" = ours itself
    peer: str  # its label
    pairs: int
    ours: float
    theirs: float | None  # None: a bound on our own figure
    ratio: Ratio  # or our own figure with its interval
    bar: Bar | None

    @property
    def title(self) -> str:
        return f"{self.measure.title}, {self.variant}" if self.variant else self.measure.title

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
        """Add the samples of one round, for the wanted measures."""
        for measure in measures:
            for peer, samples in found.items():
                if measure.name in samples:
                    self.measures[measure.name] = measure
                    of_measure = self.samples.setdefault(measure.name, {})
                    of_measure.setdefault(peer, []).extend(samples[measure.name])

    def rows(self) -> Iterator[Row]:
        """Yield the comparisons by measure; a bar on our own figure is a row of its own."""
        for name in self.measures:
            for shim in filter(is_ours, self.peers):
                if shim in self.samples[name]:
                    yield from self._rows_of(name, shim)

    def _rows_of(self, name: str, shim: str) -> Iterator[Row]:
        measure, samples = self.measures[name], self.samples[name]
        ours = samples[shim]
        variant = "" if shim == OURS else self.peers[shim]
        for peer, label in self.peers.items():
            if is_ours(peer) or peer not in samples:
                continue
            theirs = samples[peer]
            yield Row(
                measure,
                variant,
                label,
                len(ours),
                median(ours),
                median(theirs),
                ratio(ours, theirs),
                self._bar(name, shim, peer),
            )
        if bar := self._bar(name, shim, ""):
            yield Row(measure, variant, "", len(ours), median(ours), None, spread(ours), bar)

    def _bar(self, measure: str, shim: str, peer: str) -> Bar | None:
        wanted = (measure, shim, peer)
        return next((b for b in self.bars if (b.measure, b.ours, b.peer) == wanted), None)

    # --- JSON -------------------------------------------------------------------------------------

    def to_json(self) -> str:
        """Return all that is needed to print the report again, and the ratios for other readers."""
        ratios = [
            {
                "measure": row.measure.name,
                "variant": row.variant,
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
