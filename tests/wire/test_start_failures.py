"""`start` that fails or is killed: the error text, and no leftovers."""

import os
import resource
import signal
import socket
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from google.protobuf.any_pb2 import Any as Packed

from protos.runc_pb2 import Options
from protos.runtimeoptions_pb2 import Options as GenericOptions
from shimv2.cgroups import tree
from shimv2.shimctl.testbed.until import until
from tests.support.boot import RUNTIME, Boot, answers, path_of
from tests.support.cgroups import no_cgroup, unified


@pytest.fixture
def boot() -> Iterator[Boot]:
    with Boot() as made:
        yield made


def nothing_left(boot: Boot, bundle: Path) -> bool:
    """Whether there is no server, no socket, and no file except those of the daemon."""
    sockets = os.listdir(boot.socket_dir) if os.path.isdir(boot.socket_dir) else []
    known = {"config.json", "log"}
    return not boot.servers() and not sockets and set(os.listdir(bundle)) == known


def with_cgroup(path: str) -> dict[str, object]:
    value = Options(shim_cgroup=path).SerializeToString()
    packed = Packed(type_url="containerd.runc.v1.Options", value=value)
    return {"extensions": [{"value": packed}]}


@pytest.mark.rule("cli.group.2")
@pytest.mark.parametrize(
    ("config", "text"),
    [
        ("broken", "invalid JSON: Expecting value: line 1 column 1 (char 0)"),
        ("", "EOF"),
        (
            '{"annotations": {"a"',
            "invalid JSON: Expecting ':' delimiter: line 1 column 21 (char 20)",
        ),
        ("[]", "json: cannot unmarshal array into Go value of type manager.spec"),
        (
            '{"annotations": {"a": 1}}',
            "json: cannot unmarshal number into Go struct field spec.annotations of type string",
        ),
    ],
)
def test_broken_configuration_is_refused_with_the_reason(
    boot: Boot, config: str, text: str
) -> None:
    """A configuration that is missing or broken fails `start`, in the words of Go."""
    bundle = boot.bundle("c1", config)

    done = boot.new_start("c1")

    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.decode() == f"{RUNTIME}: {text}"
    assert nothing_left(boot, bundle)


@pytest.mark.rule("cli.group.2")
def test_missing_configuration_is_an_error(boot: Boot) -> None:
    """A configuration that is missing or broken fails `start`, in the words of Go."""
    bundle = boot.bundle("c1")
    (bundle / "config.json").unlink()

    done = boot.new_start("c1")

    expected = f"{RUNTIME}: open config.json: no such file or directory"
    assert (done.returncode, done.stderr.decode()) == (1, expected)


def test_bad_settings_fail_with_their_line(boot: Boot) -> None:
    """The error names the file and the line."""
    bundle = boot.bundle("c1")
    settings = boot.folder / "shim.toml"
    settings.write_text("json_v3_reply = true\nnonsense = 1\n")

    done = boot.new_start("c1", env={"PYRUNC_CONFIG": str(settings)})

    expected = f'{RUNTIME}: {settings}:2: unknown setting "nonsense"'
    assert (done.returncode, done.stderr.decode()) == (1, expected)
    assert nothing_left(boot, bundle)


@pytest.mark.rule("cli.socket.4")
def test_too_long_socket_folder_is_reported_with_its_length(boot: Boot) -> None:
    """A path that is too long is reported with Go's text."""
    bundle = boot.bundle("c1")
    folder = f"{boot.folder}/{'x' * 60}"

    done = boot.new_start("c1", params={"socket_dir": folder})

    text = done.stderr.decode()
    assert done.returncode == 1
    assert text.startswith(f"{RUNTIME}: create new shim socket: listen unix {folder}/")
    assert "bind: invalid argument: " in text
    assert nothing_left(boot, bundle)


@pytest.mark.rule("cli.spawn.6")
@pytest.mark.vm
def test_missing_cgroup_of_the_shim_is_rolled_back(boot: Boot) -> None:
    """A missing cgroup in the options fails `start`, which leaves nothing behind."""
    bundle = boot.bundle("c1")

    done = boot.new_start("c1", params=with_cgroup("/b-none"))

    expected = f"{RUNTIME}: {no_cgroup('/b-none')}"
    assert (done.returncode, done.stderr.decode(), done.stdout) == (1, expected, b"")
    until(lambda: nothing_left(boot, bundle), "the roll-back")


@pytest.mark.parametrize("generation", ["old", "new"])
def test_options_in_a_file_are_those_of_the_start(
    boot: Boot, tmp_path: Path, generation: str
) -> None:
    """The cgroup of the shim in options that CRI and ctr pass to runtimes that they do not know."""
    bundle = boot.bundle("c1")
    config = tmp_path / "options.toml"
    config.write_text('ShimCgroup = "/b-none"\nUnknown = 1\n')
    packed = generic(str(config))

    if generation == "old":
        done = boot.start("c1", stdin=packed.SerializeToString())
    else:
        done = boot.new_start("c1", params={"extensions": [{"value": packed}]})

    expected = f"{RUNTIME}: failed to load cgroup /b-none: cgroups: cgroup deleted"
    assert (done.returncode, done.stderr.decode(), done.stdout) == (1, expected, b"")
    until(lambda: nothing_left(boot, bundle), "the roll-back")


def test_unknown_options_in_a_file_are_no_part_of_the_reply(boot: Boot, tmp_path: Path) -> None:
    """The daemon uses all output as the address."""
    boot.bundle("c1")
    config = tmp_path / "options.toml"
    config.write_text("Unknown = 1\n")

    done = boot.start("c1", stdin=generic(str(config)).SerializeToString())

    assert (done.returncode, done.stderr) == (0, b"")
    assert answers(path_of(done))


