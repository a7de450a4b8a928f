"""Doing things as an ordinary user."""

import os
import traceback
from collections.abc import Callable
from typing import Final

from shimv2.kernel import linux
from tests.support.children import wait_for

USER: Final = 1000  # no user needs to have that number


def as_user(
    work: Callable[[], object], *, uid: int = USER, before: Callable[[], object] | None = None
) -> int:
    """Do `work` in a child without privileges; its exit status, 1 with the error on stderr.

    The child has all modules of ours: the user may be unable to read the files they came from.
    `before` is done in the child as root.
    """
    pid = os.fork()
    if pid == 0:
        try:
            if before:
                before()
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            linux.set_dumpable(True)  # or /proc/self would be root's until the next exec
            work()
            os._exit(0)
        except BaseException:  # noqa: BLE001 - printed, and the end of the child
            traceback.print_exc()
        finally:
            os._exit(1)
    return wait_for(pid)
