"""Fixtures of the tests of single modules."""

import pytest

from shimv2.pagesharing import publish


@pytest.fixture
def _large_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the test run's own process be shared: with every test's modules it outgrows any shim."""
    monkeypatch.setattr(publish, "_MAX_IMAGE_BYTES", 1 << 30)
