"""containerd 1.6 and ctr with this shim: what a user of a real daemon sees."""

import os
import signal
import subprocess
import zlib
from pathlib import Path

import pytest

from shimv2.shimctl.image import IMAGE
from shimv2.shimctl.testbed.containerd import Containerd, parse_events
from shimv2.shimctl.testbed.leaks import alive
from shimv2.shimctl.testbed.runtimes import crun
from shimv2.shimctl.testbed.until import until
from tests.support.host import RUNTIME, Host, words

pytestmark = pytest.mark.root

RUN = ("run", "--runtime", RUNTIME)
TICK = "i=0; while :; do i=$((i+1)); echo tick $i; sleep 0.05; done"


@pytest.mark.vm
def test_run_rm_prints_the_output_and_leaves_nothing(containerd: Containerd) -> None:
    """`ctr run --rm` shows both streams and exits 0 (daemon contract 8.1, 8.2)."""
    done = containerd.ctr(*RUN, "--rm", IMAGE, "c1", "sh", "-c", "echo out; echo err >&2")

    assert (done.stdout, done.stderr) == (b"out\n", b"err\n")
    assert containerd.tasks() == {}
    assert (
        os.listdir(f"{containerd.state}/io.containerd.runtime.v2.task/{containerd.namespace}") == []
    )


@pytest.mark.parametrize(
    ("script", "status"),
    [
        ("exit 0", 0),
        ("exit 1", 1),
        ("nosuchcommand", 127),
        ("kill -9 $$; sleep 9", 137),
        ("exit 255", 255),
    ],
)
def test_run_exits_with_the_containers_status(
    containerd: Containerd, script: str, status: int
) -> None:
    """Exit statuses come through unchanged, death by a signal as 128 + its number."""
    # As a child of a shell: pid 1 of a pid namespace ignores its own SIGKILL.
    done = containerd.ctr(
        *RUN, "--rm", IMAGE, "c1", "sh", "-c", f"sh -c '{script}'; exit $?", check=False
    )

    assert done.returncode == status


def test_run_of_a_missing_program_fails_with_the_runtimes_error(containerd: Containerd) -> None:
    """Clients derive 127 from this text: it is passed on unchanged."""
    done = containerd.ctr(*RUN, "--rm", IMAGE, "c1", "nosuchcommand", check=False)

    assert done.returncode != 0
    assert b"OCI runtime create failed" in done.stderr
    expected = words(
        runc='exec: "nosuchcommand": executable file not found in $PATH',
        crun="executable file `nosuchcommand` not found in $PATH: No such file or directory",
    )
    assert expected in done.stderr.decode()


def test_runtime_is_found_by_its_absolute_path(containerd: Containerd, host: Host) -> None:
    """A runtime may be named by the path of its binary."""
    done = containerd.ctr("run", "--runtime", host.shim, "--rm", IMAGE, "c1", "echo", "by path")

    assert done.stdout == b"by path\n"


def test_installed_as_the_runc_shim_it_serves_runc_and_crun(
    containerd: Containerd, host: Host
) -> None:
    """Under the name of containerd's own shim it is a drop-in, options included."""
    drop_in = os.path.join(host.bin, "containerd-shim-runc-v2")
    os.rename(host.shim, drop_in)
    runtime = ("run", "--runtime", "io.containerd.runc.v2")

    with_runc = containerd.ctr(*runtime, "--rm", IMAGE, "c1", "echo", "runc")
    binary = ("--runc-binary", crun(host.folder))
    with_crun = containerd.ctr(*runtime, *binary, "--rm", IMAGE, "c2", "echo", "crun")

    assert (with_runc.stdout, with_crun.stdout) == (b"runc\n", b"crun\n")


