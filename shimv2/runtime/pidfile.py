"""The file in which a runtime leaves the pid of the process it made.  Needs no asyncio."""

import os
from typing import Final

from shimv2.gocompat.gotext import quote

_LIMIT_BYTES: Final = 32


def read(path: str) -> int:
    """Read a pid greater than 0.

    Raises:
        OSError: the file cannot be read.
        ValueError: it does not hold a pid; the text is that of Go's strconv.
    """
    with open(path, "rb") as file:
        text = os.fsdecode(file.read(_LIMIT_BYTES))
    # kill(2) of a pid <= 0 would signal a process group, or every process.
    if not (text.isascii() and text.isdecimal()) or int(text) == 0:
        raise ValueError(f"strconv.Atoi: parsing {quote(text)}: invalid syntax")
    return int(text)
