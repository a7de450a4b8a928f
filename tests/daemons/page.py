"""The boxes of the pages for users, by name: the tests run exactly the text of the pages.

A box is fenced code whose first line has a name after the language: ```sh ctr-run
"""

import os
import re
from collections.abc import Mapping
from typing import Final

from tests.support.host import ROOT

DAEMONS: Final = "docs/daemons.md"
_BOX: Final = re.compile(r"^```\w+ +(\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def box(name: str, *, page: str = DAEMONS, instead: Mapping[str, str] | None = None) -> str:
    """Return the text of a box; `instead` maps parts of the text to their replacements in a test.

    Raises:
        LookupError: there is no such box, or it does not have a part to be replaced.
    """
    text = boxes(page)[name]
    for printed, used in (instead or {}).items():
        if printed not in text:
            raise LookupError(f"box {name} of {page} does not say {printed!r}")
        text = text.replace(printed, used)
    return text


def boxes(page: str) -> dict[str, str]:
    """Return all boxes of a page that have a name.

    Raises:
        ValueError: two boxes have the same name.
    """
    with open(os.path.join(ROOT, page), encoding="utf-8") as file:
        found = _BOX.findall(file.read())
    if len(dict(found)) < len(found):
        raise ValueError(f"{page}: two boxes have the same name")
    return dict(found)
