"""The one table: from what is wrong to the code and text a client gets."""

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
    errors.Unsupported: Code.UNIMPLEMENTED,
    errors.ResourceExhausted: Code.RESOURCE_EXHAUSTED,
    errors.WrongState: Code.UNKNOWN,  # what the reference answers, and clients show
    errors.Refused: Code.UNKNOWN,
    errors.RuntimeFailed: Code.UNKNOWN,  # clients read its text and do not branch on the code
}

OS_CODES: Final = {
    errno.ENOENT: Code.NOT_FOUND,
    errno.EEXIST: Code.ALREADY_EXISTS,
    errno.ENOTEMPTY: Code.ALREADY_EXISTS,  # Go takes it for the same
    errno.EACCES: Code.PERMISSION_DENIED,
    errno.EPERM: Code.PERMISSION_DENIED,
}
"""What the reference makes of an error of the operating system (T-25); all others are UNKNOWN."""


def to_status(exc: Exception) -> StatusError:
    """Say `exc` in the protocol's words; the nearest listed base class decides."""
    if isinstance(exc, StatusError):
        return exc
    for cls in type(exc).__mro__:
        if cls in CODES:
            return StatusError(CODES[cls], str(exc))
    # Python's time-outs are OSErrors too: without an errno, unless the kernel's ETIMEDOUT it is.
    if isinstance(exc, TimeoutError) and exc.errno is None:
        return StatusError(Code.DEADLINE_EXCEEDED, str(exc) or "context deadline exceeded")
    if isinstance(exc, OSError):
        return StatusError(OS_CODES.get(exc.errno or 0, Code.UNKNOWN), os_error(exc))
    log.error("unexpected error in a handler", exc_info=exc)  # a bug: keep the traceback
    return StatusError(Code.UNKNOWN, f"{type(exc).__name__}: {exc}")
