"""Every containerd with every runtime: what a user of ctr sees."""

import json
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from shimv2.shimctl.image import IMAGE
from shimv2.shimctl.testbed.containerd import Containerd, parse_events
from shimv2.shimctl.testbed.until import until
from tests.daemons.pairs import every_containerd, unfit_pairs
from tests.support.host import Host
from tests.support.writers import Writers

UNFIT = unfit_pairs("containerd 1.6", "containerd 1.7", "containerd 2.1")
pytestmark = pytest.mark.root
MIB = 1 << 20
LIMIT = 32 * MIB
# Prints lines of both streams with its name, once it has reported ready.
LOGGER = """#!/bin/sh
PATH=/usr/bin:/bin
printf x >&5; exec 5>&-
sed "s/^/$CONTAINER_ID out: /" <&3 >{folder}/out &
sed "s/^/$CONTAINER_ID err: /" <&4 >{folder}/err
wait
"""


@pytest.mark.parametrize("pair", UNFIT, indirect=True)
def test_invalid_pair_reports_why(containerd: Containerd, run: Sequence[str]) -> None:
    """Debian 12's crun refuses newer specs; the client gets its error text."""
    done = containerd.ctr(*run, "--rm", IMAGE, "c1", "true", check=False)

    assert done.returncode == 1
    assert b"unknown version specified" in done.stderr
    assert containerd.tasks() == {}


@every_containerd
def test_run_rm_prints_and_returns_the_status_and_leaves_nothing(
    containerd: Containerd, run: Sequence[str]
) -> None:
    """`ctr run --rm` shows both streams, exits as the container did, and leaves no container."""
    # As a child of a shell: pid 1 of a pid namespace ignores its own SIGKILL.
    scripts = {"exit 0": 0, "exit 3": 3, "nosuchcommand": 127, "sh -c 'kill -9 $$'; exit $?": 137}
    for script, status in scripts.items():
        done = containerd.ctr(
            *run, "--rm", IMAGE, "c1", "sh", "-c", f"echo out; echo err >&2; {script}", check=False
        )

        assert (done.returncode, done.stdout) == (status, b"out\n"), script
        assert done.stderr.startswith(b"err\n"), script
    assert containerd.tasks() == {}
    assert containerd.ctr("container", "ls", "-q").stdout == b""


@every_containerd
def test_stdin_and_a_big_output_arrive_unchanged(
    containerd: Containerd, run: Sequence[str]
) -> None:
    """Input arrives with its end, and all of it comes back."""
    # More than fits into FIFO and pipe: ctr does not close stdin if the input ends before Create.
    counted = containerd.ctr(*run, "--rm", IMAGE, "c1", "wc", "-c", stdin=b"x" * MIB)
    script = f"yes 0123456789abcdef | head -c {8 * MIB} | md5sum"
    summed = containerd.ctr(*run, "--rm", IMAGE, "c2", "sh", "-c", script).stdout

    assert counted.stdout.strip() == b"%d" % MIB
    log = Path(containerd.folder, "big")
    script = script.removesuffix("| md5sum")
    to_file = ("-d", "--log-uri", f"file://{log}")
    containerd.ctr(*run, *to_file, IMAGE, "c3", "sh", "-c", script)
    assert end(containerd, "c3", kill=False) == 0
    again = containerd.ctr(*run, "--rm", IMAGE, "c4", "md5sum", stdin=log.read_bytes())
    assert again.stdout == summed


@every_containerd
def test_detached_container_is_listed_executed_in_signalled_and_removed(
    containerd: Containerd, run: Sequence[str]
) -> None:
    """run -d, task ls, ps and exec, container ls, kill with a signal it handles, and rm."""
    script = 'trap "exit 42" TERM; echo up; while :; do sleep 0.05; done'
    log = Path(containerd.folder, "log")
    containerd.ctr(*run, "-d", "--log-uri", f"file://{log}", IMAGE, "c1", "sh", "-c", script)
    task = containerd.tasks()["c1"]
    executed = containerd.ctr(
        "task", "exec", "--exec-id", "e1", "c1", "sh", "-c", "cat; exit 3", stdin=b"in", check=False
    )
    listed = containerd.ctr("task", "ps", "c1").stdout.decode()
    refused = containerd.ctr("task", "rm", "c1", check=False)
    until(log.read_bytes, "the container to be up")
    containerd.ctr("task", "kill", "-s", "SIGTERM", "c1")
    stopped = containerd.wait_status("c1", "STOPPED")

    assert task.status == "RUNNING"
    assert (executed.returncode, executed.stdout) == (3, b"in")
    assert str(task.pid) in listed.split()
    assert refused.returncode != 0
    assert stopped.pid == task.pid
    assert containerd.ctr("container", "ls", "-q").stdout == b"c1\n"
    assert containerd.remove_task("c1") == 42
    containerd.ctr("container", "rm", "c1")
    assert log.read_bytes() == b"up\n"


@every_containerd
def test_container_is_started_again_after_its_end(
    containerd: Containerd, run: Sequence[str]
) -> None:
    """`ctr task start`: another task of the same id, in a new shim, with the same options."""
    containerd.ctr(*run, "-d", "--null-io", IMAGE, "c1", "sleep", "1000")
    pids = {containerd.shim_pid("c1")}
    containerd.ctr("task", "kill", "-s", "SIGKILL", "c1")
    containerd.wait_status("c1", "STOPPED")
    assert containerd.remove_task("c1") == 137
    containerd.ctr("task", "start", "-d", "--null-io", "c1")
    pids.add(containerd.shim_pid("c1"))
    assert containerd.tasks()["c1"].status == "RUNNING"

    assert end(containerd, "c1") == 137
    assert len(pids) == 2


