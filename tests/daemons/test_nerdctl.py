"""nerdctl with every containerd: it is the logging binary of its own containers, and a terminal."""

import os
import re
import signal
from pathlib import Path

import pytest

from shimv2.shimctl.image import IMAGE
from shimv2.shimctl.testbed.containerd import Containerd
from shimv2.shimctl.testbed.until import until
from tests.daemons.nerdctl import Nerdctl
from tests.daemons.page import box
from tests.daemons.pairs import pairs
from tests.support.cgroups import folder_of, unified
from tests.support.host import Host
from tests.support.terminal import Terminal

pytestmark = pytest.mark.root
DAEMONS = ("nerdctl 1.6", "nerdctl 1.7", "nerdctl 2.1")
every_pair = pytest.mark.parametrize(
    "pair", [pair for daemon in DAEMONS for pair in pairs(daemon)], indirect=True
)
every_daemon = pytest.mark.parametrize(
    "pair",
    [pair for daemon in DAEMONS for pair in pairs(daemon, runtimes=("runc",))],
    indirect=True,
)
TICK = "i=0; while :; do i=$((i+1)); echo tick $i; sleep 0.05; done"


@every_pair
def test_run_rm_prints_the_output_and_leaves_nothing(nerdctl: Nerdctl) -> None:
    """Both streams, input, and the exit status; no container afterwards."""
    script = "cat; echo err >&2; exit 3"
    run = nerdctl.words("--rm", "--interactive")

    done = nerdctl(*run, IMAGE, "sh", "-c", script, stdin="in\n", check=False)

    assert (done.returncode, done.stdout) == (3, "in\n")
    assert "err\n" in done.stderr
    assert nerdctl("ps", "--all", "--quiet").stdout == ""


@every_pair
def test_life_in_the_background(nerdctl: Nerdctl) -> None:
    """run -d, ps, logs, exec, pause, unpause, kill, wait, rm."""
    nerdctl(*nerdctl.words("-d", "--name", "web"), IMAGE, "sh", "-c", TICK)
    nerdctl.wait_logged("web", "tick 3\n")
    assert nerdctl.status("web") == "Up"
    assert nerdctl("exec", "-i", "web", "cat", stdin="in\n").stdout == "in\n"
    failed = nerdctl("exec", "web", "sh", "-c", "exit 5", check=False)
    assert (failed.returncode, "failed with exit code 5" in failed.stderr) == (1, True)

    nerdctl("pause", "web")
    assert nerdctl.inspected("web")["Status"] == "paused"
    paused = nerdctl("logs", "web").stdout
    assert nerdctl("logs", "web").stdout == paused
    nerdctl("unpause", "web")
    until(lambda: nerdctl("logs", "web").stdout != paused, "it to go on")

    nerdctl("kill", "web")
    assert nerdctl("wait", "web").stdout == "137\n"
    assert nerdctl.status("web").startswith("Exited (137)")
    lines = nerdctl("logs", "web").stdout.splitlines()
    assert lines == [f"tick {i + 1}" for i in range(len(lines))]
    nerdctl("rm", "web")
    assert nerdctl("ps", "--all", "--quiet").stdout == ""


@pytest.mark.parametrize(
    "pair",
    [*pairs("nerdctl 1.6", runtimes=("crun",)), *pairs("nerdctl 2.1", runtimes=("crun-sid",))],
    indirect=True,
)
def test_runtime_is_the_one_that_is_named(nerdctl: Nerdctl, runtime: str) -> None:
    """docs/daemons.md: `--runtime PATH`; that runtime, and no other."""
    printed, missing = "/usr/bin/crun", "/no/such/crun"

    done = nerdctl.run(box("nerdctl-crun", instead={printed: runtime}))
    refused = nerdctl.run(box("nerdctl-crun", instead={printed: missing}), check=False)

    assert done.stdout == "hello\n"
    assert (refused.returncode, missing in refused.stderr) == (1, True)


