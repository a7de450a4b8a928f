"""A Boot whose binary is a launcher of its own, with the zygote of its first start."""

import contextlib
import re
import time
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


def no_zygote(boot: Boot, id_: str) -> float:
    """Start a shim; return how long it took in seconds.  No zygote serves or is warming up."""
    boot.bundle(id_)
    began = time.monotonic()
    path = path_of(boot.start(id_))
    took_s = time.monotonic() - began
    until(lambda: answers(path), "the server to answer")
    return took_s


def logged(boot: Boot, id_: str, pattern: str) -> str:
    """Wait for a line in the log of a container; return it."""
    lines: list[str] = []

    def has_line() -> bool:
        lines.extend(boot.log(boot.state / id_).splitlines())
        return any(re.search(pattern, line) for line in lines)

    until(has_line, f"{pattern} in the log", found=lambda: "\n".join(lines))
    return next(line for line in lines if re.search(pattern, line))
