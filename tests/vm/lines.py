"""Merges the output of several machines by lines, with the machine's number before each."""

from collections.abc import Callable


class Lines:
    def __init__(self, write: Callable[[bytes], None]) -> None:
        self._write = write
        self._begun: dict[int, bytes] = {}

    def write(self, machine: int, data: bytes) -> None:
        *whole, self._begun[machine] = (self._begun.get(machine, b"") + data).split(b"\n")
        self._write(b"".join(b"%d| %b\n" % (machine + 1, line) for line in whole))

    def end(self) -> None:
        """Write the lines that have no end yet."""
        for machine, rest in self._begun.items():
            if rest:
                self.write(machine, b"\n")
