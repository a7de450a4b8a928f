"""How the differential suite replaces pids, times and paths."""

from google.protobuf.any_pb2 import Any
from google.protobuf.timestamp_pb2 import Timestamp

from protos.runc_pb2 import ProcessDetails
from protos.task_types_pb2 import ProcessInfo
from protos.task_v2_pb2 import DeleteResponse, PidsResponse, StateResponse
from tests.differential.words import Words

_ZERO = Timestamp(seconds=-62135596800)


def test_pid_is_named_by_the_first_process_that_has_it() -> None:
    words = Words({})

    assert words.pid(7, "c1") == "<c1>"
    assert words.pid(7, "e1") == "<c1>"
    assert words.pid(8, "c1") == "<another>"
    assert words.pid(0, "c1") == "0"


def test_time_is_that_of_the_end_it_was_first_reported_for() -> None:
    words = Words({})
    first, second = Timestamp(seconds=5, nanos=1), Timestamp(seconds=5, nanos=2)

    assert words.time(_ZERO, "c1") == "zero"
    assert words.time(first, "c1") == "<end of c1>"
    assert words.time(second, "c1") == "another"
    assert words.time(second, "e1") == "<end of e1>"


def test_forgotten_name_may_be_given_again() -> None:
    words = Words({})
    words.pid(7, "e1")
    words.time(Timestamp(seconds=5), "e1")

    words.forget("e1")

    assert words.pid(7, "e1") == "<former e1>"
    assert words.pid(8, "e1") == "<e1>"
    assert words.time(Timestamp(seconds=6), "e1") == "<end of e1>"
    assert words.time(Timestamp(seconds=5), "e1") == "<end of former e1>"


def test_message_is_its_set_fields() -> None:
    words = Words({"/tmp/x": "<root>"})
    state = StateResponse(id="c1", bundle="/tmp/x/b", pid=7, status="RUNNING", exited_at=_ZERO)

    text = words.message(state, "c1")

    assert text == "id=c1 bundle=<root>/b pid=<c1> status=RUNNING exited_at=zero"
    assert words.message(DeleteResponse(), "c1") == ""


def test_repeated_fields_are_sorted_and_details_unpacked() -> None:
    words = Words({})
    words.name(1, "c1")
    words.name(2, "e1")
    details = ProcessDetails(exec_id="e1").SerializeToString()
    packed = Any(type_url="containerd.runc.v1.ProcessDetails", value=details)
    answer = PidsResponse(processes=[ProcessInfo(pid=2, info=packed), ProcessInfo(pid=1)])

    assert words.message(answer, "c1") == (
        "processes=({pid=<c1>}, {pid=<e1> info=containerd.runc.v1.ProcessDetails exec_id=e1})"
    )


def test_text_has_the_longest_place_first_and_no_hash_time_or_odd_blank() -> None:
    words = Words({"/tmp/x": "<root>", "/tmp/x/shim": "<shim>"})

    assert words.text("/tmp/x/shim in /tmp/x") == "<shim> in <root>"
    assert words.text("unix:///s/" + "0a" * 32) == "unix:///s/<hash>"
    assert words.text('time="2026-01-01T00:00:00Z" pid=77 proto:\xa0x') == (
        "time=<time> pid=<pid> proto: x"
    )
