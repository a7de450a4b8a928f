"""The errors of a failing runtime."""

import os
from pathlib import Path

import pytest

from shimv2.runtime import command
from shimv2.runtime.runc import Runc
from shimv2.values.errors import NotFound, RuntimeFailed
from tests.support.fake_runtime import PREFIXES, VERBS, FakeRuntime, create, failure


@pytest.fixture
def fake(tmp_path: Path) -> FakeRuntime:
    return FakeRuntime(tmp_path)


def test_missing_runtime_by_name_is_reported_as_go_does(fake: FakeRuntime) -> None:
    """Go names the program, which is not on PATH."""
    assert failure(fake, create, binary="nosuchrunc") == (
        "OCI runtime create failed: unable to retrieve OCI runtime error "
        f"(open {fake.log}: no such file or directory): "
        'exec: "nosuchrunc": executable file not found in $PATH'
    )


def test_missing_runtime_by_path_is_reported_as_go_does(fake: FakeRuntime) -> None:
    """Go names the system call and the path."""
    assert failure(fake, create, binary="/no/such/runc") == (
        "OCI runtime create failed: unable to retrieve OCI runtime error "
        f"(open {fake.log}: no such file or directory): "
        "fork/exec /no/such/runc: no such file or directory"
    )


@pytest.mark.parametrize(
    ("content", "mode", "reason"),
    [
        (b"#!/bin/sh\n", 0o644, "permission denied"),
        (b"no program", 0o755, "exec format error"),
        (b"#!/no/such/interpreter\n", 0o755, "no such file or directory"),
    ],
)
def test_runtime_that_is_no_program_is_reported(
    fake: FakeRuntime, content: bytes, mode: int, reason: str
) -> None:
    Path(fake.binary).write_bytes(content)
    os.chmod(fake.binary, mode)
    fake.log.touch()

    text = failure(fake, VERBS["start"])

    # No output at all: Go prints its empty buffer.
    assert text == f"OCI runtime start failed: fork/exec {fake.binary}: {reason}: <nil>"


@pytest.mark.parametrize("verb", VERBS)
def test_argument_that_no_program_can_get_is_reported(fake: FakeRuntime, verb: str) -> None:
    """An id with a NUL byte fails that call, not the shim."""
    fake.script("exit 0")
    fake.log.touch()
    with pytest.raises(RuntimeFailed, match="invalid argument"):
        fake.run(VERBS[verb], root=f"{fake.root}\0")


def test_runtime_that_fails_in_silence_is_reported_by_its_status(fake: FakeRuntime) -> None:
    """Without a log there is only the exit status."""
    fake.script("exit 3")

    assert failure(fake, create) == (
        "OCI runtime create failed: unable to retrieve OCI runtime error "
        f"(open {fake.log}: no such file or directory): "
        f"{fake.binary} did not terminate successfully: exit status 3"
    )


def test_last_error_of_the_log_is_reported(fake: FakeRuntime) -> None:
    """The runtime's log has the reason."""
    fake.script(
        """cat >$LOG <<END
{"level":"error","msg":"first msg","time":"2026-11-23T22:54:22Z"}
{"level":"error","msg":"second msg","time":"2026-11-23T22:54:22Z"}
{"level":"info","msg":"third msg","time":"2026-11-23T22:54:22Z"}
END
exit 1"""
    )

    assert failure(fake, create) == "OCI runtime create failed: second msg"


@pytest.mark.rule("task.words.2")
def test_corrupt_log_is_reported_with_the_failure(fake: FakeRuntime) -> None:
    """Without a log, or with a broken one, the text says why there is none, and the runtime's exit
    status.
    """
    fake.script("echo not json >$LOG; exit 1")

    assert failure(fake, create) == (
        "OCI runtime create failed: unable to retrieve OCI runtime error "
        "(invalid JSON: Expecting value: line 1 column 1 (char 0)): "
        f"{fake.binary} did not terminate successfully: exit status 1"
    )


def test_killed_runtime_is_reported_by_128_and_its_signal(fake: FakeRuntime) -> None:
    """As a shell gives the status of a killed process."""
    fake.script("kill -9 $$")

    assert failure(fake, create).endswith(
        f"{fake.binary} did not terminate successfully: exit status 137"
    )


