"""The command line of the shim binary, as containerd calls it (runtime v2).

Each action imports what it needs inside its function: containerd waits for every one of them, and
for `delete` after every container.  Output goes to the fds directly and the process ends without
tearing the interpreter down, which would take as long as starting it.
"""

import contextlib
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NoReturn

if TYPE_CHECKING:
    from shimv2.actions.start import Caller
    from shimv2.values.model import Identity

STDIN_LIMIT_BYTES: Final = 10 << 20  # containerd's own
_READ_BYTES: Final = 64 * 1024
_NAMESPACE: Final = "^[A-Za-z0-9]+(?:[._-](?:[A-Za-z0-9]+))*$"  # printed, too
_NAMESPACE_LIMIT_BYTES: Final = 76

_TRUE: Final = ("1", "t", "T", "true", "TRUE", "True")
_FALSE: Final = ("0", "f", "F", "false", "FALSE", "False")

# The names are containerd's.
_TEXTS: Final = {
    "address": "where the daemon's gRPC API listens; a part of the socket's name",
    "bundle": "the bundle of a container to delete; the working directory counts",
    "debug-socket": "where to serve debugging; accepted and not served",
    "id": "the id of the container",
    "namespace": "the namespace of the container",
    "publish-binary": "the daemon's program; accepted and not used",
    "socket": "where a server listens, instead of an inherited fd 3",
}
_SWITCHES: Final = {
    "debug": "log more",
    "info": "read runtime options from stdin, print what this shim and its runtime can do",
    "v": "print the version",
    "version": "print the version",
}


class Fatal(Exception):
    """The text that ends the program with status 1."""


class BadUsage(Exception):
    """A command line that cannot be read: status 2, with the usage."""


class Help(Exception):
    """Usage was asked for: status 0."""


class Flags:
    """What a command line says; flags that were not given are empty or off."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = dict.fromkeys(_TEXTS, "")
        self.switches: dict[str, bool] = dict.fromkeys(_SWITCHES, False)
        self.action = ""


def parse(args: Sequence[str]) -> Flags:
    """Read a command line by the rules of Go's flag package.

    Raises:
        BadUsage, Help.
    """
    flags = Flags()
    left = list(args)
    while left:
        word = left.pop(0)
        if len(word) < 2 or not word.startswith("-"):
            flags.action = word  # what follows an action is not looked at
            break
        if word == "--":
            flags.action = left[0] if left else ""
            break
        name, given, value = word[2 if word.startswith("--") else 1 :].partition("=")
        if not name or name.startswith("-"):
            raise BadUsage(f"bad flag syntax: {word}")
        if name in _SWITCHES:
            flags.switches[name] = _boolean(name, value) if given else True
        elif name in _TEXTS:
            if not given and not left:
                raise BadUsage(f"flag needs an argument: -{name}")
            flags.texts[name] = value if given else left.pop(0)
        elif name in ("h", "help"):
            raise Help
        else:
            raise BadUsage(f"flag provided but not defined: -{name}")
    return flags


def _boolean(name: str, value: str) -> bool:
    if value not in _TRUE + _FALSE:
        from shimv2.gocompat.gotext import quote

        raise BadUsage(f"invalid boolean value {quote(value)} for -{name}: parse error")
    return value in _TRUE


def usage(program: str) -> str:
    lines = [f"Usage of {program}:"]
    for name, about in sorted({**_TEXTS, **_SWITCHES}.items()):
        lines += [f"  -{name}{' string' if name in _TEXTS else ''}", f"    \t{about}"]
    return "\n".join(lines) + "\n"


def runtime_name(program: str) -> str:
    """Name the runtime after the binary: containerd-shim-X-vN is io.containerd.X.vN."""
    prefix, _, rest = os.path.basename(program).partition("containerd-shim-")
    kind, _, version = rest.rpartition("-")
    if not prefix and kind and version[:1] == "v" and version[1:].isdecimal():
        return f"io.containerd.{kind}.{version}"
    return "io.containerd.pyrunc.v2"


# --- the actions --------------------------------------------------------------------------------


def main() -> NoReturn:
    """Run the shim binary; ends the process."""
    os._exit(run(sys.argv))


def launched(birth_fd: str, argv: Sequence[str]) -> NoReturn:
    """Run the shim binary for the launcher, and leave a zygote behind after a `start`."""
    status = run(argv)
    if birth_fd.isdecimal() and status == 0 and argv[-1] == "start":
        _leave_zygote(int(birth_fd))
    os._exit(status)


def run(argv: Sequence[str], caller: "Caller | None" = None) -> int:
    """Do what a command line says; the exit status.

    With a `caller` this process was forked by a zygote, and a `start` may end as the shim.
    """
    _open_standard_fds()
    sys.argv[:] = argv  # who was forked, or launched, has another's
    program = argv[0]
    try:
        flags = parse(argv[1:])
    except Help:
        _write(2, usage(program))
        return 0
    except BadUsage as error:
        _write(2, f"{error}\n{usage(program)}")
        return 2
    name = runtime_name(program)
    try:
        return _act(flags, program, name, caller)
    except Fatal as error:
        _write(2, f"{name}: {error}")
    except Exception as error:  # noqa: BLE001 - its text is all that the daemon shows
        _write(2, f"{name}: {_said(error)}")
    return 1


def _act(flags: Flags, program: str, name: str, caller: "Caller | None") -> int:
    if flags.switches["v"] or flags.switches["version"]:
        _print_version(program)
        return 0
    if not flags.switches["info"]:
        _check_namespace(flags.texts["namespace"])
    if caller is None:
        _quiet()  # the zygote of who was forked is so already
    if flags.switches["info"]:
        from shimv2.actions.info import runtime_info

        _write(1, runtime_info(name, _stdin()))
    elif flags.action == "start":
        _start(_identity(flags, name), caller)
    elif flags.action == "delete":
        _ignore_stop_signals()
        from shimv2.actions.delete import delete

        _write(1, delete(_identity(flags, name)))
    else:
        return _serve(flags, name)
    return 0


def _check_namespace(name: str) -> None:
    """Refuse what is no identifier of containerd's: the name becomes a part of paths."""
    if not name:
        raise Fatal("shim namespace cannot be empty")
    import re

    from shimv2.gocompat.gotext import quote

    if len(os.fsencode(name)) > _NAMESPACE_LIMIT_BYTES:
        limit = f"greater than maximum length ({_NAMESPACE_LIMIT_BYTES} characters)"
        raise Fatal(f"namespace validation: identifier {quote(name)} {limit}: invalid argument")
    if not re.fullmatch(_NAMESPACE, name):
        pattern = f"must match {_NAMESPACE}"
        raise Fatal(f"namespace validation: identifier {quote(name)} {pattern}: invalid argument")


