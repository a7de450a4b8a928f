"""The server process: its environment, its open files, its inherited attributes."""

import os
import signal
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from shimv2.shimctl.testbed.until import until
from tests.support.boot import (
    Boot,
    answers,
    arguments,
    fds,
    install,
    listening,
    path_of,
)


@pytest.fixture
def boot() -> Iterator[Boot]:
    with Boot() as made:
        yield made


def status(pid: int, field: str) -> str:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line for line in lines if line.startswith(f"{field}:")).split(":")[1].strip()


@pytest.mark.rule("cli.spawn.1", "cli.spawn.2", "cli.spawn.3")
def test_server_is_a_daemon_of_its_own(boot: Boot) -> None:
    """Its title, working folder, parent, process group and session."""
    bundle = boot.bundle("c1")
    path = path_of(boot.new_start("c1"))

    pid = boot.served(path)

    words = ["-namespace", boot.namespace, "-id", "c1", "-address", boot.address]
    assert arguments(pid) == [str(boot.shim), *words]
    assert os.readlink(f"/proc/{pid}/cwd") == str(bundle)
    assert Path(f"/proc/{pid}/comm").read_text() == "containerd-shim\n"
    assert os.getpgid(pid) == pid
    assert os.getsid(pid) not in (os.getsid(0), 0)
    assert int(status(pid, "PPid")) not in (os.getpid(), 0)
    assert status(pid, "Threads") == "1"
    environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    assert f"TTRPC_ADDRESS={boot.address}.ttrpc".encode() in environment


@pytest.mark.rule("cli.spawn.1", "cli.reply.9")
def test_debug_level_is_shown_in_the_command_line(boot: Boot) -> None:
    """Its command line shows namespace, id and address, and `-debug` if debug output is on."""
    boot.bundle("c1")
    boot.new_start("c1", params={"log_level": -4})

    assert arguments(boot.server())[-1] == "-debug"


@pytest.mark.rule("cli.spawn.4")
def test_server_holds_only_its_own_fds(boot: Boot) -> None:
    """No fd of the caller leaks into it, and so into runc."""
    bundle = boot.bundle("c1")
    leak, other = os.pipe()
    os.set_inheritable(leak, True)
    done = subprocess.run(
        boot.args("c1", "start"),
        cwd=bundle,
        input=boot.params("c1"),
        capture_output=True,
        check=True,
        pass_fds=[leak],
    )
    pipe = os.readlink(f"/proc/self/fd/{leak}")
    os.close(leak)
    os.close(other)

    pid = boot.served(path_of(done))
    until(lambda: len(fds(pid)) == 7, "the connections of this test to be closed")

    found = fds(pid)
    assert pipe not in found.values()
    assert [found.pop(n) for n in (0, 1, 2)] == ["/dev/null", "/dev/null", str(bundle / "log")]
    kinds = sorted(to.split(":")[0] for to in found.values())
    assert kinds == ["anon_inode", "socket", "socket", "socket"]  # epoll, its wake-up, the listener


@pytest.mark.rule("cli.spawn.9", "cli.signals.3")
@pytest.mark.parametrize("umask", [0o000, 0o027])
def test_limits_umask_and_signals_are_inherited_as_they_are(boot: Boot, umask: int) -> None:
    """Containers inherit them from the server; python-daemon's defaults would change them."""
    boot.bundle("c1")
    path = path_of(boot.new_start("c1", setup=lambda: os.umask(umask)))

    pid = boot.served(path)

    assert int(status(pid, "Umask"), 8) == umask
    # The C library's own signals may be ignored in the test process; CPython ignores the last two.
    inherited = int(status(os.getpid(), "SigIgn"), 16)
    pythons = 1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1
    assert int(status(pid, "SigIgn"), 16) & ~(inherited & ~pythons) == 0
    assert int(status(pid, "SigBlk"), 16) == 0
    wanted = Path("/proc/self/limits").read_text().splitlines()
    assert Path(f"/proc/{pid}/limits").read_text().splitlines() == wanted


@pytest.mark.rule("cli.socket.3", "cli.files.1")
@pytest.mark.parametrize("umask", [0o000, 0o777])
def test_modes_of_files_do_not_depend_on_the_umask(boot: Boot, umask: int) -> None:
    """The folder has mode 0700, the socket 0600, whatever the umask."""
    bundle = boot.bundle("c1")
    path = path_of(boot.new_start("c1", setup=lambda: os.umask(umask)))

    modes = [stat.S_IMODE(os.stat(p).st_mode) for p in (path, boot.socket_dir, bundle / "address")]
    assert modes == [0o600, 0o700, 0o644]


@pytest.mark.rule("cli.spawn.5")
@pytest.mark.parametrize("score", [0, 500, 1000])
def test_server_goes_before_the_daemon_when_memory_is_short(boot: Boot, score: int) -> None:
    """Its score is the caller's plus one, at most 1000."""
    bundle = boot.bundle("c1")
    (boot.folder / "stdin").write_bytes(boot.params("c1"))
    words = " ".join(boot.args("c1", "start"))
    script = f"echo {score} >/proc/$$/oom_score_adj; {words} <{boot.folder}/stdin; true"

    done = subprocess.run(["sh", "-c", script], cwd=bundle, capture_output=True, check=True)

    pid = boot.served(path_of(done))
    assert int(Path(f"/proc/{pid}/oom_score_adj").read_text()) == min(score + 1, 1000)


@pytest.mark.rule("cli.signals.2")
def test_server_imports_nothing_once_it_is_on_its_own(boot: Boot) -> None:
    """An upgrade may replace the files of a running shim."""
    bundle = boot.bundle("c1")
    install(boot.shim, "-IXimporttime")  # one line on stderr for each module
    done = boot.new_start("c1")
    pid = boot.served(path_of(done))
    os.kill(pid, signal.SIGUSR1)

    boot.stop()

    log = boot.log(bundle)
    assert b"import time:" in done.stderr
    assert "stopping: SIGTERM" in log
    assert "dump_stacks" in log
    assert "import time:" not in log


@pytest.mark.rule("cli.signals.1")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stop_signal_right_after_start_leaves_no_socket(boot: Boot, number: int) -> None:
    """Also before the server has its own signal handlers."""
    boot.bundle("c1")
    for _ in range(3):
        boot.new_start("c1")

        boot.stop(number)

        assert os.listdir(boot.socket_dir) == []


@pytest.mark.rule("cli.serve.5")
def test_server_that_is_executed_serves_fd_3_and_removes_its_name(boot: Boot) -> None:
    """The listener is passed as by an older `start`."""
    bundle = boot.bundle("c1")
    path = str(boot.folder / "x.sock")
    with listening(path) as sock:
        server = subprocess.Popen(
            [str(boot.shim), "-namespace", boot.namespace, "-id", "c1"],
            cwd=bundle,
            stdin=subprocess.DEVNULL,
            pass_fds=[3],
            preexec_fn=lambda: os.dup2(sock.fileno(), 3),  # noqa: PLW1509 - no threads here
        )
    try:
        until(lambda: answers(path), "the server to answer")
    finally:
        server.terminate()
        assert server.wait(10) == 0
    assert not os.path.exists(path)
