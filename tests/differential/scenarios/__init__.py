"""The scenarios, by their names in reports and rules."""

from importlib import import_module
from typing import Final

from tests.differential.replay import Scenario

_MODULES: Final = (
    "states",
    "execs",
    "bad_create",
    "runtimes",
    "streams",
    "life",
    "checkpoints",
    "command_line",
    "wire",
)


def scenarios() -> dict[str, Scenario]:
    """Return every public coroutine function of the modules."""
    found: dict[str, Scenario] = {}
    for name in _MODULES:
        module = import_module(f"{__name__}.{name}")
        for word, value in vars(module).items():
            if getattr(value, "__module__", "") == module.__name__ and not word.startswith("_"):
                found[word.replace("_", "-")] = value
    return found