@pytest.mark.rule("task.words.3", "task.words.6")
@pytest.mark.parametrize(("verb", "prefix"), PREFIXES.items())
def test_error_of_an_earlier_call_is_not_reported_again(
    fake: FakeRuntime, verb: str, prefix: str
) -> None:
    """A failure without a log entry must not get the text of another one."""
    fake.log.write_text('{"level":"error","msg":"stale"}\n')
    fake.script("exit 1")

    text = failure(fake, VERBS[verb])

    assert text.startswith(f"{prefix}: {fake.binary} did not terminate successfully: exit status 1")
    assert "stale" not in text


def test_error_after_half_a_line_of_a_killed_call_is_found(fake: FakeRuntime) -> None:
    """A killed runtime leaves a partial entry, which must not make the log unusable."""
    fake.log.write_text('{"level":"error","msg":"sta')
    fake.script("""echo '{"level":"error","msg":"fresh"}' >>$LOG; exit 1""")

    assert failure(fake, VERBS["start"]) == "OCI runtime start failed: fresh"


def test_log_made_again_is_read_from_its_start(fake: FakeRuntime) -> None:
    fake.log.write_text('{"level":"error","msg":"stale and longer than the fresh one"}\n')
    fake.script("""echo '{"level":"error","msg":"fresh"}' >$LOG; exit 1""")

    assert failure(fake, VERBS["start"]) == "OCI runtime start failed: fresh"


def test_end_of_an_endless_log_is_read(fake: FakeRuntime) -> None:
    """A client's message is bounded, and so is the memory to make it."""
    line = '{"level":"error","msg":"' + "x" * 1000 + '"}'
    fake.script(
        f"""for I in 1 2 3 4 5 6 7 8 9 10; do echo '{line}'; done >$HERE/ten
for I in $(seq 200); do cat $HERE/ten; done >>$LOG
echo '{{"level":"error","msg":"last"}}' >>$LOG; exit 1"""
    )

    assert failure(fake, VERBS["start"]) == "OCI runtime start failed: last"


@pytest.mark.rule("task.words.6")
@pytest.mark.parametrize(
    ("verb", "prefix"),
    [
        (verb, prefix)
        for verb, prefix in PREFIXES.items()
        if verb not in ("create", "exec", "restore")  # their streams are those of the container
    ],
)
def test_output_is_reported_if_the_log_has_no_error(
    fake: FakeRuntime, verb: str, prefix: str
) -> None:
    """Both streams in order, the last newline included."""
    fake.script('touch "$LOG"; echo one; echo two >&2; echo three; exit 1')

    assert failure(fake, VERBS[verb]) == (
        f"{prefix}: {fake.binary} did not terminate successfully: exit status 1: one\ntwo\nthree\n"
    )


@pytest.mark.rule("task.words.7")
@pytest.mark.parametrize("verb", ["update", "checkpoint"])
def test_error_of_a_verb_without_a_prefix_is_passed_on_unchanged(
    fake: FakeRuntime, verb: str
) -> None:
    """There is no prefix and no log."""
    fake.script("""echo '{"level":"error","msg":"logged"}' >$LOG; echo printed >&2; exit 1""")

    assert failure(fake, VERBS[verb]) == (
        f"{fake.binary} did not terminate successfully: exit status 1: printed\n"
    )


def test_failing_create_with_a_console_reports_its_output(fake: FakeRuntime) -> None:
    """With a terminal the streams of the runtime can be captured."""
    fake.script('touch "$LOG"; echo printed >&2; exit 1')

    assert failure(fake, lambda runc: create(runc, console_socket="/s")) == (
        "OCI runtime create failed: "
        f"{fake.binary} did not terminate successfully: exit status 1: printed\n"
    )


def test_output_that_is_not_utf8_is_reported_nevertheless(fake: FakeRuntime) -> None:
    """A message on the wire must be UTF-8, or the reply fails and with it the connection."""
    fake.script('touch "$LOG"; printf "a\\377b"; exit 1')

    assert failure(fake, VERBS["start"]).endswith("exit status 1: a\ufffdb")


@pytest.mark.parametrize("verb", ["start", "kill", "delete"])
def test_ten_megabytes_of_output_block_no_writer(fake: FakeRuntime, verb: str) -> None:
    """More than a pipe holds; the end, which has the reason, is reported."""
    fake.script(
        'touch "$LOG"; head -c 10485760 /dev/zero | tr "\\0" x >&2; echo the reason >&2; exit 1'
    )

    text = failure(fake, VERBS[verb])

    assert text.endswith("xxx" + "the reason\n")
    assert command.OUTPUT_LIMIT_BYTES <= len(text) <= command.OUTPUT_LIMIT_BYTES + 300


