"""docs/design.md: its drawings match the code."""

import itertools
import re
from pathlib import Path

from shimv2.values.lifecycle import EXEC, INIT, State, Table
from tests.unit.test_architecture import SHIM

ROOT = Path(__file__).parents[2]
DESIGN = ROOT.joinpath("docs/design.md").read_text(encoding="utf-8")


def boxes(kind: str) -> list[str]:
    """Return the contents of the page's boxes of that kind, in their order."""
    return re.findall(rf"^```{kind}\n(.*?)^```$", DESIGN, re.MULTILINE | re.DOTALL)


def diagram(table: Table) -> str:
    """Draw the steps of a table that change the state, in Mermaid's form."""
    lines = ["stateDiagram-v2"]
    first = (State.CREATED, State.CREATED_CHECKPOINT)
    lines += [f"    [*] --> {state.name}" for state in table if state in first]
    for state, steps in table.items():
        lines += [
            f"    {state.name} --> {target.name}: {step.name}"
            for step, target in steps.items()
            if isinstance(target, State) and target is not state
        ]
    return "\n".join(lines) + "\n"


def test_state_diagrams_are_those_of_the_tables() -> None:
    """A step that is added to a table has to be drawn: the failure shows the new diagram."""
    assert boxes("mermaid") == [diagram(INIT), diagram(EXEC)]


def test_drawing_of_the_packages_has_the_order_of_the_table() -> None:
    """No package imports a package of a row above it in the drawing."""
    (drawing,) = boxes("packages")
    rows = [re.split(r" {3,}", line.strip())[0].split() for line in drawing.splitlines()]
    assert {name for row in rows for name in row} == set(SHIM)
    order = list(SHIM)
    for upper, lower in itertools.pairwise(rows):
        assert min(map(order.index, upper)) > max(map(order.index, lower)), (upper, lower)
