"""The calls of a warm-up are those of a shim's life: they are served, not refused."""

from pathlib import Path

import pytest

from shimv2.zygote import warmup
from tests.support.forks import in_fork


def test_calls_of_a_warm_up_are_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All but Stats: what stands in for a container has no cgroup of its own."""
    call, told = warmup._call, tmp_path / "told"
    place = tmp_path / "place"
    place.mkdir()
    monkeypatch.setattr(warmup, "_call", lambda *args: told.write_text("\n".join(call(*args))))

    def work() -> bool:
        warmup._serve_once(str(place))
        return True

    assert in_fork(work) == 0
    stats = "Stats: cgroup does not exist: not found"
    assert told.read_text().splitlines() == [stats] * warmup._ROUNDS