@pytest.mark.ours("the Go shim does not read it")
def test_options_may_be_in_a_file(containerd: Containerd, host: Host) -> None:
    """`--runtime-config-path`, for runtimes that ctr has no options for: crun, and its root."""
    config, binary = Path(host.folder, "options.toml"), crun(host.folder)
    config.write_text(f'BinaryName = "{binary}"\nRoot = "{host.folder}/crun-state"\n')
    with_config = (*RUN, "--runtime-config-path", str(config))

    done = containerd.ctr(*with_config, "-d", IMAGE, "c1", "sleep", "1000")

    assert done.stderr == b""
    namespace = containerd.namespace
    assert os.listdir(f"{host.folder}/crun-state/{namespace}") == ["c1"]
    bundle = f"{containerd.state}/io.containerd.runtime.v2.task/{namespace}/c1"
    assert Path(bundle, "runtime").read_text() == binary
    containerd.ctr("task", "kill", "-s", "KILL", "c1")
    containerd.wait_status("c1", "STOPPED")
    assert containerd.remove_task("c1") == 137
    containerd.ctr("container", "rm", "c1")
    assert os.listdir(f"{host.folder}/crun-state/{namespace}") == []


@pytest.mark.ours("the Go shim does not read it")
def test_options_file_that_is_wrong_fails_the_create(containerd: Containerd, host: Host) -> None:
    """The error names the file and the line; nothing is left behind."""
    config = Path(host.folder, "options.toml")
    config.write_text('Root = "/r"\nBinaryName = crun\n')
    with_config = (*RUN, "--runtime-config-path", str(config))

    done = containerd.ctr(*with_config, "--rm", IMAGE, "c1", "true", check=False)

    assert done.returncode == 1
    assert f"runtime options in {config}: Invalid value (at line 2".encode() in done.stderr
    assert containerd.tasks() == {}


def test_stdin_reaches_the_container(containerd: Containerd) -> None:
    """A client's input arrives, and its end too."""
    # More than fits into FIFO and pipe: ctr does not close stdin if the input ends before Create.
    done = containerd.ctr(*RUN, "--rm", IMAGE, "c1", "wc", "-c", stdin=b"x" * 1_000_000)

    assert done.stdout.strip() == b"1000000"


