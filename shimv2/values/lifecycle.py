"""The states of a process as tables: which step is legal in which state.  Pure.

A step that is not legal has the text of the error in its cell.  The texts are those of the Go shim,
as observed; clients match and show them.
"""

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from shimv2.values.errors import NotFound, ShimError, WrongState


class State(Enum):
    CREATED = auto()
    CREATED_CHECKPOINT = auto()  # the runtime has no container yet: Start restores it
    RUNNING = auto()
    PAUSING = auto()  # a step under way is a state, not a flag
    PAUSED = auto()
    STOPPED = auto()
    DELETED = auto()


class Step(Enum):
    START = auto()
    PAUSE = auto()
    PAUSED = auto()  # the runtime has paused it
    PAUSE_FAILED = auto()
    RESUME = auto()
    UPDATE = auto()
    CHECKPOINT = auto()
    EXEC = auto()
    RESIZE = auto()
    KILL = auto()
    EXIT = auto()
    DELETE = auto()


@dataclass(frozen=True, slots=True)
class No:
    """A step that is not legal in a state: the error that a client gets."""

    text: str
    error: type[ShimError] = WrongState


Table = dict[State, dict[Step, State | No]]

_KILL_DELETED: Final = No("cannot kill a deleted process", NotFound)
_DELETE_DELETED: Final = No("cannot delete a deleted process", NotFound)

INIT: Final[Table] = {
    State.CREATED: {
        Step.START: State.RUNNING,
        Step.PAUSE: No("cannot pause task in created state"),
        Step.RESUME: No("cannot resume task in created state"),
        Step.UPDATE: State.CREATED,
        Step.CHECKPOINT: No("cannot checkpoint a task in created state"),
        Step.EXEC: State.CREATED,
        Step.RESIZE: State.CREATED,
        Step.KILL: State.CREATED,
        Step.EXIT: State.STOPPED,
        Step.DELETE: State.DELETED,
    },
    State.CREATED_CHECKPOINT: {
        Step.START: State.RUNNING,
        Step.PAUSE: No("cannot pause task in created state"),
        Step.RESUME: No("cannot resume task in created state"),
        Step.UPDATE: State.CREATED_CHECKPOINT,
        Step.CHECKPOINT: No("cannot checkpoint a task in created state"),
        Step.EXEC: No("cannot exec in a created state"),
        Step.RESIZE: State.CREATED_CHECKPOINT,
        Step.KILL: State.CREATED_CHECKPOINT,
        Step.EXIT: State.STOPPED,
        Step.DELETE: State.DELETED,
    },
    State.RUNNING: {
        Step.START: No("cannot start a running process"),
        Step.PAUSE: State.PAUSING,
        Step.RESUME: No("cannot resume a running process"),
        Step.UPDATE: State.RUNNING,
        Step.CHECKPOINT: State.RUNNING,
        Step.EXEC: State.RUNNING,
        Step.RESIZE: State.RUNNING,
        Step.KILL: State.RUNNING,
        Step.EXIT: State.STOPPED,
        Step.DELETE: No("cannot delete a running process"),
    },
    # No EXIT and no CHECKPOINT: Pause holds the process's lock while it is in this state, and both
    # are taken under that lock, so they come after PAUSED or PAUSE_FAILED.
    State.PAUSING: {
        Step.START: No("cannot start a running process"),
        Step.PAUSE: No("cannot pause a paused container"),
        Step.PAUSED: State.PAUSED,
        Step.PAUSE_FAILED: State.RUNNING,
        Step.RESUME: No("cannot resume a running process"),
        Step.UPDATE: State.PAUSING,  # it waits for the lock
        Step.EXEC: No("cannot exec in a paused state"),
        Step.RESIZE: State.PAUSING,
        Step.KILL: State.PAUSING,
        Step.DELETE: No("cannot delete a running process"),
    },
    State.PAUSED: {
        Step.START: No("cannot start a paused process"),
        Step.PAUSE: No("cannot pause a paused container"),
        Step.RESUME: State.RUNNING,
        Step.UPDATE: State.PAUSED,
        Step.CHECKPOINT: State.PAUSED,
        Step.EXEC: No("cannot exec in a paused state"),
        Step.RESIZE: State.PAUSED,
        Step.KILL: State.PAUSED,
        Step.EXIT: State.STOPPED,
        Step.DELETE: No("cannot delete a paused process"),
    },
    State.STOPPED: {
        Step.START: No("cannot start a stopped process"),
        Step.PAUSE: No("cannot pause a stopped container"),
        Step.RESUME: No("cannot resume a stopped container"),
        Step.UPDATE: No("cannot update a stopped container"),
        Step.CHECKPOINT: No("cannot checkpoint a stopped container"),
        Step.EXEC: No("cannot exec in a stopped state"),
        Step.RESIZE: State.STOPPED,
        Step.KILL: No("process already finished", NotFound),
        Step.DELETE: State.DELETED,
    },
    State.DELETED: {
        Step.START: No("cannot start a deleted process"),
        Step.PAUSE: No("cannot pause a deleted process"),
        Step.RESUME: No("cannot resume a deleted process"),
        Step.UPDATE: No("cannot update a deleted process"),
        Step.CHECKPOINT: No("cannot checkpoint a deleted process"),
        Step.EXEC: No("cannot exec in a deleted state"),
        Step.RESIZE: State.DELETED,
        Step.KILL: _KILL_DELETED,
        Step.EXIT: State.DELETED,  # deleted while created: the process dies afterwards
        Step.DELETE: _DELETE_DELETED,
    },
}

EXEC: Final[Table] = {
    State.CREATED: {
        Step.START: State.RUNNING,
        Step.RESIZE: State.CREATED,
        Step.KILL: State.CREATED,  # task.process refuses it, with another text: there is no pid
        Step.EXIT: State.STOPPED,
        Step.DELETE: State.DELETED,
    },
    State.RUNNING: {
        Step.START: No("cannot start a running process"),
        Step.RESIZE: State.RUNNING,
        Step.KILL: State.RUNNING,
        Step.EXIT: State.STOPPED,
        Step.DELETE: No("cannot delete a running process"),
    },
    State.STOPPED: {
        Step.START: No("cannot start a stopped process"),
        Step.RESIZE: No("cannot resize a stopped container"),
        Step.KILL: No("process already finished", NotFound),
        Step.DELETE: State.DELETED,
    },
    State.DELETED: {
        Step.START: No("cannot start a deleted process"),
        Step.RESIZE: No("cannot resize a deleted process"),
        Step.KILL: _KILL_DELETED,
        Step.EXIT: State.DELETED,
        Step.DELETE: _DELETE_DELETED,
    },
}


class Lifecycle:
    """The state of one process.  `check` before the side effect of a step, `take` after it."""

    def __init__(self, table: Table, state: State = State.CREATED) -> None:
        self._table = table
        self.state = state

    def check(self, step: Step, state: State | None = None) -> State:
        """Return the state after `step` from `state` (default: the current one); change nothing.

        Raises:
            WrongState, NotFound: the text of the table's cell.
        """
        state = state or self.state
        cell = self._table[state].get(step)
        if cell is None:
            raise WrongState(f"cannot {step.name.lower()} a {state.name.lower()} process")
        if isinstance(cell, No):
            raise cell.error(cell.text)
        return cell

    def take(self, step: Step) -> None:
        self.state = self.check(step)
