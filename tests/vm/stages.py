"""Prints how long each stage of a run took, at its end, and all stages at the end of the run."""

import contextlib
import resource
import sys
import time
from collections.abc import Iterator


class Stages:
    def __init__(self) -> None:
        self._done: list[str] = []

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        began_s, used_s = time.monotonic(), _children_s()
        print(f"vm: {name}", file=sys.stderr, flush=True)
        try:
            yield
        finally:
            took_s, cpu_s = time.monotonic() - began_s, _children_s() - used_s
            self._done.append(f"{name} {took_s:.0f} s ({cpu_s:.0f} s of CPU)")

    def print_all(self) -> None:
        if self._done:
            print(f"vm: {', '.join(self._done)}", file=sys.stderr, flush=True)


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
