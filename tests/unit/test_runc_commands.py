"""Calls of the runtime: command lines, environment, streams, the file of an exec."""

import json
import os
from pathlib import Path

import pytest

from tests.support.aio import LOOPS, LoopName
from tests.support.fake_runtime import LIMIT_S, PROCESS, VERBS, FakeRuntime, create, exec_, failure


@pytest.fixture
def fake(tmp_path: Path) -> FakeRuntime:
    return FakeRuntime(tmp_path)


@pytest.mark.rule("task.lines.1")
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize(
    ("verb", "line"),
    [
        ("create", "create --bundle /b --pid-file /b/init.pid c1"),
        ("start", "start c1"),
        ("exec", "exec --process PROCESS --detach --pid-file /b/e1.pid c1"),
        ("kill", "kill c1 9"),
        ("kill-all", "kill --all c1 9"),
        ("delete", "delete c1"),
        ("delete-force", "delete --force c1"),
        ("pause", "pause c1"),
        ("resume", "resume c1"),
        ("update", "update --resources=- c1"),
        ("checkpoint", "checkpoint --image-path /i --work-path /w --leave-running c1"),
    ],
)
def test_verb_has_the_command_line_of_the_reference(
    fake: FakeRuntime, verb: str, line: str, loop: LoopName
) -> None:
    """The order is exact."""
    fake.script('for ARG; do echo "$ARG"; done >$HERE/argv')
    fake.run(VERBS[verb], loop=loop)

    argv = fake.saw("argv").splitlines()
    if verb == "exec":
        argv[argv.index("--process") + 1] = "PROCESS"
    head = ["--root", fake.root, "--log", str(fake.log), "--log-format", "json"]
    assert argv == [*head, *line.split()]


@pytest.mark.rule("task.lines.2", "options.runc.3", "options.runc.4")
def test_options_of_create_are_in_the_order_of_the_reference(fake: FakeRuntime) -> None:
    """The options of a Create reach the command line at their place."""
    fake.script('for ARG; do echo "$ARG"; done >$HERE/argv')
    options = {"console_socket": "/s", "no_pivot": True, "no_new_keyring": True}
    fake.run(lambda runc: create(runc, **options), systemd_cgroup=True, criu_path="/criu")

    assert fake.saw("argv").splitlines()[6:] == [
        *("--systemd-cgroup", "create", "--bundle", "/b"),
        *("--pid-file", "/b/init.pid", "--console-socket", "/s"),
        *("--no-pivot", "--no-new-keyring", "c1"),
    ]


