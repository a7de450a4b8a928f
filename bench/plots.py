"""Draws two kinds of plots as SVG, without a library.  Pure."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Final

from bench.measures import OURS
from bench.report import figure
from bench.results import Results, Row

_WIDTH: Final = 860
_LABEL: Final = 350  # x of the drawing; labels are left of it
_LINE: Final = 24
_TOP: Final = 56
_COLOURS: Final = (
    "#3b6fb6", "#d1603d", "#4f9d69", "#8a5fa8", "#777777", "#c9a227", "#3f9aa6", "#a34a6b",
)  # fmt: skip
_MAX_DECADES: Final = 2.0  # of a ratio to either side


def plots(results: Results, numbers: Sequence[int]) -> dict[str, tuple[str, str]]:
    """Return file name -> title and SVG, for each plot that has figures."""
    found = {}
    judged = [row for row in results.rows() if row.bar is not None and row.theirs is not None]
    if judged:
        title = "Ratio to the peer, with its 95 % interval; the tick is the bar"
        found["ratios.svg"] = (title, ratios(title, judged))
    groups = {
        f"{number} shim{'s' if number > 1 else ''}": {
            peer: sorted(samples)[len(samples) // 2]
            for peer, samples in results.samples[f"pss_used_{number}"].items()
        }
        for number in numbers
        if f"pss_used_{number}" in results.samples
    }
    if groups:
        title = "Memory (PSS, KiB) per shim with a container, after execs, by number of shims"
        found["memory.svg"] = (title, bars(title, groups, results.peers))
    return found


def ratios(title: str, rows: Sequence[Row]) -> str:
    """Draw a line for each ratio, on a logarithmic axis around 1."""
    decades = [abs(math.log10(max(r.ratio.low, 1e-3))) for r in rows]
    decades += [abs(math.log10(max(min(r.ratio.high, 1e3), 1e-3))) for r in rows]
    reach = min(max([*decades, 0.3]) * 1.1, _MAX_DECADES)
    half = (_WIDTH - _LABEL - 40) / 2

    def x(value: float) -> float:
        at = math.log10(max(value, 1e-9)) / reach
        return _LABEL + half + half * max(-1.0, min(1.0, at))

    bottom = _TOP + _LINE * len(rows)
    parts = []
    for mark in (0.01, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 100):
        if abs(math.log10(mark)) <= reach:
            parts.append(_line(x(mark), _TOP - 8, x(mark), bottom, "#999" if mark == 1 else "#ddd"))
            parts.append(_text(x(mark), _TOP - 14, f"{mark:g}", anchor="middle"))
    for number, row in enumerate(rows):
        y = _TOP + _LINE * number + _LINE / 2
        colour = _COLOURS[2] if row.is_met else _COLOURS[1]
        label = f"{row.title} / {row.peer}".replace("`", "")  # SVG text has no code font
        parts.append(_text(_LABEL - 12, y + 4, label, anchor="end"))
        parts.append(_line(x(row.ratio.low), y, x(row.ratio.high), y, colour, width=3))
        parts.append(f'<circle cx="{x(row.ratio.value):.1f}" cy="{y}" r="5" fill="{colour}"/>')
        if row.bar is not None:
            at = x(row.bar.limit)
            parts.append(_line(at, y - 8, at, y + 8, "#333", width=2))
    return _svg(title, bottom + 20, parts)


def bars(title: str, groups: Mapping[str, Mapping[str, float]], labels: Mapping[str, str]) -> str:
    """Draw groups of horizontal bars from 0, one bar a peer."""
    longest = max((value for group in groups.values() for value in group.values()), default=1.0)
    room = _WIDTH - _LABEL - 110
    order = [OURS, *(name for name in labels if name != OURS)]
    parts = []
    y = _TOP
    for name, group in groups.items():
        parts.append(_text(12, y + 16, name))
        for peer in order:
            if peer not in group:
                continue
            width = room * group[peer] / longest
            colour = _COLOURS[order.index(peer) % len(_COLOURS)]
            parts.append(_text(_LABEL - 12, y + 16, labels[peer], anchor="end"))
            parts.append(
                f'<rect x="{_LABEL}" y="{y + 4}" width="{width:.1f}" height="16" fill="{colour}"/>'
            )
            parts.append(_text(_LABEL + width + 8, y + 16, figure(group[peer])))
            y += _LINE
        y += _LINE // 2
    return _svg(title, y + 10, parts)


def _svg(title: str, height: float, parts: Sequence[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height:.0f}" '
        f'font-family="sans-serif" font-size="13">'
    )
    ground = f'<rect width="{_WIDTH}" height="{height:.0f}" fill="#ffffff"/>'
    return "\n".join([head, ground, _text(12, 22, title, size=15), *parts, "</svg>"]) + "\n"


def _text(x: float, y: float, text: str, *, anchor: str = "start", size: int = 13) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="#222">'
        f"{escape(text)}</text>"
    )


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, *, width: int = 1) -> str:
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" '
        f'stroke-width="{width}"/>'
    )
