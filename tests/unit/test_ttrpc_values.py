"""Metadata, calls, registry, errors: the small values."""

import copy
import pickle

import pytest
from google.protobuf.wrappers_pb2 import StringValue

from ttrpc.call import NO_METADATA, Call, Metadata, PeerCredentials
from ttrpc.codes import Code
from ttrpc.errors import (
    ConnectionClosed,
    Detail,
    StatusError,
    StreamClosed,
    canceled,
    deadline_exceeded,
    to_status,
)
from ttrpc.registry import Registry


def echo(request: StringValue, _call: Call) -> StringValue:
    return request


async def echo_async(request: StringValue, _call: Call) -> StringValue:
    return request


def test_metadata_lookup_ignores_case_and_keeps_all_values() -> None:
    """Values of repeated keys are kept in order."""
    metadata = Metadata([("Trace", "1"), ("tracE", "2"), ("other", "")])

    assert metadata.get("TRACE") == ("1", "2")
    assert metadata.get("other") == ("",)
    assert metadata.get("missing") == ()
    assert len(metadata) == 2
    assert len(NO_METADATA) == 0
    assert repr(metadata) == "Metadata({'trace': ('1', '2'), 'other': ('',)})"


def test_call_has_method_and_peer() -> None:
    """The representation is for logs."""
    call = Call("s", "m", deadline=None, metadata=NO_METADATA, peer=PeerCredentials(1, 2, 3))

    assert repr(call) == "<Call s/m from PeerCredentials(pid=1, uid=2, gid=3)>"


@pytest.mark.rule("ttrpc.frame.6")
def test_unknown_service_and_method_have_the_texts_of_the_go_server() -> None:
    """Names are case-sensitive."""
    registry = Registry()
    registry.unary("a.B", "Do", StringValue, echo)
    for service, method, text in [
        ("foo", "Do", "service foo"),
        ("", "Do", "service "),
        ("a.b", "Do", "service a.b"),
        ("a.B", "do", "method do"),
        ("a.B", "", "method "),
    ]:
        with pytest.raises(StatusError) as refused:
            registry.find(service, method)

        assert (refused.value.code, str(refused.value)) == (Code.UNIMPLEMENTED, text)


def test_registry_knows_functions_from_coroutine_functions() -> None:
    """A plain function is answered in the step that reads its request."""
    registry = Registry()
    registry.unary("s", "Plain", StringValue, echo)
    registry.unary("s", "Async", StringValue, echo_async)

    assert not registry.find("s", "Plain").is_coroutine
    assert registry.find("s", "Async").is_coroutine


def test_method_registered_twice_is_refused() -> None:
    """A second handler would silently replace the first."""
    registry = Registry()
    registry.unary("s", "m", StringValue, echo)
    with pytest.raises(ValueError, match="s/m is registered already"):
        registry.unary("s", "m", StringValue, echo_async)


@pytest.mark.rule("ttrpc.serve.4")
@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (EOFError("EOF"), Code.OUT_OF_RANGE, "EOF"),
        (TimeoutError("late"), Code.DEADLINE_EXCEEDED, "late"),
        (FileExistsError(17, "there", "/a"), Code.ALREADY_EXISTS, "[Errno 17] there: '/a'"),
        (FileNotFoundError(2, "gone"), Code.NOT_FOUND, "[Errno 2] gone"),
        (PermissionError(13, "no"), Code.PERMISSION_DENIED, "[Errno 13] no"),
        (KeyError("x"), Code.UNKNOWN, "KeyError: 'x'"),
    ],
)
def test_error_of_a_handler_gets_the_code_of_its_kind(
    error: Exception, code: Code, text: str
) -> None:
    """The class decides; any other error is UNKNOWN with its text."""
    status = to_status(error)

    assert (status.code, str(status)) == (code, text)


def test_status_error_is_used_unchanged() -> None:
    """A status is used unchanged."""
    status = StatusError(Code.ABORTED, "x", [Detail("t", b"v")])

    assert to_status(status) is status


def test_status_error_survives_pickle_and_copy() -> None:
    """Exceptions pass through executors and test runners."""
    status = StatusError(9, "x", [Detail("t", b"v")])
    for twin in (pickle.loads(pickle.dumps(status)), copy.copy(status)):
        assert (twin.code, str(twin), twin.details) == (9, "x", status.details)
        assert twin.code is Code.FAILED_PRECONDITION


def test_texts_clients_compare_are_those_of_the_go_library() -> None:
    """Clients match these strings."""
    assert str(ConnectionClosed()) == "ttrpc: closed"
    assert str(StreamClosed()) == "ttrpc: stream closed"
    assert (deadline_exceeded().code, str(deadline_exceeded())) == (4, "context deadline exceeded")
    assert (canceled().code, str(canceled())) == (1, "context canceled")
    assert StatusError(99, "").code == 99
