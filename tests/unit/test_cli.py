"""The command line: Go's flag syntax, the order of evaluation, the form of errors."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from shimv2 import VERSION, cli
from shimv2.cli import BadUsage, Flags, Help, parse, runtime_name
from shimv2.gocompat.gotext import quote
from tests.support.boot import NAME, RUNTIME, Boot, install


@pytest.fixture
def boot() -> Iterator[Boot]:
    with Boot() as made:
        yield made


def given(flags: Flags) -> dict[str, object]:
    """Return only the flags that a command line sets."""
    texts = {name: value for name, value in flags.texts.items() if value}
    switches = {name: value for name, value in flags.switches.items() if value}
    action = {"action": flags.action} if flags.action else {}
    return {**texts, **switches, **action}


@pytest.mark.rule("cli.flags.1")
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", {}),
        ("-id x", {"id": "x"}),
        ("--id x", {"id": "x"}),
        ("-id=x", {"id": "x"}),
        ("--id=x=y", {"id": "x=y"}),
        ("-id= start", {"action": "start"}),
        ("-id -debug", {"id": "-debug"}),
        ("-id a -id b", {"id": "b"}),
        ("-debug", {"debug": True}),
        ("-debug start", {"debug": True, "action": "start"}),
        ("-debug true", {"debug": True, "action": "true"}),
        ("-debug=false -v", {"v": True}),
        ("-debug=T", {"debug": True}),
        ("-debug=1 -debug=F", {}),
        ("start -id x -foo", {"action": "start"}),
        ("- -id x", {"action": "-"}),
        ("-v -- delete -id x", {"v": True, "action": "delete"}),
        ("--", {}),
        ("-publish-binary /p -debug-socket /d", {"publish-binary": "/p", "debug-socket": "/d"}),
        ("-bundle /b -socket /s -address /a", {"bundle": "/b", "socket": "/s", "address": "/a"}),
        ("-namespace n -info -version", {"namespace": "n", "info": True, "version": True}),
    ],
)
def test_flags_are_read_as_go_reads_them(line: str, expected: dict[str, object]) -> None:
    """One or two dashes, `=`, and switches without a value; the first other word is the action."""
    assert given(parse(line.split())) == expected


@pytest.mark.rule("cli.flags.1")
@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("-foo", "flag provided but not defined: -foo"),
        ("--foo=1", "flag provided but not defined: -foo"),
        ("-debug=maybe", 'invalid boolean value "maybe" for -debug: parse error'),
        ("-debug=", 'invalid boolean value "" for -debug: parse error'),
        ("-id", "flag needs an argument: -id"),
        ("---id x", "bad flag syntax: ---id"),
        ("-=x", "bad flag syntax: -=x"),
        ("--=x", "bad flag syntax: --=x"),
    ],
)
def test_bad_flags_are_reported_with_the_texts_of_go(line: str, text: str) -> None:
    """Flags are read as Go's flag package reads them: one dash or two, `=`, switches without a
    value, the first other word is the action.
    """
    with pytest.raises(BadUsage) as raised:
        parse(line.split())

    assert str(raised.value) == text


@pytest.mark.parametrize("line", ["-h", "--help", "-help=1", "-debug -h start"])
def test_help_is_asked_for_with_either_word(line: str) -> None:
    with pytest.raises(Help):
        parse(line.split())


@pytest.mark.rule("cli.flags.8")
@pytest.mark.parametrize(
    ("program", "name"),
    [
        ("/usr/bin/containerd-shim-pyrunc-v2", "io.containerd.pyrunc.v2"),
        ("containerd-shim-runc-v2", "io.containerd.runc.v2"),
        ("/x/containerd-shim-my-own-v10", "io.containerd.my-own.v10"),
        ("/x/__main__.py", RUNTIME),
        ("containerd-shim-runc", RUNTIME),
        ("xcontainerd-shim-runc-v2", RUNTIME),
        ("containerd-shim--v2", RUNTIME),
    ],
)
def test_runtime_is_named_after_the_binary(program: str, name: str) -> None:
    """Under another file name, the shim uses that name in its texts."""
    assert runtime_name(program) == name


@pytest.mark.rule("cli.flags.2")
def test_unknown_flag_prints_the_usage_and_exits_2(boot: Boot) -> None:
    """The usage on stderr has the name by which the program was called."""
    done = boot.run([str(boot.shim), "-foo"])

    assert (done.returncode, done.stdout) == (2, b"")
    text = done.stderr.decode()
    head = f"flag provided but not defined: -foo\nUsage of {boot.shim}:\n  -address string\n"
    assert text.startswith(head)
    assert "\n  -debug\n" in text


@pytest.mark.rule("cli.flags.2")
def test_help_prints_the_usage_and_exits_0(boot: Boot) -> None:
    done = boot.run([str(boot.shim), "-namespace", "x", "--help", "start"])

    assert (done.returncode, done.stdout) == (0, b"")
    assert done.stderr.decode().startswith(f"Usage of {boot.shim}:\n")


@pytest.mark.rule("cli.flags.3")
@pytest.mark.parametrize("flag", ["-v", "--version"])
def test_version_is_printed_before_anything_is_required(boot: Boot, flag: str) -> None:
    """The version is printed first; no namespace is needed."""
    done = boot.run([str(boot.shim), flag, "start"])

    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode().startswith(f"{NAME}:\n  Version:  {VERSION}\n")


@pytest.mark.ours("shares memory among shims")
def test_version_shows_whether_memory_is_shared(boot: Boot) -> None:
    """The setting that switches it off is named; settings that cannot be read are no error here."""
    off = boot.run([str(boot.shim), "-v"], env={"PYRUNC_SHARE_MEMORY": "off"})
    lost = boot.run([str(boot.shim), "-v"], env={"PYRUNC_CONFIG": "/nonexistent"})

    assert b"  Memory:   not shared: share_memory is off\n" in off.stdout
    missing = b"open /nonexistent: no such file or directory"
    assert b"  Memory:   not shared: " + missing + b"\n" in lost.stdout


@pytest.mark.rule("cli.flags.4", "cli.flags.7")
@pytest.mark.parametrize("action", [[], ["start"], ["delete"], ["-id", "c1", "serve"]])
def test_missing_namespace_is_refused_for_every_action(boot: Boot, action: list[str]) -> None:
    """`<name>: <error>` without a newline, exit 1."""
    done = boot.run([str(boot.shim), *action])

    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.decode() == f"{RUNTIME}: shim namespace cannot be empty"


@pytest.mark.rule("cli.flags.4")
@pytest.mark.parametrize("action", ["start", "delete", "serve"])
@pytest.mark.parametrize("namespace", ["no good!", "a/b", "../up", "-x", "x\n", "ä"])
def test_namespace_of_bad_characters_is_refused(boot: Boot, namespace: str, action: str) -> None:
    """It becomes a part of paths, also of paths that are unmounted."""
    done = boot.run([str(boot.shim), f"-namespace={namespace}", action])

    pattern = "^[A-Za-z0-9]+(?:[._-](?:[A-Za-z0-9]+))*$"
    why = f"identifier {quote(namespace)} must match {pattern}"
    expected = f"{RUNTIME}: namespace validation: {why}: invalid argument"
    assert (done.returncode, done.stdout, done.stderr.decode()) == (1, b"", expected)


@pytest.mark.rule("cli.flags.4")
def test_namespace_that_is_too_long_is_refused(boot: Boot) -> None:
    done = boot.run([str(boot.shim), "-namespace", 77 * "x", "start"])

    assert b"greater than maximum length (76 characters): invalid argument" in done.stderr


@pytest.mark.rule("cli.flags.8")
def test_errors_carry_the_name_of_the_binary(boot: Boot) -> None:
    """With the name of containerd's own shim it is io.containerd.runc.v2."""
    other = install(boot.folder / "containerd-shim-runc-v2")

    done = boot.run([str(other)])

    assert done.stderr == b"io.containerd.runc.v2: shim namespace cannot be empty"


