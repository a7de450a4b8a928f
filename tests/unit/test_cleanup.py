"""`delete`: what it removes, what it reports, and what it does not touch."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protos.task_v2_pb2 import DeleteResponse
from shimv2.actions.delete import delete_response
from shimv2.task.exits import ExitRecords
from shimv2.values.model import Exit
from shimv2.values.paths import SOCKET_DIR, socket_path
from tests.support.boot import RUNTIME, Boot, Done, dead_socket, listening

AT_NS = 1_700_000_000_123_456_789
# Acts as the runtime: writes its arguments, one in a line, and succeeds.
FAKE = """#!/bin/sh
printf '%s\\n' "$@" >>{folder}/called
"""


@pytest.fixture
def boot() -> Iterator[Boot]:
    with Boot() as made:
        program(made, "runc", FAKE.format(folder=made.folder))
        yield made


def program(boot: Boot, name: str, text: str) -> str:
    (boot.folder / "bin").mkdir(exist_ok=True)
    path = boot.folder / "bin" / name
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


def delete(boot: Boot, id_: str, *flags: str, cwd: Path | None = None) -> Done:
    env = {"PATH": f"{boot.folder}/bin:{os.environ['PATH']}"}
    return boot.delete(id_, *flags, env=env, cwd=cwd or boot.state / id_)


def called(boot: Boot) -> list[str]:
    return (boot.folder / "called").read_text().splitlines()


def response(done: Done) -> DeleteResponse:
    assert done.returncode == 0, done.stderr
    return DeleteResponse.FromString(done.stdout)


def created(boot: Boot, id_: str = "c1", *, pid: str = "4194999", options: str = "{}") -> Path:
    """Make a bundle with the files of a Create."""
    bundle = boot.bundle(id_)
    (bundle / "init.pid").write_text(pid)
    (bundle / "options.json").write_text(options)
    (bundle / "runtime").write_text("")
    (bundle / "rootfs").mkdir()
    return bundle


def left(boot: Boot, root: str = "") -> str:
    """Make the state of container c1 in the runtime's folder; return the `root` of its options."""
    root = root or str(boot.folder / "root")
    os.makedirs(f"{root}/{boot.namespace}/c1")
    return json.dumps({"root": root})


# --- the answer ---------------------------------------------------------------------------------


@pytest.mark.rule("cli.delete.7")
@given(
    st.builds(
        Exit,
        pid=st.integers(0, 2**32 - 1),
        status=st.integers(0, 255),
        at_ns=st.integers(0, 2**62),
    )
)
def test_answer_is_the_message_to_the_byte(ended: Exit) -> None:
    """Stdout is exactly the protobuf."""
    message = DeleteResponse(pid=ended.pid, exit_status=ended.status)
    message.exited_at.FromNanoseconds(ended.at_ns)

    assert delete_response(ended) == message.SerializeToString()


@pytest.mark.rule("cli.delete.7")
def test_answer_without_a_record_is_137_and_now(boot: Boot) -> None:
    """Pid of the init, 128 + SIGKILL; nothing on stderr."""
    created(boot)

    done = delete(boot, "c1")

    answer = response(done)
    assert (answer.pid, answer.exit_status, done.stderr) == (4194999, 137, b"")
    assert answer.exited_at.seconds > AT_NS // 10**9


@pytest.mark.rule("cli.delete.7")
@pytest.mark.parametrize(
    ("recorded_pid", "status", "expected"), [(4194999, 3, 3), (4194999, 0, 0), (4194998, 3, 137)]
)
def test_recorded_exit_is_reported_if_it_is_of_the_same_process(
    boot: Boot, recorded_pid: int, status: int, expected: int
) -> None:
    """A known exit is reported, also after a crash of the shim."""
    bundle = created(boot)
    records = ExitRecords(str(bundle), "c1")
    records.write_init(Exit(recorded_pid, status, AT_NS), start_time=1)
    records.close()

    done = delete(boot, "c1")

    answer = response(done)
    assert (answer.pid, answer.exit_status) == (4194999, expected)
    if expected != 137:
        assert answer.exited_at.ToNanoseconds() == AT_NS
        assert done.stderr == b""


@pytest.mark.rule("cli.delete.8")
def test_second_delete_has_the_same_reply(boot: Boot) -> None:
    """Idempotent, stderr empty."""
    bundle = created(boot)
    records = ExitRecords(str(bundle), "c1")
    records.write_init(Exit(4194999, 9, AT_NS), start_time=None)
    records.close()

    first, second = delete(boot, "c1"), delete(boot, "c1")

    assert (second.returncode, second.stdout, second.stderr) == (0, first.stdout, b"")


# --- the runtime --------------------------------------------------------------------------------


