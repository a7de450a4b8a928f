"""The files of one cgroup.  A missing file is no error."""

import errno
import os
from typing import Final

from shimv2.cgroups import parse

_HUGE_PAGES: Final = "/sys/kernel/mm/hugepages"
# ENOENT: no such file or controller.  ENODEV: the cgroup was removed while the file was open.
# EOPNOTSUPP: a pressure file of a kernel that was started with psi=0.
_MISSING: Final = (errno.ENOENT, errno.ENODEV, errno.EOPNOTSUPP)


class Folder:
    """The directory of a cgroup in one hierarchy.  Holds no fd open."""

    def __init__(self, path: str) -> None:
        self.path = path

    def text(self, name: str) -> str | None:
        """Return a file's content, or None when the file is missing.

        Raises:
            OSError: the file exists and cannot be read.
        """
        return read(f"{self.path}/{name}")

    def number(self, name: str, *, unlimited: int = parse.UNLIMITED) -> int:
        """Return the number in a file, or 0 when the file is missing."""
        text = self.text(name)
        return parse.number(text, unlimited=unlimited) if text else 0

    def flat(self, name: str) -> dict[str, int]:
        return parse.flat(self.text(name) or "")


def read(path: str) -> str | None:
    try:
        with open(path, "rb", buffering=0) as file:  # unbuffered: each exit reads one
            return file.readall().decode("ascii")
    except OSError as error:
        if error.errno in _MISSING:
            return None
        raise


def huge_page_sizes() -> list[str]:
    """List the machine's huge page sizes in the form of hugetlb's file names: 2MB, 1GB."""
    try:
        return sorted(parse.page_size(name) for name in os.listdir(_HUGE_PAGES))
    except FileNotFoundError:  # a kernel without huge pages
        return []
