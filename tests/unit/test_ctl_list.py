"""The memory column of `shimctl list`."""

import os
import re
import sys

import pytest

from shimv2.shimctl.commands.list_ import _pss


def test_memory_of_a_process_is_shown_in_mib() -> None:
    """Shared pages count in part (PSS): the sum over all shims is what they use together."""
    assert re.fullmatch(r"\d+\.\d MiB", _pss(os.getpid()))


@pytest.mark.parametrize("psutil_is_there", [True, False])
def test_memory_that_cannot_be_read_is_a_dash(
    monkeypatch: pytest.MonkeyPatch, psutil_is_there: bool
) -> None:
    """psutil is an extra, and the process may have ended."""
    if not psutil_is_there:
        monkeypatch.setitem(sys.modules, "psutil", None)  # an import of it fails

    assert _pss(2**22 + 1 if psutil_is_there else os.getpid()) == "-"
