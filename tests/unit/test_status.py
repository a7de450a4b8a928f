"""The code and the text that a client gets for each error."""

import errno
import logging
import os

import pytest

from shimv2.api.status import to_status
from shimv2.values import errors
from ttrpc.errors import StatusError


@pytest.mark.rule("task.errors.3", "task.errors.4")
@pytest.mark.parametrize(
    ("exc", "code", "text"),
    [
        (errors.NotFound("container not created"), 5, "container not created: not found"),
        (errors.AlreadyExists("id e1"), 6, "id e1: already exists"),
        (errors.FailedPrecondition("init is gone"), 9, "init is gone: failed precondition"),
        (errors.InvalidArgument("no spec"), 3, "no spec: invalid argument"),
        (errors.ResourceExhausted("too many events"), 8, "too many events"),
        (errors.WrongState("cannot start a running process"), 2, "cannot start a running process"),
        (errors.Refused("unknown STDIO scheme foo"), 2, "unknown STDIO scheme foo"),
        (
            errors.RuntimeFailed("start failed: x", verb="start", exit_status=1, detail=""),
            2,
            "start failed: x",
        ),
    ],
)
def test_domain_errors_have_the_reference_codes(exc: Exception, code: int, text: str) -> None:
    """The suffix of the class is at the end, once; plain errors have code 2."""
    status = to_status(exc)

    assert (status.code, status.message) == (code, text)


@pytest.mark.rule("ttrpc.serve.4")
@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENOENT, 5),
        (errno.EEXIST, 6),
        (errno.ENOTEMPTY, 6),
        (errno.EACCES, 7),
        (errno.EPERM, 7),
        (errno.ENOSPC, 2),
        (errno.ECONNREFUSED, 2),
        (errno.ETIMEDOUT, 2),
    ],
)
def test_errors_of_the_system_have_go_codes(number: int, code: int) -> None:
    """The errno decides; ETIMEDOUT is not the caller's deadline."""
    assert to_status(OSError(number, "text", "/p")).code == code


def test_missing_bundle_is_reported_as_the_reference_does() -> None:
    """Create with a missing bundle."""
    with pytest.raises(OSError, match="No such file") as caught:
        os.stat("/nobundle/options.json")

    status = to_status(caught.value)

    assert (status.code, status.message) == (
        5,
        "open /nobundle/options.json: no such file or directory",
    )


def test_timeout_without_a_text_has_the_text_of_go() -> None:
    """A deadline that passed is code 4 `context deadline exceeded`."""
    status = to_status(TimeoutError())

    assert (status.code, status.message) == (4, "context deadline exceeded")


def test_time_out_with_a_text_keeps_it() -> None:
    """The open of a FIFO names what it waited for."""
    assert to_status(TimeoutError("x: context deadline exceeded")).message.startswith("x: ")


def test_status_of_the_protocol_passes_as_it_is() -> None:
    """A StatusError of a handler is sent unchanged."""
    status = StatusError(10, "as it is")

    assert to_status(status) is status


def test_subclass_of_a_listed_error_has_its_code() -> None:
    """The nearest listed base class decides."""

    class Special(errors.NotFound):
        pass

    assert to_status(Special("x")).code == 5


def test_bug_is_logged_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    """The log has the traceback: the client gets only the name and the text."""
    with caplog.at_level(logging.ERROR):
        status = to_status(ZeroDivisionError("division by zero"))

    assert (status.code, status.message) == (2, "ZeroDivisionError: division by zero")
    assert caplog.records[0].exc_info is not None