@every_daemon
def test_log_of_a_short_container_is_whole(nerdctl: Nerdctl) -> None:
    """Output right before the exit is in the log, each stream in order."""
    script = "for i in $(seq 1000); do echo out $i; echo err $i >&2; done"
    for turn in range(3):
        name = f"short{turn}"
        nerdctl(*nerdctl.words("-d", "--name", name), IMAGE, "sh", "-c", script)
        nerdctl("wait", name)

    # wait reports the container's exit; the logging binary ends later, and no client waits for it.
    for turn in range(3):
        nerdctl.wait_logged(f"short{turn}", "out 1000\n")
        logged = nerdctl("logs", f"short{turn}")
        assert logged.stdout == "".join(f"out {i + 1}\n" for i in range(1000))
        assert logged.stderr == "".join(f"err {i + 1}\n" for i in range(1000))


@every_daemon
def test_log_is_followed_to_the_containers_end(nerdctl: Nerdctl) -> None:
    """logs -f shows new lines and ends with the container; --tail leaves out old lines."""
    nerdctl(*nerdctl.words("-d", "--name", "web"), IMAGE, "sh", "-c", TICK)
    with nerdctl.terminal("nerdctl", "logs", "--follow", "web") as person:
        person.expect(b"tick 5\r\n")
        nerdctl("stop", "--time", "0", "web")
        person.rest()
        assert person.wait() == 0

    last = nerdctl("logs", "--tail", "1", "web").stdout
    assert last == nerdctl("logs", "web").stdout.splitlines(keepends=True)[-1]


@every_daemon
def test_terminal_has_its_size_and_the_exit_status(nerdctl: Nerdctl) -> None:
    """run -it: a shell at a pty, whose new size the container gets."""
    command = nerdctl.words("--rm", "-it")
    with nerdctl.terminal("nerdctl", *command, IMAGE, "sh", columns=90, rows=30) as person:
        _expect_size(person, columns=90, rows=30)
        person.resize(100, 40)
        _expect_size(person, columns=100, rows=40)
        person.type(b"exit 7\n")
        person.rest()
        assert person.wait() == 7


@every_daemon
def test_terminal_is_detached_and_attached_again(nerdctl: Nerdctl) -> None:
    """The detach keys do not affect the shell; attach finds it unchanged; Ctrl-C reaches it."""
    command = nerdctl.words("-it", "--name", "shell")
    with nerdctl.terminal("nerdctl", *command, IMAGE, "sh") as person:
        person.type(b"mine=5$((1+1))\n")
        person.expect(b"mine=.*# ")
        person.type(b"\x10\x11")
        person.rest()
        assert person.wait() == 0
    assert nerdctl.status("shell") == "Up"

    with nerdctl.terminal("nerdctl", "attach", "shell") as person:
        person.type(b"echo [$mine]\n")
        person.expect(rb"\[52\]")
        # After that output the job has the terminal, and not the line editor of the shell.
        person.type(b"sh -c 'echo now; sleep 1000'\n")
        person.expect(b"\nnow\r\n")
        person.type(b"\x03")
        person.expect(b"# ")
        person.type(b"exit $mine\n")
        person.rest()
        assert person.wait() == 52


@every_daemon
def test_exec_in_a_terminal(nerdctl: Nerdctl) -> None:
    """exec -it: a terminal of its own, with its environment, folder and status."""
    nerdctl(*nerdctl.words("-d", "--name", "web"), IMAGE, "sleep", "1000")
    command = ("nerdctl", "exec", "-it", "-e", "WHO=me", "-w", "/tmp", "web", "sh")
    with nerdctl.terminal(*command, columns=90, rows=30) as person:
        person.type(b"echo [$WHO] [$PWD]; tty\n")
        person.expect(rb"\[me\] \[/tmp\].*/dev/pts/\d")
        person.resize(100, 40)
        _expect_size(person, columns=100, rows=40)
        person.type(b"exit 9\n")
        assert b"exec failed with exit code 9" in person.rest()  # its own status is 1