@pytest.mark.rule("cli.flags.6", "cli.serve.2")
@pytest.mark.parametrize("action", [[], ["frobnicate"], ["-socket", "/tmp/never.sock"]])
def test_server_without_a_log_refuses_to_run(boot: Boot, action: list[str]) -> None:
    """Any other word is server mode, and the log comes first."""
    done = boot.run([str(boot.shim), "-namespace", "x", *action])

    assert (done.returncode, done.stdout) == (1, b"")
    expected = f"{RUNTIME}: fifo error: stat log: no such file or directory"
    assert done.stderr.decode() == expected
    assert not os.path.exists("/tmp/never.sock")


@pytest.mark.rule("cli.flags.5")
def test_too_long_socket_is_refused(boot: Boot) -> None:
    """`-socket` is limited to 106 bytes."""
    path = "/tmp/" + 102 * "x"

    done = boot.run([str(boot.shim), "-namespace", "x", "-socket", path], cwd=boot.bundle("c1"))

    expected = f'{RUNTIME}: "{path}": unix socket path too long (> 106)'
    assert (done.returncode, done.stderr.decode()) == (1, expected)


def test_server_without_fd_3_refuses_to_run(boot: Boot) -> None:
    """A server listens on the socket it inherits as fd 3."""
    done = boot.run([str(boot.shim), "-namespace", "x"], cwd=boot.bundle("c1"))

    # libffi 3.8 keeps its library open after the import of ctypes, as fd 3 if that is free.
    problems = ("bad file descriptor", "socket operation on non-socket")
    expected = [f"{RUNTIME}: listen on fd 3: {problem}" for problem in problems]
    assert done.returncode == 1
    assert done.stderr.decode() in expected


def test_bug_is_reported_with_its_place_and_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """stderr becomes the daemon's error text, so it is one line."""

    def fails(*_: object) -> int:
        raise LookupError("no way")

    monkeypatch.setattr(cli, "_act", fails)

    assert cli.run([NAME, "-namespace", "x", "start"]) == 1
    text = capfd.readouterr().err
    assert text.startswith(f"{RUNTIME}: LookupError: no way (test_cli.py:")
    assert "\n" not in text


def test_closed_standard_fds_are_no_obstacle(boot: Boot) -> None:
    """No file that is opened may get the numbers 0, 1 or 2."""
    script = f"exec {boot.shim} -namespace x <&- >&- 2>&-"
    done = subprocess.run(["sh", "-c", script], check=False, timeout=30, cwd=boot.state)

    assert done.returncode == 1


def test_flags_cost_no_imports(boot: Boot) -> None:
    """The parser must not import the shim, so that `-v` and errors of flags are fast."""
    probe = "import sys; from shimv2 import cli; cli.parse(['-v']); print(*sys.modules)"
    done = boot.run([sys.executable, "-I", "-c", probe])

    loaded = set(done.stdout.decode().split())
    assert not loaded & {"asyncio", "google.protobuf", "logging", "shimv2.daemon"}
