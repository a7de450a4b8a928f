"""A pytest plugin: of the chosen tests, those of one machine out of several.

VM_SHARE is `NUMBER/MACHINES`, counted from 0.  Every test is in exactly one share, whatever the
random order: they are dealt out by name.
"""

import os
from collections.abc import Iterable

import pytest


def share(names: Iterable[str], number: int, machines: int) -> set[str]:
    """Deal out `names`; return those of machine `number`."""
    return set(sorted(names)[number::machines])


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    number, machines = map(int, os.environ["VM_SHARE"].split("/"))
    ours = share((item.nodeid for item in items), number, machines)
    config.hook.pytest_deselected(items=[item for item in items if item.nodeid not in ours])
    items[:] = [item for item in items if item.nodeid in ours]
