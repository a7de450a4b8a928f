"""The end of a run of emulated machines, with a script as the emulator."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.vm.image import Image
from tests.vm.machine import Died, Hardware, Hung, run

Made = Callable[[str], Image]

# The emulator's option for the console's file.
FIND = """
for ARG; do
    case $ARG in file:*/console) HERE=${ARG#file:} HERE=${HERE%/*} ;; esac
done"""


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """A function that makes an image whose emulator is a shell script with $HERE, the machine's
    folder."""

    def image(script: str) -> Image:
        loader = tmp_path / "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"
        loader.parent.mkdir(parents=True)
        loader.write_text(f"#!/bin/sh\n{FIND}\n{script}\n")
        loader.chmod(0o755)
        return Image(tmp_path, tmp_path / "disk", tmp_path / "linux", tmp_path / "initramfs")

    return image


def run_one(image: Image, *, limit_s: float = 60.0, silence_s: float = 60.0) -> tuple[int, str]:
    printed: list[bytes] = []
    hardware = Hardware(memory_mib=1, limit_s=limit_s, silence_s=silence_s)
    (status,) = run(image, hardware, ["true"], lambda _, data: printed.append(data))
    return status, b"".join(printed).decode()


def test_status_and_output_are_those_of_the_machine(made: Made) -> None:
    image = made("printf 'one\\ntwo'; echo 7 > $HERE/status")

    assert run_one(image) == (7, "one\ntwo")


def test_machine_that_dies_is_reported_with_its_last_output(made: Made) -> None:
    image = made("echo 'Kernel panic' > $HERE/console; echo test_x; kill -KILL $$")

    with pytest.raises(Died) as raised:
        run_one(image)
    assert str(raised.value) == (
        "ended without a status: machine 1, whose emulator ended with -9\n"
        "the end of its output:\n  test_x\n"
        "the end of its console:\n  Kernel panic"
    )


@pytest.mark.parametrize(
    ("limits", "why"),
    [
        ({"silence_s": 0.1}, "no output for 0 s: machine 1, whose emulator runs: "),
        ({"limit_s": 0.1}, "not done after 0 s: machine 1, whose emulator runs: "),
    ],
    ids=["silent", "late"],
)
def test_machine_that_hangs_is_reported_and_ended(
    made: Made, limits: dict[str, float], why: str
) -> None:
    """The count of children after every test shows that it was killed."""
    image = made("exec sleep 1000")

    with pytest.raises(Hung) as raised:
        run_one(image, **limits)
    assert str(raised.value).startswith(why)
    assert "\nthe end of its output:\n  (none)\nthe end of its console:" in str(raised.value)
