"""Prefaulting: the waiting child gets the pages that another shim has used (_prefault.c).

A page fault for each of them takes longer than copying them all at once, while there is nothing
else to do.
"""

from array import array
from collections.abc import Callable
from typing import Final

from shimv2.pagesharing import publish

__all__ = ["prefault", "report_used_pages", "report_used_pages_to"]

_MAX_RUNS: Final = 4096  # of pages

_report: Final[list[Callable[[bytes], object]]] = []


def report_used_pages_to(report: Callable[[bytes], object]) -> None:
    """Have this process report once, at its first rest or its end, which pages it has used."""
    _report.append(report)


def report_used_pages() -> None:
    """Report now, unless it has been done or nobody has asked for it."""
    if _report and publish.is_published():
        _report.pop()(used_pages())


def used_pages() -> bytes:
    """List the pages that are present, as runs that `prefault` understands."""
    library = publish.published_library()
    if library is None:
        return b""
    runs = array("Q", bytes(2 * _MAX_RUNS * 8))
    return runs[: library.pyrunc_used_pages_1(*runs.buffer_info())].tobytes()


def prefault(runs: bytes) -> None:
    """Read, or copy, the pages that another fork of the same zygote has read or copied."""
    library = publish.published_library()
    if library is not None:
        numbers = array("Q", runs)
        library.pyrunc_prefault_1(*numbers.buffer_info())
