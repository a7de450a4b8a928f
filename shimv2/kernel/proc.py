"""Reads the properties of a process from /proc (proc(5)).

By hand and not by psutil: docs/adr/0005 has the figures.
"""

import re
from typing import Final, Literal

# Fields of /proc/PID/stat, by their numbers in proc_pid_stat(5).
_PARENT: Final = 4
_START_TIME: Final = 22


def stat_field(fields: list[bytes], number: int) -> int:
    """Return a numeric field of `stat_fields` by its number in proc_pid_stat(5), from 3 on."""
    return int(fields[number - 3])


def stat_fields(pid: int | Literal["self"]) -> list[bytes]:
    """Read /proc/PID/stat from its third field on.

    Raises:
        OSError: the process has been reaped.
    """
    with open(f"/proc/{pid}/stat", "rb") as file:
        text = file.read()
    # The second field is the name in parentheses, which may contain spaces and parentheses itself.
    return text.rpartition(b")")[2].split()


def parent_of(pid: int) -> int:
    """Return the pid of a process's parent.

    Raises:
        OSError: the process has been reaped.
    """
    return stat_field(stat_fields(pid), _PARENT)


def start_time_of(pid: int) -> int | None:
    """Return when a process began, in clock ticks after boot; None once it has been reaped.

    The pid and this time together identify a process until the next boot: a recycled pid has
    another start time.
    """
    try:
        return stat_field(stat_fields(pid), _START_TIME)
    except OSError:
        return None


def is_namespace_init(pid: int) -> bool:
    """Whether a process is number 1 of its innermost pid namespace; False once it is reaped.

    The field NSpid is there since Linux 4.1.
    """
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            numbers = re.search(rb"^NSpid:(.*)$", file.read(), re.MULTILINE)
    except OSError:
        return False
    return numbers is not None and numbers[1].split()[-1:] == [b"1"]
