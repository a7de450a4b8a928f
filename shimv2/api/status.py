"""Maps exceptions to the status code and text that a client gets.  The only such table."""

import errno
import logging
from typing import Final

from shimv2.gocompat.gotext import os_error
from shimv2.values import errors
from ttrpc.codes import Code
from ttrpc.errors import StatusError

log = logging.getLogger(__name__)

CODES: Final[dict[type[BaseException], Code]] = {
    errors.NotFound: Code.NOT_FOUND,
    errors.AlreadyExists: Code.ALREADY_EXISTS,
    errors.FailedPrecondition: Code.FAILED_PRECONDITION,
    errors.InvalidArgument: Code.INVALID_ARGUMENT,
    errors.ResourceExhausted: Code.RESOURCE_EXHAUSTED,
    errors.WrongState: Code.UNKNOWN,  # the Go shim's code
    errors.Refused: Code.UNKNOWN,
    errors.RuntimeFailed: Code.UNKNOWN,  # clients show the text and ignore the code
}

OS_CODES: Final = {
    errno.ENOENT: Code.NOT_FOUND,
    errno.EEXIST: Code.ALREADY_EXISTS,
    errno.ENOTEMPTY: Code.ALREADY_EXISTS,  # Go's os.ErrExist includes it
    errno.EACCES: Code.PERMISSION_DENIED,
    errno.EPERM: Code.PERMISSION_DENIED,
}
"""The codes that the Go shim gives to errors of the operating system; all others are UNKNOWN."""


def to_status(exc: Exception) -> StatusError:
    """Convert an exception to a StatusError by its nearest base class in the table."""
    if isinstance(exc, StatusError):
        return exc
    for cls in type(exc).__mro__:
        if cls in CODES:
            return StatusError(CODES[cls], str(exc))
    # TimeoutError is an OSError: with an errno it is the kernel's ETIMEDOUT, without one Python's.
    if isinstance(exc, TimeoutError) and exc.errno is None:
        return StatusError(Code.DEADLINE_EXCEEDED, str(exc) or "context deadline exceeded")
    if isinstance(exc, OSError):
        return StatusError(OS_CODES.get(exc.errno or 0, Code.UNKNOWN), os_error(exc))
    log.error("unexpected error in a handler", exc_info=exc)  # a bug: keep the traceback
    return StatusError(Code.UNKNOWN, f"{type(exc).__name__}: {exc}")
