"""What can be wrong with a request, in the shim's own words.

Each class says what is wrong; only `api.status` knows the code a client sees.  The texts are those
of the reference shim (containerd's `containerd-shim-runc-v2`), because clients match them; the
class word that containerd strips and wraps again (`: not found`) is added here, exactly once.
"""


class ShimError(Exception):
    """Something a client can be told."""

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
    """A bound of the shim itself is reached; the request was refused and changed nothing."""


class WrongState(ShimError):
    """The process is not in a state that allows the step (code 2, as the reference answers)."""


class Refused(ShimError):
    """The reference's plain error: a text, and code 2 without a class word."""


class RuntimeFailed(ShimError):
    """The OCI runtime refused or failed; the text is what the client sees, never reworded.

    `detail` is what go-runc would have said: `<argv0> did not terminate successfully: exit status
    N: <output>`.  `exit_status` is -1 when the runtime could not be executed at all.
    """

    def __init__(self, text: str, *, verb: str, exit_status: int, detail: str) -> None:
        super().__init__(text)
        self.verb = verb
        self.exit_status = exit_status
        self.detail = detail
