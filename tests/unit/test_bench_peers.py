"""The shims that a run of the bench compares, and the reading of their logs."""

import os
import select
from pathlib import Path

import pytest

from bench.__main__ import _found
from bench.experiments import Experiment, Options
from bench.logs import Logs
from bench.measures import GO_1_6, GO_2_4, OURS, PYTHON_3_13, RUST, Measure
from bench.peers import NoPeer, Peer, find_peer, find_python, unshared
from bench.place import Place
from bench.results import Results
from bench.suite import run
from shimv2.shimctl.reply import Generation

START = Measure("start", "`start`", "ms")
_LIMIT_MS = 10_000


def peer(name: str) -> Peer:
    if name == RUST:
        raise NoPeer("exit status 3\ncargo-tool: there is no cargo here")
    return Peer(name, name, f"/{name}", Generation.V2_0)


def test_usual_peer_that_is_not_available_is_left_out_with_the_reason() -> None:
    """The bench works without cargo; its results name the missing peers."""
    left_out: list[str] = []

    found = _found([GO_1_6, RUST, GO_2_4], None, peer, left_out)

    assert [each.name for each in found] == [GO_1_6, GO_2_4]
    assert left_out == ["rust: cargo-tool: there is no cargo here"]


def test_peer_that_is_named_has_to_be_available() -> None:
    """The run was made for its figures."""
    with pytest.raises(NoPeer, match="there is no cargo here"):
        _found([GO_1_6], f"{GO_1_6},{RUST}", peer, [])


def test_unknown_peer_is_reported_with_those_there_are() -> None:
    """A typing error is reported at once."""
    with pytest.raises(NoPeer, match=r"there is no peer go-3, only go-2\.1, .*rust"):
        find_peer("go-3")


def test_interpreter_that_is_not_available_is_no_peer() -> None:
    """The reason is that of the script that searches for it."""
    with pytest.raises(NoPeer, match="there is no /nowhere/python"):
        find_python("/nowhere/python")


def test_shim_without_sharing_has_a_launcher_of_its_own(tmp_path: Path) -> None:
    """One zygote cannot serve both, because the launcher's file is a part of the key."""
    program = tmp_path / "shim"
    program.write_text("launcher")
    program.with_name("shim.conf").write_text("/usr/bin/python3\nentry.py\n")
    ours = Peer(OURS, "pyrunc 1", str(program), Generation.V2_0)

    made = unshared(ours, tmp_path / "unshared")

    assert made.env == {"PYRUNC_SHARE_MEMORY": "off"}
    assert made.launcher is not None
    assert made.launcher != ours.launcher
    assert made.launcher.read_text() == "launcher"
    assert made.interpreter == ours.interpreter == "/usr/bin/python3"


def test_shim_that_shares_nothing_has_no_such_variant(tmp_path: Path) -> None:
    """Without a compiler the shim itself is that variant."""
    ours = Peer(OURS, "pyrunc 1", str(tmp_path / "script"), Generation.V2_0)

    with pytest.raises(NoPeer, match="no launcher"):
        unshared(ours, tmp_path / "unshared")


@pytest.mark.parametrize(
    ("of_variants", "wanted"),
    [(False, {OURS, GO_1_6}), (True, {OURS, PYTHON_3_13, GO_1_6})],
)
def test_variants_of_ours_take_part_only_where_they_matter(
    of_variants: bool, wanted: set[str]
) -> None:
    """Each variant takes as much time as a peer."""
    peers = [peer(name) for name in (OURS, PYTHON_3_13, GO_1_6)]
    results = Results({}, {each.name: each.label for each in peers}, [])
    experiment = Experiment(
        "start",
        (START,),
        3,
        lambda _place, shims, _options: {each.name: {"start": [1.0]} for each in shims},
        of_variants=of_variants,
    )

    run(
        Place(),
        peers,
        [(experiment, experiment.measures)],
        Options(),
        results,
        pairs=None,
        done=lambda: None,
    )

    assert {name: len(found) for name, found in results.samples["start"].items()} == (
        dict.fromkeys(wanted, 3)
    )


def test_log_is_read_however_much_is_written(tmp_path: Path) -> None:
    """Some shims answer no calls while they wait for room in their log."""
    path = tmp_path / "log"
    os.mkfifo(path)
    fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)  # as in the daemon
    logs = Logs()
    try:
        logs.follow(str(tmp_path / "gone"))
        logs.follow(str(path))
        room = select.poll()
        room.register(fd, select.POLLOUT)
        for _ in range(64):  # of 8 KiB: eight times the capacity of the FIFO
            assert room.poll(_LIMIT_MS), "nobody reads the log"
            os.write(fd, b"x" * 4096)
            assert room.poll(_LIMIT_MS), "nobody reads the log"
            os.write(fd, b"x" * 4096)
    finally:
        os.close(fd)
        logs.close()