@pytest.mark.rule("cli.delete.3", "options.runc.4")
def test_runtime_is_called_as_the_reference_does(boot: Boot) -> None:
    """Root with the namespace, log in the bundle, no --systemd-cgroup."""
    options = {**json.loads(left(boot)), "systemd_cgroup": True}
    bundle = created(boot, options=json.dumps(options))

    delete(boot, "c1")

    assert called(boot) == [
        *("--root", f"{options['root']}/{boot.namespace}"),
        *("--log", f"{bundle}/log.json", "--log-format", "json"),
        *("delete", "--force", "c1"),
    ]


def test_runtime_is_not_called_when_it_has_nothing_of_the_container(boot: Boot) -> None:
    """After an ordinary removal the start of a runtime would take longer than all the rest."""
    root = json.loads(left(boot))["root"]
    os.rename(f"{root}/{boot.namespace}/c1", f"{root}/{boot.namespace}/other")
    created(boot, options=json.dumps({"root": root}))

    assert response(delete(boot, "c1")).exit_status == 137
    assert not (boot.folder / "called").exists()


def test_empty_folders_of_an_interrupted_restore_are_removed(boot: Boot) -> None:
    """A runtime that has written no state does not know the container, and may leave its
    folders."""
    options = left(boot)
    state = Path(json.loads(options)["root"], boot.namespace, "c1")
    (state / "criu-root").mkdir()
    created(boot, options=options)

    assert delete(boot, "c1").stderr == b""
    assert called(boot)[-1] == "c1"
    assert not state.exists()


@pytest.mark.rule("cli.delete.2")
def test_root_and_runtime_are_those_of_create(boot: Boot) -> None:
    """A wrong root would leave the container running."""
    root = str(boot.folder / "docker" / "runtime-x")
    left(boot, root)
    bundle = created(boot, options=json.dumps({"root": root, "unknown": 1}))
    other = program(boot, "other", FAKE.format(folder=boot.folder))
    (bundle / "runtime").write_text(other)
    (boot.folder / "bin" / "runc").unlink()

    assert delete(boot, "c1").stderr == b""

    assert called(boot)[:2] == ["--root", f"{root}/{boot.namespace}"]


@pytest.mark.rule("cli.delete.1")
def test_bundle_is_beside_the_working_directory(boot: Boot) -> None:
    """Path = dirname(cwd)/id, whatever -bundle says."""
    bundle = created(boot, options=left(boot))
    other = boot.bundle("other")

    done = delete(boot, "c1", "-bundle", "/nonexistent", cwd=other)

    assert response(done).pid == 4194999
    assert f"{bundle}/log.json" in called(boot)


@pytest.mark.rule("cli.delete.4")
def test_failing_runtime_is_a_warning(boot: Boot) -> None:
    """Each later step runs even if the runtime fails; the warning has the form of the reference."""
    created(boot, options=left(boot))
    program(boot, "runc", "#!/bin/sh\necho broken >&2\nexit 4\n")

    done = delete(boot, "c1")

    assert response(done).exit_status == 137
    (line,) = done.stderr.decode().splitlines()
    text = line.partition(" level=")[2]
    error = r'error="runc did not terminate successfully: exit status 4: broken\n"'
    expected = f'warning msg="failed to remove runc container" {error} runtime={RUNTIME}'
    assert text == expected


@pytest.mark.rule("cli.delete.4")
def test_missing_runtime_is_a_warning(boot: Boot) -> None:
    bundle = created(boot, options=left(boot))
    (bundle / "runtime").write_text("/nonexistent/runtime")

    done = delete(boot, "c1")

    assert response(done).pid == 4194999
    assert b"fork/exec /nonexistent/runtime: no such file or directory" in done.stderr


@pytest.mark.rule("cli.delete.10")
def test_stop_signals_do_not_end_it_half_way(boot: Boot) -> None:
    """SIGTERM and SIGINT are ignored; the runtime has the default actions."""
    created(boot, options=left(boot))
    ready, go = boot.folder / "ready", boot.folder / "go"
    os.mkfifo(go)
    program(boot, "runc", f"#!/bin/sh\ngrep SigIgn /proc/self/status >{ready}\nread x <{go}\n")
    env = {**os.environ, "PATH": f"{boot.folder}/bin:{os.environ['PATH']}"}
    done = subprocess.Popen(
        boot.args("c1", "delete"), cwd=boot.state / "c1", env=env, stdout=subprocess.PIPE
    )

    with go.open("w") as gate:  # waits for the runtime
        os.kill(done.pid, signal.SIGTERM)
        os.kill(done.pid, signal.SIGINT)
        gate.write("\n")
    output, _ = done.communicate(timeout=30)

    assert done.returncode == 0
    assert DeleteResponse.FromString(output).exit_status == 137
    assert int(ready.read_text().split()[1], 16) == 0


# --- what is missing or wrong -------------------------------------------------------------------


