"""The outcome of a whole run as text: a table of scenarios and peers, then every difference."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tests.differential.peers import Peer
from tests.differential.verdict import Judged, Kind

_INDENT = " " * 6


@dataclass(slots=True)
class Report:
    peers: Sequence[Peer] = ()
    scenarios: dict[str, list[list[Judged]]] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """Return the table, then the differences; those between Go shims are only counted."""
        width = max(map(len, self.scenarios), default=0)
        lines = [self._line("scenario", "steps", list(map(str, self.peers)), width)]
        for name, judged in sorted(self.scenarios.items()):
            cells = [_cell(steps) for steps in judged]
            lines.append(self._line(name, str(len(judged[0])), cells, width))
        every = [
            [step for per in self.scenarios.values() for step in per[n]] for n in self._columns
        ]
        if every:
            cells = [_cell(steps) for steps in every]
            lines.append(self._line("all", str(len(every[0])), cells, width))
        lines += self._allowed()
        for name, judged in sorted(self.scenarios.items()):
            lines += differences(name, self.by_peer(judged), Kind.DIFFERENT)
        return lines

    def by_peer(self, judged: Sequence[list[Judged]]) -> dict[str, list[Judged]]:
        return dict(zip(map(str, self.peers), judged, strict=True))

    def _allowed(self) -> list[str]:
        """Return one difference for every row that allows some, and the number of the others."""
        rows: dict[str, list[list[str]]] = {}
        for name, judged in sorted(self.scenarios.items()):
            allowed = {one.step: one.row for steps in judged for one in steps if one.row}
            for step, row in allowed.items():
                per_peer = {
                    peer: [one for one in steps if one.step == step]
                    for peer, steps in self.by_peer(judged).items()
                }
                rows.setdefault(row, []).append(differences(name, per_peer, Kind.ALLOWED))
        return [
            line
            for row, found in rows.items()
            for line in (f"{row}: {len(found)} allowed, as", *found[0])
        ]

    @property
    def _columns(self) -> range:
        return range(len(self.peers))

    @staticmethod
    def _line(name: str, steps: str, cells: Sequence[str], width: int) -> str:
        return f"{name:{width}} {steps:>5}  {'  '.join(f'{cell:33}' for cell in cells)}".rstrip()


def differences(scenario: str, judged: Mapping[str, Sequence[Judged]], kind: Kind) -> list[str]:
    """Return the differences of one kind; equal answers of several peers are combined."""
    together: dict[str, dict[str, list[str]]] = {}
    heads: dict[str, Judged] = {}
    for peer, steps in judged.items():
        for step in steps:
            if step.kind is kind:
                heads.setdefault(step.step, step)
                together.setdefault(step.step, {}).setdefault(step.theirs, []).append(peer)
    lines = []
    for name, answers in together.items():
        lines += [f"{kind.value}: {scenario}: {name}", *_answer("ours", heads[name].ours)]
        for theirs, peers in answers.items():
            lines += _answer(", ".join(peers), theirs)
    return lines


def _answer(who: str, text: str) -> list[str]:
    first, *rest = text.splitlines() or ["(empty)"]
    return [f"    {who}: {first}", *(f"{_INDENT}{line}" for line in rest)]


def _cell(steps: Sequence[Judged]) -> str:
    count = Counter(step.kind for step in steps)
    return " ".join(f"{count[kind]} {kind.value}" for kind in Kind if count[kind])