@every_daemon
def test_container_is_inspected_and_limited(nerdctl: Nerdctl) -> None:
    """inspect, top and stats; update changes the cgroup."""
    limit = ("--memory", "64m", "--pids-limit", "20")
    nerdctl(*nerdctl.words("-d", "--name", "web", *limit), IMAGE, "sleep", "1000")
    pid = nerdctl.inspected("web")["Pid"]

    assert Path(f"/proc/{pid}/cmdline").read_bytes() == b"sleep\x001000\x00"
    assert re.search(rf"\b{pid}\b.*sleep 1000", nerdctl("top", "web").stdout)
    stats = nerdctl("stats", "--no-stream", "--format", "{{.MemUsage}} {{.PIDs}}", "web").stdout
    assert re.fullmatch(r"\S+ / 64MiB 1", stats.strip())
    nerdctl("update", "--memory", "96m", "web")
    file = "memory.max" if unified() else "memory.limit_in_bytes"
    assert int((folder_of(int(str(pid)), "memory") / file).read_text()) == 96 << 20


@every_daemon
def test_stop_waits_and_then_kills_and_start_begins_again(nerdctl: Nerdctl) -> None:
    """SIGTERM first, and SIGKILL for a process that ignores it; start, restart, rm -f."""
    polite = "trap 'echo bye; exit 4' TERM; echo ready; while :; do sleep 0.05; done"
    nerdctl(*nerdctl.words("-d", "--name", "web"), IMAGE, "sh", "-c", polite)
    nerdctl.wait_logged("web", "ready\n")
    nerdctl("stop", "--time", "60", "web")
    assert nerdctl.status("web").startswith("Exited (4)")
    nerdctl.wait_logged("web", "bye\n")

    nerdctl("start", "web")
    assert nerdctl.status("web") == "Up"
    nerdctl.wait_logged("web", "ready\n")  # earlier output is in a file that is not shown
    nerdctl("kill", "--signal", "TERM", "web")
    assert nerdctl("wait", "web").stdout == "4\n"

    nerdctl(*nerdctl.words("-d", "--name", "deaf"), IMAGE, "sleep", "1000")
    before = nerdctl.inspected("deaf")["Pid"]
    nerdctl("restart", "--time", "0", "deaf")
    assert nerdctl.inspected("deaf")["Pid"] != before
    nerdctl("stop", "--time", "1", "deaf")
    assert nerdctl.status("deaf").startswith("Exited (137)")


@every_daemon
def test_terminal_in_the_background_is_logged(nerdctl: Nerdctl) -> None:
    """run -dt: the output of the terminal goes to the logging binary."""
    script = "tty; echo done; exec sleep 1000"
    nerdctl(*nerdctl.words("-dt", "--name", "web"), IMAGE, "sh", "-c", script)

    nerdctl.wait_logged("web", "done\n")
    assert nerdctl("logs", "web").stdout == "/dev/pts/0\ndone\n"
    nerdctl("kill", "--signal", "HUP", "web")  # without effect on pid 1
    nerdctl("kill", "web")
    assert nerdctl("wait", "web").stdout == "137\n"


@every_daemon
def test_container_is_made_as_asked(nerdctl: Nerdctl, host: Host) -> None:
    """User, folder, environment, a mount, no writing; files in and out."""
    folder = os.path.join(host.folder, "data")
    os.mkdir(folder)
    Path(folder, "in").write_text("mine\n")
    asked = ("--user", "1000:1001", "--workdir", "/tmp", "--env", "WHO=me")
    more = ("--read-only", "--volume", f"{folder}:/data:ro")
    script = "id -u; id -g; pwd; echo $WHO; cat /data/in; touch /x; touch /data/x; true"
    done = nerdctl(*nerdctl.words("--rm", *asked, *more), IMAGE, "sh", "-c", script)

    assert done.stdout.split() == ["1000", "1001", "/tmp", "me", "mine"]
    assert done.stderr.count("Read-only file system") == 2

    nerdctl(*nerdctl.words("-d", "--name", "web"), IMAGE, "sleep", "1000")
    nerdctl("cp", f"{folder}/in", "web:/root/copy")
    assert nerdctl("exec", "web", "cat", "/root/copy").stdout == "mine\n"
    nerdctl("cp", "web:/root/copy", f"{folder}/out")
    assert Path(folder, "out").read_text() == "mine\n"


