"""The errors that a request can be answered with.

Each class says what is wrong; only `api.status` knows the status code that a client sees.  The
texts are those of the Go shim (containerd's `containerd-shim-runc-v2`), because clients match them.
Some classes add a suffix (`: not found`), which containerd removes and adds again.
"""


class ShimError(Exception):
    """The base class of all errors that a client sees."""

    suffix = ""

    def __str__(self) -> str:
        return f"{super().__str__()}{self.suffix}"


class NotFound(ShimError):
    suffix = ": not found"


class AlreadyExists(ShimError):
    suffix = ": already exists"


class FailedPrecondition(ShimError):
    suffix = ": failed precondition"


class InvalidArgument(ShimError):
    suffix = ": invalid argument"


class ResourceExhausted(ShimError):
    """A limit of the shim itself is reached; the request changed nothing."""


class WrongState(ShimError):
    """The state of the process does not allow the step (code 2, as from the Go shim)."""


class Refused(ShimError):
    """An error for which the Go shim has no class: a text, and code 2."""


class RuntimeFailed(ShimError):
    """The OCI runtime failed; the client sees the text unchanged.

    `detail` is the text of go-runc: `<argv0> did not terminate successfully: exit status N:
    <output>`.  `exit_status` is -1 if the runtime could not be executed.
    """

    def __init__(self, text: str, *, verb: str, exit_status: int, detail: str) -> None:
        super().__init__(text)
        self.verb = verb
        self.exit_status = exit_status
        self.detail = detail
