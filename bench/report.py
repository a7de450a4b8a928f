"""Results as a table on the terminal and as Markdown.  Pure."""

from collections.abc import Iterable, Sequence
from typing import Final

from bench.results import Results, Row

_HEAD: Final = ("Figure", "pairs", "ours", "peer", "", "ratio", "95 %", "bar", "")


def figure(value: float, unit: str = "") -> str:
    """Format a number with three significant digits and its unit."""
    if value == 0:
        text = "0"
    elif abs(value) >= 100:
        text = f"{value:,.0f}"
    else:
        text = f"{value:.3g}"
    return f"{text} {unit}".rstrip()


def verdict(row: Row) -> str:
    """Judge by the bar; without one, by the side of 1 on which the whole interval is."""
    if row.is_met is not None:
        return "met" if row.is_met else "MISSED"
    if row.ratio.low <= 1 <= row.ratio.high:
        return ""
    return "better" if (row.ratio.low > 1) == row.measure.more_is_better else "worse"


def cells(row: Row) -> Sequence[str]:
    theirs = "" if row.theirs is None else figure(row.theirs, row.measure.unit)
    own = row.theirs is None
    return (
        row.title,
        str(row.pairs),
        figure(row.ours, row.measure.unit),
        row.peer,
        theirs,
        "" if own else f"{row.ratio.value:.2f}",
        f"{row.ratio.low:.2f}-{row.ratio.high:.2f}",
        "" if row.bar is None else str(row.bar),
        verdict(row),
    )


def table(rows: Iterable[Row]) -> str:
    """Format rows as a table for a terminal."""
    lines = [_HEAD, *map(cells, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEAD))]
    out = []
    for line in lines:
        padded = [
            cell.ljust(width) if column in (0, 3, 8) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        out.append("  ".join(padded).rstrip())
    return "\n".join(out)


def markdown(rows: Iterable[Row]) -> str:
    head = ("Figure", "pairs", "ours", "peer", "its figure", "ratio", "95 % interval", "bar", "")
    lines = [head, ("---",) * len(head), *map(cells, rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def summary(rows: Sequence[Row]) -> str:
    """Return how many bars are met, and which are not."""
    judged = [row for row in rows if row.bar is not None]
    missed = [row for row in judged if not row.is_met]
    text = f"{len(judged) - len(missed)} of {len(judged)} bars are met"
    if missed:
        text += "; missed: " + ", ".join(
            row.measure.name
            + (f", {row.variant}," if row.variant else "")
            + (f" against {row.peer}" if row.peer else "")
            for row in missed
        )
    return text


def page(results: Results, plots: Sequence[tuple[str, str]]) -> str:
    """Build the generated part of the page: the machine, plots (title, file), tables."""
    rows = list(results.rows())
    judged = [row for row in rows if row.bar is not None]
    others = [row for row in rows if row.bar is None]
    parts = ["## The machine", _facts(results)]
    parts += ["## The bars", f"{summary(rows)}.", markdown(judged)]
    parts += [f"![{title}]({path})" for title, path in plots]
    parts += ["## Everything else", markdown(others)]
    return "\n\n".join(parts)


def _facts(results: Results) -> str:
    lines = [f"| {name} | {value} |" for name, value in results.machine.items()]
    return "\n".join(["| | |", "|---|---|", *lines])
