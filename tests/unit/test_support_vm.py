"""What deals the tests out to the emulated machines, and puts their output together."""

import pytest

from tests.vm.lines import Lines
from tests.vm.share import share

NAMES = [f"tests/e2e/test_x.py::test_{number}" for number in range(7)]


@pytest.mark.parametrize("machines", [1, 2, 3, 8])
def test_every_test_is_in_one_share_whatever_their_order(machines: int) -> None:
    """The machines choose by themselves, each with another random order."""
    shares = [
        share(NAMES if number % 2 else reversed(NAMES), number, machines)
        for number in range(machines)
    ]

    assert sorted(name for each in shares for name in each) == NAMES


def test_lines_of_two_machines_are_not_mixed() -> None:
    """However the output comes in pieces, and without an end of the last line."""
    written: list[bytes] = []
    lines = Lines(written.append)
    for machine, data in ((0, b"one t"), (1, b"other\nun"), (0, b"wo\n\nthree"), (1, b"")):
        lines.write(machine, data)
    lines.end()

    assert b"".join(written).splitlines() == [
        b"2| other",
        b"1| one two",
        b"1| ",
        b"1| three",
        b"2| un",
    ]
