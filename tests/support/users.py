"""Runs functions as an unprivileged user."""

import os
import traceback
from collections.abc import Callable
from typing import Final

from shimv2.kernel import linux
from tests.support.children import wait_for

USER: Final = 1000  # the user need not exist


def as_user(
    work: Callable[[], object], *, uid: int = USER, before: Callable[[], object] | None = None
) -> int:
    """Run `work` in a child without privileges; return its exit status, 1 after an exception.

    The child has imported all modules of ours, because the user may be unable to read their files.
    `before` runs in the child as root.
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
        except BaseException:  # noqa: BLE001 - printed; then the child ends
            traceback.print_exc()
        finally:
            os._exit(1)
    return wait_for(pid)