@pytest.mark.rule("task.lines.3")
def test_pid_file_of_a_relative_bundle_is_absolute(
    fake: FakeRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The path of the bundle is passed on unchanged."""
    monkeypatch.chdir(fake.folder)
    fake.script('for ARG; do echo "$ARG"; done >$HERE/argv')
    fake.run(lambda runc: create(runc, bundle="bundle", pid_file="bundle/init.pid"))

    argv = fake.saw("argv").splitlines()
    assert argv[argv.index("--bundle") + 1] == "bundle"
    assert argv[argv.index("--pid-file") + 1] == str(fake.bundle / "init.pid")


@pytest.mark.rule("task.lines.4")
def test_runtime_gets_our_environment_but_for_the_notify_socket(
    fake: FakeRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """runc would wait for a readiness message."""
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/notify")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "containerd-shim-c1")
    fake.script("tr '\\0' '\\n' </proc/$$/environ >$HERE/env; pwd >$HERE/cwd")
    fake.run(VERBS["start"])

    env = dict(line.split("=", 1) for line in fake.saw("env").splitlines())
    assert env.keys() == os.environ.keys() - {"NOTIFY_SOCKET"}
    assert env["OTEL_SERVICE_NAME"] == "containerd-shim-c1"
    assert fake.saw("cwd").strip() == os.getcwd()


@pytest.mark.rule("task.lines.5")
def test_create_hands_the_streams_of_the_container_to_the_runtime(fake: FakeRuntime) -> None:
    """runc's stdio is that of the container; missing streams are /dev/null."""
    fake.script("ls -l /proc/$$/fd | grep -v fakerunc >$HERE/fds; echo hello; echo oops >&2")
    out_r, out_w = os.pipe()
    spawned: list[bool] = []
    try:
        given = {"fds": {1: out_w}, "spawned": lambda: spawned.append(True)}
        fake.run(lambda runc: create(runc, **given))
        output = os.read(out_r, 100)
    finally:
        os.close(out_r)
        os.close(out_w)

    fds = [line.split(" -> ") for line in fake.saw("fds").splitlines() if " -> " in line]
    targets = {fd.split()[-1]: target for fd, target in fds}
    assert output == b"hello\n"
    assert (targets["0"], targets["2"]) == ("/dev/null", "/dev/null")
    assert spawned == [True]


@pytest.mark.rule("task.lines.6")
def test_other_verbs_have_their_output_caught_in_memory(fake: FakeRuntime) -> None:
    """fds 1 and 2 are one file, and never a pipe that blocks."""
    fake.script('FD=/proc/$$/fd; FDS=$(readlink $FD/0 $FD/1 $FD/2); echo "$FDS" >$HERE/fds')
    fake.run(VERBS["kill"])

    stdin, stdout, stderr = fake.saw("fds").split("\n")[:3]
    assert stdin == "/dev/null"
    assert stdout == stderr
    assert stdout.startswith("/memfd:")


@pytest.mark.rule("task.lines.8")
def test_update_hands_the_resources_over_as_one_line(fake: FakeRuntime) -> None:
    """JSON and a newline on stdin."""
    fake.script("cat >$HERE/stdin")
    resources = {"memory": {"limit": 1}, "new": "x" * 200_000}
    fake.run(lambda runc: runc.update("c1", resources=resources, timeout_s=LIMIT_S))

    assert fake.saw("stdin").endswith("\n")
    assert json.loads(fake.saw("stdin")) == resources


# --- the process of an exec --------------------------------------------------------------------


@pytest.mark.rule("task.lines.7")
@pytest.mark.parametrize("outcome", ["exit 0", "exit 1", "kill -9 $$"])
def test_process_file_is_private_and_removed_afterwards(
    fake: FakeRuntime, monkeypatch: pytest.MonkeyPatch, outcome: str
) -> None:
    """`runc-process*`, 0600 (it has the environment), always removed."""
    folder = fake.folder / "tmp"
    folder.mkdir()
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setenv("TMPDIR", str(folder))
    fake.script(
        'while [ "$1" != --process ]; do shift; done; echo "$2" >$HERE/path\n'
        'cp "$2" $HERE/process; stat -c %a "$2" >$HERE/mode\n' + outcome
    )
    if outcome == "exit 0":
        fake.run(exec_)
    else:
        failure(fake, exec_)

    assert fake.saw("path").startswith(f"{folder}/runc-process")
    assert fake.saw("mode").strip() == "600"
    assert json.loads(fake.saw("process")) == PROCESS
    assert os.listdir(folder) == []


@pytest.mark.rule("task.lines.11")
def test_process_file_is_in_the_runtime_folder_of_the_user(
    fake: FakeRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """XDG_RUNTIME_DIR takes precedence over TMPDIR."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(fake.bundle))
    monkeypatch.setenv("TMPDIR", "/no/such")
    fake.script('while [ "$1" != --process ]; do shift; done; echo "$2" >$HERE/path')
    fake.run(exec_)

    assert fake.saw("path").startswith(f"{fake.bundle}/runc-process")


def test_missing_folder_for_the_process_file_is_reported(
    fake: FakeRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/no/such")
    fake.script("touch $HERE/ran")
    fake.log.touch()

    text = failure(fake, exec_)

    assert text.startswith("OCI runtime exec failed: open /no/such/runc-process")
    assert text.endswith(": no such file or directory")
    assert not fake.has_seen("ran")


@pytest.mark.root
def test_full_disk_under_the_process_file_is_reported(
    fake: FakeRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clear error, and no leftovers on the full disk."""
    disk = fake.folder / "disk"
    disk.mkdir()
    assert os.system(f"mount -t tmpfs -o size=8k tmpfs {disk}") == 0
    try:
        (disk / "fill").write_bytes(bytes(4096))
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(disk))
        fake.script("exit 0")
        fake.log.touch()
        process = {"args": ["x" * 100_000]}
        text = failure(fake, lambda runc: exec_(runc, process=process))
        left = os.listdir(disk)
    finally:
        os.system(f"umount {disk}")

    assert text.startswith(f"OCI runtime exec failed: write {disk}/runc-process")
    assert text.endswith(": no space left on device")
    assert left == ["fill"]