@every_containerd
def test_ten_containers_at_a_time_all_answer(containerd: Containerd, run: Sequence[str]) -> None:
    """Creates, runs and removals at the same time do not disturb each other."""
    clients = [
        subprocess.Popen(
            containerd.command(
                *run, "--rm", IMAGE, f"c{i}", "sh", "-c", f"echo I am {i}; exit {i}"
            ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for i in range(10)
    ]

    outputs = [client.communicate(timeout=100)[0] for client in clients]

    assert outputs == [b"I am %d\n" % i for i in range(10)]
    assert [client.returncode for client in clients] == list(range(10))
    assert containerd.tasks() == {}


@every_containerd
def test_paused_container_is_measured_resumed_and_has_its_events_in_order(
    containerd: Containerd, run: Sequence[str]
) -> None:
    """pause, metrics and resume; each event is published once, in order."""
    path = os.path.join(containerd.folder, "events")
    detached = ("-d", "--null-io", "--memory-limit", str(LIMIT))
    watching = containerd.events(path)
    try:
        containerd.ctr(*run, *detached, IMAGE, "c1", "sleep", "1000")
        containerd.ctr("task", "exec", "--exec-id", "e1", "c1", "true")
        containerd.ctr("task", "pause", "c1")
        paused = containerd.tasks()["c1"].status
        again = containerd.ctr("task", "pause", "c1", check=False)
        metrics = json.loads(containerd.ctr("task", "metrics", "--format", "json", "c1").stdout)
        containerd.ctr("task", "resume", "c1")
        resumed = containerd.tasks()["c1"].status
        status = end(containerd, "c1")
        until(lambda: ("delete", "c1") in events_in(path), "the last event")
    finally:
        watching.terminate()
        watching.wait(timeout=10)

    assert (paused, resumed, status) == ("PAUSED", "RUNNING", 137)
    assert b"cannot pause a paused container" in again.stderr
    memory = metrics["memory"]
    assert LIMIT in {memory.get("usage_limit"), memory.get("usage", {}).get("limit")}
    assert metrics["pids"]["current"] == 1
    assert [event for event in events_in(path) if event[1] == "c1"] == [
        (topic, "c1") for topic in ("create", "start", "paused", "resumed", "exit", "delete")
    ]
    execs = [topic for topic, process in events_in(path) if process == "e1"]
    assert execs == ["exec-added", "exec-started", "exit"]


@every_containerd
def test_logging_binary_gets_both_streams_and_the_last_line(
    containerd: Containerd, run: Sequence[str]
) -> None:
    """`--log-uri binary://`: a program of the user's reads what the container writes."""
    logger = Path(containerd.folder, "logger")
    logger.write_text(LOGGER.format(folder=containerd.folder))
    logger.chmod(0o755)
    script = "echo one; echo two >&2; echo last"
    to_binary = ("-d", "--log-uri", f"binary://{logger}")

    containerd.ctr(*run, *to_binary, IMAGE, "c1", "sh", "-c", script)

    assert end(containerd, "c1", kill=False) == 0
    assert Path(containerd.folder, "out").read_text() == "c1 out: one\nc1 out: last\n"
    assert Path(containerd.folder, "err").read_text() == "c1 err: two\n"


@every_containerd
def test_program_or_runtime_that_is_missing_is_reported_by_its_name(
    containerd: Containerd, run: Sequence[str], host: Host
) -> None:
    """Clients match these texts: those of the runtime, and the one for a missing runtime."""
    nothing = os.path.join(host.folder, "nothing")
    no_runtime = (*run[:2], "io.containerd.runc.v2", "--runc-binary", nothing)
    if not os.path.exists(os.path.join(host.bin, "containerd-shim-runc-v2")):
        os.symlink(host.shim, os.path.join(host.bin, "containerd-shim-runc-v2"))

    no_program = containerd.ctr(*run, "--rm", IMAGE, "c1", "nosuchcommand", check=False)
    without = containerd.ctr(*no_runtime, "--rm", IMAGE, "c2", "true", check=False)

    assert no_program.returncode == without.returncode == 1
    assert b"OCI runtime create failed" in no_program.stderr
    assert b"executable file" in no_program.stderr
    assert b"nosuchcommand" in no_program.stderr
    assert b"not found in $PATH" in no_program.stderr
    assert f"fork/exec {nothing}: no such file or directory".encode() in without.stderr
    assert containerd.tasks() == {}


@every_containerd
def test_daemon_stopped_and_killed_loses_no_line_and_no_status(
    containerd: Containerd, run: Sequence[str]
) -> None:
    """Five containers continue to write while the daemon is down: same pids, each line once."""
    with Writers(containerd, containerd.folder, run) as writers:
        writers.restart(signal.SIGTERM)
        writers.restart(signal.SIGKILL)
        writers.end()


@every_containerd
@pytest.mark.ours("its answer to Pids makes containerd 1.7 and later forget a task that has ended")
def test_container_that_exits_while_the_daemon_is_down_keeps_its_status(
    containerd: Containerd, run: Sequence[str]
) -> None:
    """The next daemon finds it stopped, with its exit status."""
    with Writers(containerd, containerd.folder, run) as writers:
        writers.restart(signal.SIGKILL, one_ends=True)
        writers.restart(signal.SIGTERM)
        writers.end()


def end(containerd: Containerd, name: str, *, kill: bool = True) -> int:
    """Wait for a container's exit, or kill it; remove it and return its exit status."""
    if kill:
        containerd.ctr("task", "kill", "-s", "SIGKILL", name)
    containerd.wait_status(name, "STOPPED")
    status = containerd.remove_task(name)
    containerd.ctr("container", "rm", name)
    return status


def events_in(path: str) -> list[tuple[str, str]]:
    return parse_events(Path(path).read_text(), "c1")