def _identity(flags: Flags, name: str) -> "Identity":
    from shimv2.values.model import Identity

    return Identity(
        name=name,
        namespace=flags.texts["namespace"],
        id=flags.texts["id"],
        grpc_address=flags.texts["address"],
        ttrpc_address=os.environ.get("TTRPC_ADDRESS", "").removeprefix("unix://"),
        debug=flags.switches["debug"],
    )


def _start(identity: "Identity", caller: "Caller | None") -> None:
    from shimv2.actions.start import start
    from shimv2.settings import load

    start(identity, _stdin(), load(), lambda reply: _write(1, reply), caller)


def _leave_zygote(birth_fd: int) -> None:
    """Leave a process behind that makes the next `start` a matter of milliseconds.

    What goes wrong with it is no fault of this `start`, which has answered.
    """
    from shimv2.settings import load
    from shimv2.zygote.parent import leave_behind
    from shimv2.zygote.protocol import Birth

    with contextlib.suppress(OSError):
        settings = load()
        if settings.zygote:
            leave_behind(Birth.read(birth_fd), run, settings.zygote_linger_s)


def _serve(flags: Flags, name: str) -> int:
    """Serve on an inherited socket, or on `-socket`: the server as a program of its own."""
    from shimv2 import log
    from shimv2.actions.sockets import listener_of_server
    from shimv2.daemon import serve
    from shimv2.daemon_config import DaemonConfig
    from shimv2.settings import load

    log.check_fifo()
    settings = load()
    listener, bound = listener_of_server(flags.texts["socket"])
    return serve(DaemonConfig(_identity(flags, name), listener, bound, settings))


def _print_version(program: str) -> None:
    from shimv2 import VERSION

    python = ".".join(map(str, sys.version_info[:3]))
    _write(1, f"{os.path.basename(program)}:\n  Version:  {VERSION}\n  Python:   {python}\n\n")


def _said(error: Exception) -> str:
    """Say an error as the reference does, and a bug of ours so that it can be found."""
    from shimv2.gocompat.gotext import os_error
    from shimv2.log import NoLog
    from shimv2.settings import SettingsError
    from shimv2.values.errors import ShimError

    if isinstance(error, OSError):
        return os_error(error)
    if isinstance(error, ShimError | ValueError | NoLog | SettingsError):
        return str(error)
    import traceback

    last = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{os.path.basename(last.filename)}:{last.lineno}"
    return f"{type(error).__name__}: {error} ({where})"


# --- the process --------------------------------------------------------------------------------


def _open_standard_fds() -> None:
    """Fill in fds 0 to 2 if the caller closed them: what is opened next must not become one."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number is `fd`
            os.set_inheritable(fd, True)


def _quiet() -> None:
    """Print nothing the daemon did not ask for: it takes stderr for a part of the reply."""
    import logging
    import signal
    import warnings

    warnings.simplefilter("ignore")
    logging.lastResort = logging.NullHandler()  # until there is a log, if one is to be
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback


def _ignore_stop_signals() -> None:
    """Let `delete` finish what it began; the runtime it calls gets the defaults back."""
    import signal

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def _stdin() -> bytes:
    """Read stdin to its end; what is over the limit is left, and what was read cannot be parsed."""
    data = bytearray()
    while len(data) < STDIN_LIMIT_BYTES:
        chunk = os.read(0, min(_READ_BYTES, STDIN_LIMIT_BYTES - len(data)))
        if not chunk:
            break
        data += chunk
    return bytes(data)


def _write(fd: int, text: str | bytes) -> None:
    """Write all of it.

    Raises:
        OSError: nobody reads it; on stderr that is no error.
    """
    left = os.fsencode(text) if isinstance(text, str) else text
    try:
        while left:
            left = left[os.write(fd, left) :]
    except OSError:
        if fd != 2:
            raise