@pytest.mark.rule("cli.delete.6")
def test_bundle_without_anything_is_cleaned_with_a_warning(boot: Boot) -> None:
    """No pid is 0, not 4294967295."""
    bundle = boot.bundle("c1")

    done = delete(boot, "c1")

    answer = response(done)
    assert (answer.pid, answer.exit_status) == (0, 137)
    (line,) = done.stderr.decode().splitlines()
    error = f'error="open {bundle}/init.pid: no such file or directory"'
    expected = f'level=warning msg="failed to read init pid file" {error} runtime={RUNTIME}'
    assert line.endswith(expected)


@pytest.mark.rule("cli.delete.11")
def test_missing_bundle_is_no_error(boot: Boot) -> None:
    """A bundle that is not there is no error."""
    other = boot.bundle("other")

    assert response(delete(boot, "nosuchid", cwd=other)).pid == 0


@pytest.mark.rule("cli.delete.6")
@pytest.mark.parametrize("pid", ["", "x", "-1", "7 8", "٣"])
def test_unusable_pid_is_a_warning(boot: Boot, pid: str) -> None:
    created(boot, pid=pid)

    done = delete(boot, "c1")

    assert response(done).pid == 0
    assert b'msg="failed to read init pid file" error="strconv.Atoi: parsing' in done.stderr


@pytest.mark.rule("cli.delete.2")
@pytest.mark.parametrize(
    ("options", "text"),
    [
        ("bad", "invalid JSON: Expecting value: line 1 column 1 (char 0)"),
        ("", "invalid JSON: Expecting value: line 1 column 1 (char 0)"),
        (
            '{"root":1}',
            "json: cannot unmarshal number into Go struct field Options.root of type string",
        ),
    ],
)
def test_malformed_options_are_an_error(boot: Boot, options: str, text: str) -> None:
    """With a guessed root the container would not be found, and would continue to run."""
    created(boot, options=options)

    done = delete(boot, "c1")

    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.decode() == f"{RUNTIME}: {text}"
    assert not (boot.folder / "called").exists()


@pytest.mark.parametrize("id_", ["..", ".", "../../etc", "a/b"])
def test_id_that_is_a_path_is_refused(boot: Boot, id_: str) -> None:
    """All mounts below that path would be unmounted."""
    bundle = boot.bundle("c1")

    done = delete(boot, id_, cwd=bundle)

    expected = f'{RUNTIME}: invalid container id "{id_}"'
    assert (done.returncode, done.stderr.decode()) == (1, expected)


# --- the socket ---------------------------------------------------------------------------------


@pytest.mark.rule("cli.delete.9")
def test_socket_of_a_dead_shim_is_unlinked_and_that_of_a_running_one_is_not(boot: Boot) -> None:
    """`delete` removes a stale socket, never that of a running group."""
    dead, live = created(boot, "dead"), created(boot, "live")
    paths = {name: str(boot.folder / f"{name}.sock") for name in ("dead", "live")}
    for bundle, path in zip((dead, live), paths.values(), strict=True):
        (bundle / "address").write_text(f"unix://{path}")
    dead_socket(paths["dead"])

    with listening(paths["live"]):
        assert delete(boot, "dead").stderr == b""
        assert delete(boot, "live").stderr == b""

    assert not os.path.exists(paths["dead"])
    assert os.path.exists(paths["live"])


def test_address_that_is_no_socket_is_left(boot: Boot) -> None:
    bundle = created(boot)
    (boot.folder / "precious").write_text("x")
    (bundle / "address").write_text(f"unix://{boot.folder}/precious")

    assert delete(boot, "c1").stderr == b""
    assert (boot.folder / "precious").exists()


@pytest.mark.parametrize(
    ("annotations", "group"), [({}, "c1"), ({"io.kubernetes.cri.sandbox-id": "pod"}, "pod")]
)
def test_socket_that_was_not_written_down_is_computed(
    boot: Boot, annotations: dict[str, str], group: str
) -> None:
    """Go shims of 2.x write no address file: the folder comes from `s`, the group from the
    config."""
    bundle = created(boot)
    (bundle / "config.json").write_text(json.dumps({"annotations": annotations}))
    os.mkdir(boot.socket_dir)
    (bundle / "s").symlink_to(boot.socket_dir)
    path = socket_path(boot.address, boot.namespace, group, folder=boot.socket_dir)
    dead_socket(path)

    assert delete(boot, "c1").stderr == b""
    assert not os.path.exists(path)


@pytest.mark.root
def test_socket_in_the_usual_folder_is_computed(boot: Boot) -> None:
    created(boot).joinpath("config.json").write_text("{broken")
    os.makedirs(SOCKET_DIR, 0o700, exist_ok=True)
    path = socket_path(boot.address, boot.namespace, "c1")
    dead_socket(path)

    assert delete(boot, "c1").stderr == b""
    assert not os.path.exists(path)
