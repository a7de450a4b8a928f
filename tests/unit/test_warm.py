"""The calls of a warm-up are those of a real lifecycle: they succeed."""

from pathlib import Path

from shimv2.zygote import warmup
from tests.support.forks import in_fork


def test_calls_of_a_warm_up_are_served(tmp_path: Path) -> None:
    """All except Stats: the fake container has no cgroup of its own."""

    def work() -> bool:
        answers = warmup._run_lifecycles(str(tmp_path / "place"), 2).splitlines()
        refused = [line for line in answers if "not found" in line or "error" in line]
        assert refused == ["Stats: cgroup does not exist: not found"]
        assert "Wait: exit_status=0 exited_at=seconds: 0\nnanos: 0\n 137" in "\n".join(answers)
        return len([line for line in answers if ": " in line]) >= len(warmup._LIFECYCLE)

    assert in_fork(work) == 0


def test_two_warm_ups_give_the_same_answers(tmp_path: Path) -> None:
    """Except pids and times, because the answers of a canary are compared with them."""

    def work() -> bool:
        return warmup._run_lifecycles(str(tmp_path / "place"), 1) == warmup._run_lifecycles(
            str(tmp_path / "place"), 3
        )

    assert in_fork(work) == 0
