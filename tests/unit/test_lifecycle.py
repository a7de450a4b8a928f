"""Every state x step pair of both tables."""

import itertools

import pytest

from shimv2.values.errors import NotFound, WrongState
from shimv2.values.lifecycle import EXEC, INIT, Lifecycle, State, Step, Table

# The reference's table: a state is where the step leads, a text is a refusal.
INIT_RULES: dict[State, dict[Step, State | str]] = {
    State.CREATED: {
        Step.START: State.RUNNING,
        Step.DELETE: State.DELETED,
        Step.PAUSE: "cannot pause task in created state",
        Step.RESUME: "cannot resume task in created state",
        Step.CHECKPOINT: "cannot checkpoint a task in created state",
        Step.EXIT: State.STOPPED,
    },
    State.CREATED_CHECKPOINT: {
        Step.START: State.RUNNING,
        Step.DELETE: State.DELETED,
        Step.PAUSE: "cannot pause task in created state",
        Step.RESUME: "cannot resume task in created state",
        Step.UPDATE: State.CREATED_CHECKPOINT,
        Step.CHECKPOINT: "cannot checkpoint a task in created state",
        Step.EXEC: "cannot exec in a created state",
        Step.KILL: State.CREATED_CHECKPOINT,
        Step.EXIT: State.STOPPED,
    },
    State.RUNNING: {
        Step.START: "cannot start a running process",
        Step.DELETE: "cannot delete a running process",
        Step.PAUSE: State.PAUSING,
        Step.CHECKPOINT: State.RUNNING,
        Step.RESUME: "cannot resume a running process",
        Step.EXIT: State.STOPPED,
    },
    State.PAUSED: {
        Step.START: "cannot start a paused process",
        Step.DELETE: "cannot delete a paused process",
        Step.PAUSE: "cannot pause a paused container",
        Step.RESUME: State.RUNNING,
        Step.CHECKPOINT: State.PAUSED,
        Step.EXEC: "cannot exec in a paused state",
        Step.EXIT: State.STOPPED,
    },
    State.STOPPED: {
        Step.START: "cannot start a stopped process",
        Step.DELETE: State.DELETED,
        Step.PAUSE: "cannot pause a stopped container",
        Step.RESUME: "cannot resume a stopped container",
        Step.UPDATE: "cannot update a stopped container",
        Step.CHECKPOINT: "cannot checkpoint a stopped container",
        Step.EXEC: "cannot exec in a stopped state",
        Step.KILL: "process already finished: not found",
    },
    State.DELETED: {
        Step.START: "cannot start a deleted process",
        Step.DELETE: "cannot delete a deleted process: not found",
        Step.PAUSE: "cannot pause a deleted process",
        Step.RESUME: "cannot resume a deleted process",
        Step.UPDATE: "cannot update a deleted process",
        Step.CHECKPOINT: "cannot checkpoint a deleted process",
        Step.EXEC: "cannot exec in a deleted state",
        Step.KILL: "cannot kill a deleted process: not found",
        Step.EXIT: State.DELETED,
    },
}
EXEC_RULES: dict[State, dict[Step, State | str]] = {
    State.CREATED: {Step.START: State.RUNNING, Step.DELETE: State.DELETED},
    State.RUNNING: {
        Step.START: "cannot start a running process",
        Step.DELETE: "cannot delete a running process",
        Step.EXIT: State.STOPPED,
    },
    State.STOPPED: {
        Step.START: "cannot start a stopped process",
        Step.DELETE: State.DELETED,
        Step.RESIZE: "cannot resize a stopped container",
        Step.KILL: "process already finished: not found",
    },
    State.DELETED: {
        Step.START: "cannot start a deleted process",
        Step.DELETE: "cannot delete a deleted process: not found",
        Step.RESIZE: "cannot resize a deleted process",
        Step.KILL: "cannot kill a deleted process: not found",
    },
}
CASES = [
    pytest.param(table, state, step, rule, id=f"{name}-{state.name}-{step.name}")
    for name, table, rules in (("init", INIT, INIT_RULES), ("exec", EXEC, EXEC_RULES))
    for state, row in rules.items()
    for step, rule in row.items()
]


@pytest.mark.rule("task.execs.8", "task.init.11")
@pytest.mark.parametrize(("table", "state", "step", "rule"), CASES)
def test_step_in_state_leads_to_the_state_of_the_table(
    table: Table, state: State, step: Step, rule: State | str
) -> None:
    """The state tables of the Task API, with exact error texts."""
    life = Lifecycle(table)
    life.state = state

    if isinstance(rule, State):
        life.take(step)
        assert life.state is rule
    else:
        with pytest.raises((WrongState, NotFound)) as refusal:
            life.check(step)
        assert str(refusal.value) == rule
        assert life.state is state


@pytest.mark.parametrize("table", [INIT, EXEC], ids=["init", "exec"])
def test_every_pair_has_an_answer(table: Table) -> None:
    """Every pair of state and step has a next state or a refusal, and none a KeyError."""
    for state, step in itertools.product(table, Step):
        life = Lifecycle(table)
        life.state = state
        try:
            assert isinstance(life.check(step), State)
        except (WrongState, NotFound) as refusal:
            assert str(refusal)  # noqa: PT017 - both outcomes are valid, an empty text is not


def test_check_in_another_state_judges_by_that_state() -> None:
    """A recorded exit counts as stopped before the lifecycle has taken the step."""
    life = Lifecycle(INIT)

    with pytest.raises(WrongState, match="cannot start a stopped process"):
        life.check(Step.START, State.STOPPED)
    assert life.check(Step.START) is State.RUNNING
