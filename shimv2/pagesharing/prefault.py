"""Prefaulting: the waiting child maps the pages that another shim has used (_prefault.c).

One request for all pages costs less than a page fault for each of them.  And it costs a `start`
no time, because the waiting child is idle.
"""

from array import array
from collections.abc import Callable
from typing import Final

from shimv2.pagesharing import publish

__all__ = ["prefault", "report_used_pages", "report_used_pages_to"]

_MAX_RUNS: Final = 4096  # of pages

_report: Final[list[Callable[[bytes], object]]] = []


def report_used_pages_to(report: Callable[[bytes], object]) -> None:
    """Make this process report its used pages once, before it is idle for the first time."""
    _report.append(report)


def report_used_pages() -> None:
    """Report the used pages, if a report is requested and not sent yet."""
    if _report and publish.is_published():
        _report.pop()(used_pages())


def used_pages() -> bytes:
    """List the present pages as runs, in the form that `prefault` takes."""
    library = publish.published_library()
    if library is None:
        return b""
    runs = array("Q", bytes(2 * _MAX_RUNS * 8))
    return runs[: library.pyrunc_used_pages_1(*runs.buffer_info())].tobytes()


def prefault(runs: bytes) -> None:
    """Map the pages that another fork of the same zygote has read, and copy those it has copied."""
    library = publish.published_library()
    if library is not None:
        numbers = array("Q", runs)
        library.pyrunc_prefault_1(*numbers.buffer_info())
