"""What every call of a runtime shares: look-up of the program, start, output, error text."""

import os
import stat
from collections.abc import Mapping, Sequence
from typing import Final

from shimv2.gocompat.gotext import quote, strerror
from shimv2.kernel import spawn

DEFAULT_BINARY: Final = "runc"

OUTPUT_LIMIT_BYTES: Final = 64 * 1024
"""How much of a failed runtime's output goes into the error: its end, which has the reason."""

_KEEP_FROM_BYTES: Final = 16 * OUTPUT_LIMIT_BYTES  # so that trimming copies little per byte written

NO_OUTPUT: Final = ": <nil>"
"""What go-runc prints as the output of a command that could not be started."""


_ELF: Final = b"\x7fELF"


class CommandFailed(Exception):
    """A runtime failed; the text is go-runc's.  `exit_status` is -1 if it was not executed."""

    def __init__(self, text: str, exit_status: int = -1) -> None:
        super().__init__(text)
        self.exit_status = exit_status


def exit_text(argv0: str, status: int) -> str:
    return f"{argv0} did not terminate successfully: exit status {status}"


def global_args(
    binary: str, *, root: str, log_path: str, systemd_cgroup: bool = False, criu_path: str = ""
) -> list[str]:
    """Build the command line before the verb, argv[0] included as configured."""
    args = [binary or DEFAULT_BINARY, "--root", root, "--log", log_path, "--log-format", "json"]
    if criu_path:
        args += ["--criu", criu_path]
    if systemd_cgroup:
        args.append("--systemd-cgroup")
    return args


def environment() -> dict[str, str]:
    """Copy the shim's environment for a runtime, without NOTIFY_SOCKET.

    With it, runc would wait for a readiness message from the container (sd_notify(3)).
    """
    return {name: value for name, value in os.environ.items() if name != "NOTIFY_SOCKET"}


def launch(argv: Sequence[str], fds: Mapping[int, int]) -> int:
    """Start a runtime in the shim's working directory and return its pid.

    Raises:
        CommandFailed: it could not be executed.
    """
    executable = look_up(argv[0])
    try:
        return spawn.spawn(argv, executable=executable, env=environment(), fds=fds)
    except OSError as error:
        reason = strerror(error.errno or 0)
    except ValueError:  # CPython's error for a NUL byte in an argument
        reason = "invalid argument"
    raise CommandFailed(f"fork/exec {executable}: {reason}")


def look_up(binary: str) -> str:
    """Find a program as Go's exec.LookPath does; a name with a slash is returned unchanged.

    Raises:
        CommandFailed: not found; Go's text.
    """
    if "/" in binary:
        return binary
    for folder in os.environ.get("PATH", "").split(":"):
        path = os.path.join(folder or ".", binary)
        if _is_program(path):
            if not os.path.isabs(path):
                what = "cannot run executable found relative to current directory"
                raise CommandFailed(f"exec: {quote(binary)}: {what}")
            return path
    raise CommandFailed(f"exec: {quote(binary)}: executable file not found in $PATH")


def is_compiled(binary: str) -> bool:
    """Whether a runtime is an ELF program, not a wrapper script; False if the file is missing."""
    try:
        with open(look_up(binary), "rb") as file:
            return file.read(len(_ELF)) == _ELF
    except (CommandFailed, OSError, ValueError):
        return False


def _is_program(path: str) -> bool:
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return False
    return not stat.S_ISDIR(mode) and bool(mode & 0o111)


# --- output -----------------------------------------------------------------------------------


def memory_file(name: str, content: bytes = b"") -> int:
    """Open a file in memory (memfd) with its offset at the start; the caller closes the fd.

    It is better than a pipe for a runtime's output: the runtime cannot block on it, and a container
    or hook that inherits the fd does not delay the end of the output.
    """
    fd = os.memfd_create(name, os.MFD_CLOEXEC)
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def trim(fd: int) -> None:
    """Cut a runtime's output to its end if it is too long.

    Output written at the same moment may be lost or reordered; the bound on memory is worth it.
    """
    if os.fstat(fd).st_size > _KEEP_FROM_BYTES:
        kept = _tail(fd)
        os.ftruncate(fd, 0)
        os.lseek(fd, 0, os.SEEK_SET)  # the runtime shares this offset: it continues from here
        os.write(fd, kept)


def output(fd: int) -> str:
    """Return the end of the output; bytes that are not UTF-8 become U+FFFD."""
    return _tail(fd).decode("utf-8", "replace")


def _tail(fd: int) -> bytes:
    size = os.fstat(fd).st_size
    return os.pread(fd, OUTPUT_LIMIT_BYTES, max(0, size - OUTPUT_LIMIT_BYTES))
