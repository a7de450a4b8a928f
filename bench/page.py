"""docs/performance.md: the results of a run are put between two marks, the rest is hand-written."""

from pathlib import Path
from typing import Final

from bench import plots, report
from bench.results import Results

_BEGIN: Final = "<!-- made by `make performance` from here -->"
_END: Final = "<!-- to here -->"
_HEAD: Final = """# Performance

`make bench` measures this shim and containerd's shims in turns on the same machine. A ratio is the
median of this shim divided by the median of the other one. Its 95 % interval comes from a bootstrap
over the pairs. A bar, such as ≤ 0.7 or ≥ 1.3, is met if the whole interval meets it. The memory of
a shim includes its share of the zygote: the zygote's memory divided by the number of shims.
"""


def write(results: Results, path: Path) -> list[Path]:
    """Write the figures into the page, and the plots into a folder beside it that has its name."""
    folder = path.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    numbers = sorted(
        int(name.removeprefix("pss_used_"))
        for name in results.samples
        if name.startswith("pss_used_")
    )
    drawn = plots.plots(results, numbers)
    written = []
    for name, (_, svg) in drawn.items():
        (folder / name).write_text(svg, encoding="utf-8")
        written.append(folder / name)
    links = [(title, f"{folder.name}/{name}") for name, (title, _) in drawn.items()]
    old = path.read_text(encoding="utf-8") if path.exists() else f"{_HEAD}\n{_BEGIN}\n{_END}\n"
    path.write_text(placed(old, report.page(results, links)), encoding="utf-8")
    return [path, *written]


def placed(old: str, made: str) -> str:
    """Return a page whose text between the marks is replaced.

    Raises:
        ValueError: it has no such marks.
    """
    before, begin, rest = old.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise ValueError(f"the page has no lines {_BEGIN} and {_END}")
    return f"{before}{_BEGIN}\n\n{made}\n\n{_END}{after}"