def test_hook_that_keeps_the_output_open_delays_no_call(fake: FakeRuntime) -> None:
    """A container that inherits the runtime's streams must not delay the verb."""
    fake.script("sleep 1000 & echo $! >$HERE/pid; exit 0")
    fake.run(VERBS["start"], timeout_s=5.0)

    os.kill(int(fake.saw("pid")), 9)


def test_failure_keeps_its_parts_apart(fake: FakeRuntime) -> None:
    """RuntimeFailed has verb, status and go-runc's text separate from the client's text."""
    fake.script("""echo '{"level":"error","msg":"logged"}' >$LOG; exit 7""")
    with pytest.raises(RuntimeFailed) as caught:
        fake.run(VERBS["pause"])

    error = caught.value
    assert (error.verb, error.exit_status) == ("pause", 7)
    assert error.detail == f"{fake.binary} did not terminate successfully: exit status 7: "


# --- kill and delete ---------------------------------------------------------------------------


@pytest.mark.rule("task.kill.10")
def test_kill_of_what_has_ended_is_not_found(fake: FakeRuntime) -> None:
    """The runtime's words decide: `process already finished` and `no such container` have code 5,
    all others code 2.
    """
    fake.script("echo container not running >&2; exit 1")
    with pytest.raises(NotFound) as caught:
        fake.run(VERBS["kill"])

    assert str(caught.value) == "process already finished: not found"


@pytest.mark.rule("task.kill.10")
def test_kill_of_what_the_runtime_does_not_know_is_not_found(fake: FakeRuntime) -> None:
    fake.script("echo container does not exist >&2; exit 1")
    with pytest.raises(NotFound) as caught:
        fake.run(VERBS["kill"])

    assert str(caught.value) == "no such container: not found"


@pytest.mark.rule("task.words.7", "task.kill.10")
def test_other_error_of_kill_is_passed_on_unchanged(fake: FakeRuntime) -> None:
    """No log is read."""
    fake.script("""echo '{"level":"error","msg":"logged"}' >$LOG; echo boom >&2; exit 1""")

    assert failure(fake, VERBS["kill"]) == (
        "unknown error after kill: "
        f"{fake.binary} did not terminate successfully: exit status 1: boom\n"
    )


def test_kill_without_a_runtime_is_reported_raw(fake: FakeRuntime) -> None:
    assert failure(fake, VERBS["kill"], binary="nosuchrunc") == (
        'unknown error after kill: exec: "nosuchrunc": executable file not found in $PATH: <nil>'
    )


@pytest.mark.rule("task.delete.4")
@pytest.mark.parametrize("verb", ["delete", "delete-force"])
def test_delete_of_a_missing_container_is_a_success(fake: FakeRuntime, verb: str) -> None:
    """A container that the runtime does not know any more is deleted all the same."""
    fake.script("echo container does not exist >&2; exit 1")

    fake.run(VERBS[verb])


CRUN_LOST = "cannot open directory '{root}/c1': No such file or directory"


@pytest.mark.parametrize("verb", ["delete", "delete-force"])
def test_delete_of_what_crun_lost_is_a_success(fake: FakeRuntime, verb: str) -> None:
    """crun has another text for a missing container; a repeated Delete must succeed."""
    fake.script(f'echo "{CRUN_LOST.format(root=fake.root)}" >&2; exit 1')

    fake.run(VERBS[verb])


def test_kill_of_what_crun_lost_is_not_found(fake: FakeRuntime) -> None:
    fake.script(f"""echo "error opening file '{fake.root}/c1/status': No such file" >&2; exit 1""")
    with pytest.raises(NotFound, match="no such container"):
        fake.run(VERBS["kill"])


def test_delete_that_misses_a_file_of_a_container_it_has_is_a_failure(fake: FakeRuntime) -> None:
    """The text alone does not count while the runtime's state exists."""
    os.makedirs(f"{fake.root}/c1")
    fake.script(f'touch "$LOG"; echo "{CRUN_LOST.format(root=fake.root)}" >&2; exit 1')

    assert failure(fake, VERBS["delete"]).startswith("failed to delete task: ")


def test_container_is_known_by_its_state_folder(fake: FakeRuntime) -> None:
    async def known(runc: Runc) -> bool:
        return runc.has_container("c1")

    assert not fake.run(known)
    os.makedirs(f"{fake.root}/c1")
    assert fake.run(known)