@every_daemon
def test_daemon_starts_a_container_again(nerdctl: Nerdctl) -> None:
    """--restart=always: containerd itself makes the next task, with the same logging binary."""
    command = nerdctl.words("-d", "--name", "web", "--restart", "always")
    nerdctl(*command, IMAGE, "sh", "-c", "echo up; exec sleep 1000")
    before = nerdctl.inspected("web")["Pid"]
    assert isinstance(before, int)

    os.kill(before, signal.SIGKILL)

    # containerd checks every ten seconds.
    until(lambda: nerdctl.inspected("web")["Pid"] not in {before, 0}, "a new process", limit_s=60.0)
    until(lambda: nerdctl("logs", "web").stdout == "up\n", "its own log")
    nerdctl("rm", "--force", "web")
    assert nerdctl("ps", "--all", "--quiet").stdout == ""


@every_daemon
def test_network_of_the_host_and_none(nerdctl: Nerdctl) -> None:
    """--net host: the host's own interfaces; --net none: only the loopback."""
    run = ("run", "--rm", "--runtime", nerdctl.runtime)
    look = (IMAGE, "readlink", "/proc/self/ns/net")
    hosts = os.readlink("/proc/self/ns/net")

    assert nerdctl(*run, "--net", "host", *look).stdout.strip() == hosts
    assert nerdctl(*run, "--net", "none", *look).stdout.strip() != hosts
    interfaces = nerdctl(*run, "--net", "none", IMAGE, "ls", "/sys/class/net").stdout.split()
    assert "lo" in interfaces
    assert "eth0" not in interfaces


@every_daemon
def test_failures_are_reported(nerdctl: Nerdctl) -> None:
    """A missing program, and memory that is used up."""
    missing = nerdctl(*nerdctl.words("--rm"), IMAGE, "nosuchcommand", check=False)
    assert missing.returncode == 1
    assert "executable file not found in $PATH" in missing.stderr

    eat = "x=a; while :; do x=$x$x; done"
    command = nerdctl.words("--memory", "32m", "--name", "hungry")
    hungry = nerdctl(*command, IMAGE, "sh", "-c", f"sh -c '{eat}'; exit $?", check=False)
    assert hungry.returncode == 137


@every_daemon
def test_daemon_is_killed_and_the_log_continues(nerdctl: Nerdctl, containerd: Containerd) -> None:
    """The logging binary belongs to the shim: no line is lost while there is no daemon."""
    nerdctl(*nerdctl.words("-d", "--name", "web"), IMAGE, "sh", "-c", TICK)
    nerdctl.wait_logged("web", "tick 3\n")
    pid = nerdctl.inspected("web")["Pid"]

    containerd.kill()
    containerd.start()

    assert nerdctl.inspected("web")["Pid"] == pid
    before = nerdctl("logs", "web").stdout
    until(lambda: nerdctl("logs", "web").stdout != before, "the log to go on")
    nerdctl("kill", "web")
    nerdctl("wait", "web")
    lines = nerdctl("logs", "web").stdout.splitlines()
    assert lines == [f"tick {i + 1}" for i in range(len(lines))]


def _expect_size(person: Terminal, *, columns: int, rows: int) -> None:
    """Ask until the size is set: it is sent apart from the input, and may arrive later."""
    person.type(f"until [ \"$(stty size)\" = '{rows} {columns}' ]; do sleep 0.05; done\n".encode())
    person.type(b"stty size\n")
    person.expect(rb"\n" + f"{rows} {columns}".encode() + rb"\r\n")