def generic(config_path: str) -> Packed:
    value = GenericOptions(config_path=config_path).SerializeToString()
    return Packed(type_url="runtimeoptions.v1.Options", value=value)


@pytest.mark.rule("cli.spawn.6")
@pytest.mark.vm
@pytest.mark.root
def test_server_joins_the_cgroup_of_the_shim(boot: Boot) -> None:
    """In every hierarchy, with options from old daemons too."""
    boot.bundle("c1")
    path = f"/{boot.namespace}"
    folders = tree.folders(path)
    for folder in folders:
        os.mkdir(folder)
        if not unified() and os.path.exists(f"{folder}/cpuset.cpus"):  # empty: no process can join
            for name in ("cpuset.cpus", "cpuset.mems"):
                Path(folder, name).write_text(Path(folder, "..", name).read_text())
    try:
        done = boot.new_start("c1", params=with_cgroup(path))

        assert answers(path_of(done))
        for folder in folders:
            assert Path(folder, "cgroup.procs").read_text() == f"{boot.server()}\n"
        boot.stop()
    finally:
        for folder in folders:
            until(partial(_empty, folder), "an empty cgroup")
            os.rmdir(folder)


@pytest.mark.root
@pytest.mark.unified
def test_cgroup_of_the_shim_that_refuses_processes_is_rolled_back(boot: Boot) -> None:
    """A cgroup that enables controllers for its children cannot have processes of its own."""
    bundle = boot.bundle("c1")
    (folder,) = map(Path, tree.folders(f"/{boot.namespace}"))
    folder.mkdir()
    try:
        for each in (folder.parent, folder):
            (each / "cgroup.subtree_control").write_text("+memory")

        done = boot.new_start("c1", params=with_cgroup(f"/{boot.namespace}"))

        why = f"write {folder}/cgroup.procs: device or resource busy"
        expected = f"{RUNTIME}: failed to join cgroup /{boot.namespace}: {why}"
        assert (done.returncode, done.stderr.decode(), done.stdout) == (1, expected, b"")
        until(lambda: nothing_left(boot, bundle), "the roll-back")
    finally:
        folder.rmdir()


def _empty(cgroup: str) -> bool:
    return not Path(cgroup, "cgroup.procs").read_text()


@pytest.mark.rule("cli.spawn.7")
def test_core_scheduling_is_set_up_or_fails_the_start(boot: Boot) -> None:
    """Kernels without it answer EINVAL; others give the server a cookie."""
    bundle = boot.bundle("c1")

    done = boot.new_start("c1", env={"SCHED_CORE": "1"})

    if done.returncode == 0:
        assert answers(path_of(done))
    else:
        assert (done.returncode, done.stdout) == (1, b"")
        text = f"{RUNTIME}: enable sched core support: "
        # Not built into the kernel, or built in on a machine without SMT.
        assert done.stderr.decode() in {f"{text}invalid argument", f"{text}no such device"}
        assert nothing_left(boot, bundle)


@pytest.mark.rule("cli.spawn.8")
def test_full_disk_fails_cleanly(boot: Boot) -> None:
    """No address, no socket, no server."""
    bundle = boot.bundle("c1")

    def no_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))

    done = boot.new_start("c1", setup=no_room)

    assert (done.returncode, done.stderr.decode()) == (1, f"{RUNTIME}: file too large")
    assert nothing_left(boot, bundle)


@pytest.mark.rule("cli.spawn.8")
def test_reply_without_a_reader_is_rolled_back(boot: Boot) -> None:
    """If the daemon has died, no server may remain that no daemon knows."""
    bundle = boot.bundle("c1")
    reader, writer = os.pipe()
    os.close(reader)

    done = subprocess.run(
        boot.args("c1", "start"),
        cwd=bundle,
        input=boot.params("c1"),
        stdout=writer,
        stderr=subprocess.PIPE,
        check=False,
        timeout=30,
    )
    os.close(writer)

    assert (done.returncode, done.stderr.decode()) == (1, f"{RUNTIME}: broken pipe")
    until(lambda: nothing_left(boot, bundle), "the roll-back")


@pytest.mark.rule("cli.spawn.8")
def test_start_killed_before_its_answer_leaves_no_server(boot: Boot) -> None:
    """The daemon kills a `start` whose caller disconnected: the server exits and removes its
    socket."""
    bundle = boot.bundle("c1")
    reader, writer = os.pipe2(os.O_NONBLOCK)
    try:
        while True:
            os.write(writer, bytes(4096))
    except BlockingIOError:
        os.set_blocking(writer, True)  # the pipe is full, so the answer blocks
    start = subprocess.Popen(
        boot.args("c1", "start"), cwd=bundle, stdin=subprocess.PIPE, stdout=writer
    )
    try:
        assert start.stdin is not None
        with start.stdin as stdin:
            stdin.write(boot.params("c1"))
        until(boot.servers, "the server")
        assert start.poll() is None
    finally:
        start.send_signal(signal.SIGKILL)
        start.wait(10)
        os.close(reader)
        os.close(writer)

    until(lambda: not boot.servers(), "the server to end")
    assert os.listdir(boot.socket_dir) == []


def test_socket_that_answers_nothing_is_joined_nevertheless(boot: Boot) -> None:
    """A shim that hangs keeps its socket: a second shim would lose its containers."""
    boot.bundle("c1")
    path = path_of(boot.new_start("c1"))
    boot.stop()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as silent:
        silent.bind(path)
        silent.listen()

        assert path_of(boot.new_start("c1")) == path
        assert boot.servers() == []
