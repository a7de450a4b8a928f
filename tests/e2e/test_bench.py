"""The benches with real shims: they have all figures and leave nothing behind."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from shimv2.shimctl.testbed.leaks import HostLeaks
from tests.support.host import Host

pytestmark = [
    pytest.mark.root,
    pytest.mark.ours("the test compares ours"),
]

GO: Final = "/usr/bin/containerd-shim-runc-v2"
BENCH: Final = (sys.executable, "-m", "bench")
_ROOT: Final = Path(__file__).resolve().parents[2]
FIGURES: Final = "first_rpc,delete,whole,exec_wait,exec_read_wait,cat_8,state_p50,exit_event"
PER_ROUND: Final = {"exec_wait": 24, "exec_read_wait": 24, "cat_8": 50}
_LIMIT_S: Final = 100.0


def left_of(output: str) -> list[str]:
    """List the leftovers of a bench, by the folder that it printed."""
    found = re.search(r"bench: works in (/tmp/(\w+))", output)
    assert found, output
    leaks = HostLeaks(found[2], found[1])
    folder = [found[1]] if os.path.exists(found[1]) else []
    # Its shims have a path of the test; the namespace in their command lines is the bench's.
    return [*folder, *map(str, leaks.processes()), *leaks.mounts(), *leaks.cgroups()]


def test_run_compares_real_shims_and_leaves_nothing(host: Host, tmp_path: Path) -> None:
    """Each wanted figure has samples of each shim and a row in the table."""
    saved = tmp_path / "results.json"
    asked = ("--peers", "go-1.6", "--pairs", "2", "--only", FIGURES, "--json", saved)
    done = subprocess.run(
        [*BENCH, "run", "--ours", host.shim, *asked],
        check=False,
        cwd=_ROOT,
        capture_output=True,
        text=True,
        timeout=_LIMIT_S,
    )

    assert done.returncode == 0, done.stderr
    samples = json.loads(saved.read_text())["samples"]
    assert set(samples) == set(FIGURES.split(","))
    for name, of_shims in samples.items():
        count = PER_ROUND.get(name, 2)
        found = {shim: len(values) for shim, values in of_shims.items()}
        assert found == {"ours": count, "go-1.6": count}, name
        assert all(value > 0 for values in of_shims.values() for value in values), name
    assert "`delete` action" in done.stdout
    assert left_of(done.stderr) == []


@pytest.mark.parametrize("shim", ["ours", GO])
def test_density_counts_what_runs_and_leaves_nothing(host: Host, shim: str) -> None:
    """All run at the same time, all are removed afterwards, and the table shows it."""
    done = subprocess.run(
        [*BENCH, "density", "4", "--shim", host.shim if shim == "ours" else shim],
        check=False,
        cwd=_ROOT,
        capture_output=True,
        text=True,
        timeout=_LIMIT_S,
    )

    assert done.returncode == 0, done.stderr
    assert re.search(r"containers running +4 of 4\n", done.stdout)
    assert re.search(r"failures +0\nleft over +0\n", done.stdout)
    assert left_of(done.stderr) == []


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_density_removes_what_it_started(
    host: Host, number: signal.Signals, status: int
) -> None:
    """An interrupted bench leaves nothing behind."""
    with subprocess.Popen(
        [*BENCH, "density", "200", "--shim", host.shim],
        cwd=_ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as bench:
        assert bench.stderr
        output = ""
        while "started: 20 of 200" not in output:
            line = bench.stderr.readline()
            assert line, output
            output += line
        bench.send_signal(number)
        rest = bench.communicate(timeout=_LIMIT_S)[1]

    assert bench.returncode == status, rest
    assert left_of(output) == []


def test_unknown_figure_is_refused_before_anything_runs(host: Host) -> None:
    """A run that measures nothing would look like a success."""
    done = subprocess.run(
        [*BENCH, "run", "--ours", host.shim, "--peers", "go-1.6", "--only", "strat"],
        check=False,
        cwd=_ROOT,
        capture_output=True,
        text=True,
        timeout=_LIMIT_S,
    )

    assert done.returncode == 1
    assert "bench: strat: there are " in done.stderr
    assert "bench: works in " not in done.stderr
