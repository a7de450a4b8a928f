"""A Boot whose binary is a launcher of its own, with the zygote of its first start."""

import contextlib
from collections.abc import Iterator
from typing import Any

from shimv2.shimctl.testbed import zygotes
from shimv2.shimctl.testbed.until import until
from tests.support import launched
from tests.support.boot import Boot, answers, path_of


@contextlib.contextmanager
def booted() -> Iterator[Boot]:
    """Yield a Boot with a launcher; its zygotes are ended at the end."""
    with Boot() as made:
        launched.install(made.shim)
        try:
            yield made
        finally:
            zygotes.end_zygotes(made.shim)


def warmed(boot: Boot, id_: str = "first", **options: Any) -> int:
    """Make a zygote by a first start; return its pid."""
    boot.bundle(id_)
    path_of(boot.start(id_, **options))
    return zygotes.zygote(boot.shim)


def started(boot: Boot, id_: str, **options: Any) -> int:
    """Start a shim and return its pid once it serves."""
    return started_at(boot, id_, **options)[0]


def started_at(boot: Boot, id_: str, **options: Any) -> tuple[int, str]:
    """Start a shim; return its pid and its socket once it serves."""
    boot.bundle(id_)
    before = set(boot.servers())
    path = path_of(boot.start(id_, **options))
    (pid,) = set(boot.servers()) - before
    until(lambda: answers(path), "the server to answer")
    return pid, path
