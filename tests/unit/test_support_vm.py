"""The division of the tests among the emulated machines, and the merging of their output."""

from pathlib import Path

import pytest

from tests.vm import deal
from tests.vm.lines import Lines

NAMES = [f"tests/e2e/test_{number}.py" for number in range(7)]


@pytest.mark.parametrize("machines", [1, 2, 3, 8])
def test_every_test_is_in_one_share_whatever_their_order(machines: int) -> None:
    """And no machine is started without tests."""
    shares = deal.deal(NAMES, {}, machines)

    assert sorted(name for share in shares for name in share) == NAMES
    assert len(shares) == min(machines, len(NAMES))
    assert deal.deal(list(reversed(NAMES)), {}, machines) == shares


def test_shares_take_about_the_same_time() -> None:
    """A file without a measured duration counts as the mean."""
    durations_s = {"a": 60.0, "b": 30.0, "c": 20.0, "d": 10.0}

    assert deal.deal("abcd", durations_s, 2) == [["a"], ["b", "c", "d"]]
    assert deal.deal("abcdx", durations_s, 2) == [["a", "c"], ["b", "d", "x"]]


def test_durations_are_written_as_they_are_read(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    deal.write(one, {"tests/e2e/test_b.py": 2.5, "tests/e2e/test_a.py": 1.04})
    deal.write(other, {"tests/e2e/test_b.py": 3.0})

    assert one.read_text().splitlines()[0] == '"tests/e2e/test_a.py" = 1.0'
    assert deal.read([one, other]) == {"tests/e2e/test_a.py": 1.0, "tests/e2e/test_b.py": 3.0}


def test_lines_of_two_machines_are_not_mixed() -> None:
    """The output may be cut anywhere, and the last line may have no end."""
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
