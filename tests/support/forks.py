"""Runs a function in a fork, so that the test's process does not change."""

import os
import traceback
from collections.abc import Callable


def in_fork(work: Callable[[], object]) -> int:
    """Run `work` in a fork; an exception or a false result becomes status 1."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = 0 if work() else 1
        except BaseException:
            traceback.print_exc()
            raise
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
