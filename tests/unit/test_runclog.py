"""Error texts for clients, from a runtime's log and output."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shimv2.runtime import runclog
from shimv2.runtime.runclog import CorruptLog, KillResult, last_error

CAPTURED = Path(__file__).parent.parent / "data" / "runc"
LOGS = sorted(path.stem for path in CAPTURED.glob("*.log"))
OUTPUTS = sorted(path.stem for path in CAPTURED.glob("*.out"))


def captured(name: str) -> bytes:
    return (CAPTURED / name).read_bytes()


@pytest.mark.parametrize("name", LOGS)
def test_log_of_a_real_runtime_has_its_reason(name: str) -> None:
    """With real logs of runc and crun."""
    assert last_error(captured(f"{name}.log"))


@pytest.mark.parametrize("name", OUTPUTS)
def test_log_of_a_real_runtime_ends_in_what_it_printed(name: str) -> None:
    """The log's last error is the one that the runtime printed."""
    printed = captured(f"{name}.out").decode().strip().splitlines()

    assert last_error(captured(f"{name}.log")) == printed[-1]


def test_missing_binary_is_reported_with_the_text_of_runc() -> None:
    """Docker's clients search for `no such file or directory` beside the command."""
    log = captured("runc-create-missing-binary.log")

    assert runclog.explain("OCI runtime create failed", "not used", log) == (
        "OCI runtime create failed: runc create failed: unable to start container process: "
        'exec: "/bin/nosuch": stat /bin/nosuch: no such file or directory'
    )


@pytest.mark.parametrize(
    ("log", "message"),
    [
        (b"", ""),
        (b"\n \n", ""),
        (b"null", ""),
        (b'{"level":"info","msg":"a"}\n', ""),
        (b'{"level":"error","msg":"a"}\n{"level":"error","msg":"b"}\n', "b"),
        (b'{"level":"error","msg":"a"}\n{"level":"info","msg":"c"}\n', "a"),
        (b'{"level":"error","msg":" \\n a \\n"}', "a"),
        (b'{"level":"error","msg":"a"}{"msg":"b"}', "b"),
        (b'{"Level":"error","MSG":"a"}', "a"),
        (b'{"level":"error","msg":"a","time":null,"pid":[1]}', "a"),
        (b'{"level":"error","msg":"a","time":"2026-11-23T23:07:39.123456789012+01:00"}', "a"),
        (b'{"level":"error","msg":"a","time":"2026-11-23T23:07:39,5Z"}', "a"),
        (b'{"level":"error","msg":"\xff"}', "\ufffd"),
    ],
)
def test_last_error_of_a_readable_log_is_found(log: bytes, message: str) -> None:
    """The last entry of level error, trimmed; the expected values come from a Go decoder."""
    assert last_error(log) == message


@pytest.mark.parametrize(
    ("log", "why"),
    [
        (b"not json", "invalid JSON: Expecting value: line 1 column 1 (char 0)"),
        (
            b'{"level":"error","msg":"a"} x',
            "invalid JSON: Expecting value: line 1 column 29 (char 28)",
        ),
        (
            b'{"level":"error","msg":"a"',
            "invalid JSON: Expecting ',' delimiter: line 1 column 27 (char 26)",
        ),
        (
            b'{"level":5}',
            "json: cannot unmarshal number into Go struct field .Level of type string",
        ),
        (b'{"msg":[]}', "json: cannot unmarshal array into Go struct field .Msg of type string"),
        (
            b"[]",
            f"json: cannot unmarshal array into Go value of type {runclog._GO_TYPE}",
        ),
        (b'{"time":5}', "Time.UnmarshalJSON: input is not a JSON string"),
    ],
)
def test_file_that_is_no_log_is_reported_with_the_reason(log: bytes, why: str) -> None:
    """Strict: one invalid entry makes the log invalid."""
    with pytest.raises(CorruptLog) as caught:
        last_error(log)

    assert str(caught.value) == why
    assert runclog.explain("P", "failure", log) == (
        f"P: unable to retrieve OCI runtime error ({why}): failure"
    )


@pytest.mark.rule("task.words.2")
@pytest.mark.parametrize(
    "time",
    [
        "",
        "x",
        "2026-11-23T23:07:39",
        "2026-11-23 23:07:39Z",
        "2026-13-23T23:07:39Z",
        "2026-02-30T23:07:39Z",
        "2026-11-23T24:00:00Z",
        "2026-11-23T23:07:39.Z",
        "2026-11-23T23:07:39+0100",
        "2026-11-23t23:07:39z",
        "2026-W11-2T23:07:39Z",
        "٢٠٢٦-11-23T23:07:39Z",
    ],
)
def test_time_that_is_no_rfc3339_spoils_the_log(time: str) -> None:
    """A `time` that Go cannot parse makes the whole log invalid."""
    with pytest.raises(CorruptLog, match="parsing time"):
        last_error(f'{{"level":"error","msg":"a","time":"{time}"}}'.encode())


@pytest.mark.parametrize(
    ("time", "why"),
    [
        ("today", 'cannot parse "today" as "2006"'),
        ("2026-1-1", 'cannot parse "1-1" as "01"'),
        ("2026-11-23 23:07:39Z", 'cannot parse " 23:07:39Z" as "T"'),
        ("2026-11-23T23:07:39", 'cannot parse "" as "Z07:00"'),
        ("2026-11-23T23:07:39Z!", 'extra text: "!"'),
    ],
)
def test_time_is_reported_with_the_place_where_it_stops_to_fit(time: str, why: str) -> None:
    """As with Go's time.Parse."""
    layout = "2006-01-02T15:04:05Z07:00"
    with pytest.raises(CorruptLog) as caught:
        last_error(f'{{"level":"error","msg":"a","time":"{time}"}}'.encode())

    assert str(caught.value) == f'parsing time "{time}" as "{layout}": {why}'


@given(st.binary(max_size=60))
def test_any_log_gives_a_text(log: bytes) -> None:
    """For any log a client gets prefix and reason."""
    assert runclog.explain("P", "failure", log).startswith("P: ")


def test_log_without_errors_leaves_the_failure() -> None:
    """With an empty log the text is the go-runc error."""
    assert runclog.explain("P", "runc did not terminate", b'{"level":"info","msg":"x"}') == (
        "P: runc did not terminate"
    )


@pytest.mark.rule("task.kill.10")
@pytest.mark.parametrize(
    ("failure", "result"),
    [
        ("runc did not terminate successfully: exit status 1: container not running\n", "FINISHED"),
        ("x: os: process already finished", "FINISHED"),
        ("x: kill container: No such process\n", "FINISHED"),
        ("x: no such process", "FINISHED"),
        ("x: container does not exist\n", "UNKNOWN_CONTAINER"),
        ("x: unable to signal init: invalid argument\n", "FAILED"),
        ("x: Container Not Running", "FAILED"),
    ],
)
def test_failed_kill_is_classified_by_its_text(failure: str, result: str) -> None:
    """NotFound is what daemons ignore."""
    assert runclog.kill_result(failure) is KillResult[result]


@pytest.mark.parametrize(
    ("name", "result"),
    [
        ("runc-kill-stopped.out", KillResult.FINISHED),
        ("runc-kill-gone.out", KillResult.UNKNOWN_CONTAINER),
        ("runc-kill-65.out", KillResult.FAILED),
        ("crun-kill-65.out", KillResult.FAILED),
    ],
)
def test_failed_kill_of_a_real_runtime_is_classified(name: str, result: KillResult) -> None:
    assert runclog.kill_result(captured(name).decode()) is result
