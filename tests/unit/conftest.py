"""Fixtures of the tests of single modules."""

import pytest

from shimv2.pagesharing import publish


@pytest.fixture
def _large_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Raise the memory bound: with the modules of all tests this process is larger than any
    shim."""
    monkeypatch.setattr(publish, "_MAX_IMAGE_BYTES", 1 << 30)