def test_eight_mebibytes_of_output_arrive_unchanged(containerd: Containerd) -> None:
    """Nothing written before the exit is lost, however fast the exit comes."""
    size = 8 * 1024 * 1024
    script = f"yes 0123456789abcdef | head -c {size}"

    done = containerd.ctr(*RUN, "--rm", IMAGE, "c1", "sh", "-c", script)

    expected = (b"0123456789abcdef\n" * (size // 17 + 1))[:size]
    assert len(done.stdout) == size
    assert zlib.crc32(done.stdout) == zlib.crc32(expected)


@pytest.mark.vm
def test_detached_container_is_listed_executed_in_killed_and_removed(
    containerd: Containerd,
) -> None:
    """A detached container with ctr's task commands."""
    containerd.ctr(*RUN, "-d", "--null-io", IMAGE, "c1", "sleep", "1000")
    task = containerd.tasks()["c1"]
    executed = containerd.ctr(
        "task", "exec", "--exec-id", "e1", "c1", "sh", "-c", "echo in; exit 3", check=False
    )
    listed = containerd.ctr("task", "ps", "c1").stdout.decode()
    refused = containerd.ctr("task", "rm", "c1", check=False)
    containerd.ctr("task", "kill", "-s", "SIGKILL", "c1")
    stopped = containerd.wait_status("c1", "STOPPED")
    removed = containerd.remove_task("c1")
    containerd.ctr("container", "rm", "c1")

    assert task.status == "RUNNING"
    assert (executed.returncode, executed.stdout) == (3, b"in\n")
    assert str(task.pid) in listed.split()
    assert refused.returncode != 0
    assert stopped.pid == task.pid
    assert removed == 137
    assert containerd.tasks() == {}


def test_kill_term_lets_the_container_choose_its_status(containerd: Containerd) -> None:
    """SIGTERM reaches the init, whose own exit status is reported."""
    script = 'trap "exit 42" TERM; echo up; while :; do sleep 0.05; done'
    with _foreground(containerd, "c1", script) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"up\n"
        containerd.ctr("task", "kill", "-s", "SIGTERM", "c1")
        client.stdout.read()
        status = client.wait(timeout=20)

    assert status == 42


def test_twenty_containers_at_once_all_answer(containerd: Containerd) -> None:
    """Parallel creates, runs and removals of one daemon do not disturb each other."""
    clients = [
        _foreground(containerd, f"c{i}", f"echo I am {i}; exit {i}", "--rm") for i in range(20)
    ]

    outputs = [client.communicate(timeout=100)[0] for client in clients]

    assert outputs == [f"I am {i}\n".encode() for i in range(20)]
    assert [client.returncode for client in clients] == list(range(20))
    assert containerd.tasks() == {}


@pytest.mark.timeout(120)
def test_twenty_short_runs_have_their_events_in_order(containerd: Containerd, host: Host) -> None:
    """create, start, exit, delete, each once, even for the shortest process."""
    _short_runs(containerd, host, 20)


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_two_hundred_short_runs_have_their_events_in_order(
    containerd: Containerd, host: Host
) -> None:
    """The same with ten times as many; sockets, mounts and processes do not accumulate."""
    _short_runs(containerd, host, 200)


def test_killed_containerd_finds_its_containers_again(containerd: Containerd, host: Host) -> None:
    """After kill -9 of the daemon and a new start: same pids, output arrives, statuses are
    right."""
    log = Path(host.folder, "out")
    containerd.ctr(*RUN, "-d", "--log-uri", f"file://{log}", IMAGE, "c1", "sh", "-c", TICK)
    containerd.ctr(*RUN, "-d", "--null-io", IMAGE, "c2", "sleep", "1000")
    before = containerd.tasks()
    shims = {name: containerd.shim_pid(name) for name in before}

    containerd.kill()
    written = log.stat().st_size
    containerd.start()

    assert containerd.tasks() == before
    assert {name: containerd.shim_pid(name) for name in before} == shims
    until(lambda: log.stat().st_size > written, "output to flow on")
    executed = containerd.ctr("task", "exec", "--exec-id", "e1", "c1", "echo", "still here")
    assert executed.stdout == b"still here\n"
    for name in before:
        containerd.ctr("task", "kill", "-s", "SIGKILL", name)
        containerd.wait_status(name, "STOPPED")
        assert containerd.remove_task(name) == 137
    lines = log.read_text().splitlines()
    assert lines == [f"tick {i + 1}" for i in range(len(lines))]


@pytest.mark.vm
@pytest.mark.ours("`delete` of the Go shim leaves the stale socket")
def test_container_of_a_killed_shim_is_killed_and_removed(containerd: Containerd) -> None:
    """After SIGKILL of the shim the daemon runs `delete`: container dead, everything removed."""
    containerd.ctr(*RUN, "-d", "--null-io", IMAGE, "c1", "sleep", "1000")
    init = containerd.tasks()["c1"].pid

    os.kill(containerd.shim_pid("c1"), signal.SIGKILL)

    until(lambda: not alive(init), "the container to be dead")
    until(lambda: "c1" not in containerd.tasks(), "the task to be forgotten")


def _foreground(
    containerd: Containerd, name: str, script: str, *flags: str
) -> "subprocess.Popen[bytes]":
    command = containerd.command(*RUN, *(flags or ("--rm",)), IMAGE, name, "sh", "-c", script)
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def _short_runs(containerd: Containerd, host: Host, count: int) -> None:
    path = os.path.join(host.folder, "events")
    watching = containerd.events(path)
    try:
        for i in range(count):
            done = containerd.ctr(*RUN, "--rm", IMAGE, f"c{i}", "true")
            assert (done.stdout, done.stderr) == (b"", b"")
            if i % 20 == 19:
                assert host.leaks.sockets() == []
        last = f"c{count - 1}"
        until(lambda: ("delete", last) in _events_of(path, last), "the last event")
    finally:
        watching.terminate()
        watching.wait(timeout=10)
    for i in range(count):
        events = _events_of(path, f"c{i}")
        assert events == [(topic, f"c{i}") for topic in ("create", "start", "exit", "delete")], i


def _events_of(path: str, name: str) -> list[tuple[str, str]]:
    return parse_events(Path(path).read_text(), name)
