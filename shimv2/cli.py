"""The command line of the shim binary, in containerd's form (runtime v2).

Each action's imports are inside its function, because containerd waits for the action.  Output is
written to the fds directly, and the process ends with `os._exit`: the interpreter's finalization
would take as long as its start.
"""

import contextlib
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NoReturn

if TYPE_CHECKING:
    from shimv2.actions.start import Caller
    from shimv2.values.model import Identity

STDIN_LIMIT_BYTES: Final = 10 << 20  # containerd's limit
_READ_BYTES: Final = 64 * 1024
_NAMESPACE: Final = "^[A-Za-z0-9]+(?:[._-](?:[A-Za-z0-9]+))*$"  # part of the error text
_NAMESPACE_LIMIT_BYTES: Final = 76

_TRUE: Final = ("1", "t", "T", "true", "TRUE", "True")
_FALSE: Final = ("0", "f", "F", "false", "FALSE", "False")

# The names are containerd's.
_TEXTS: Final = {
    "address": "the address of containerd's gRPC API; hashed into the socket's name",
    "bundle": "the bundle of a container to delete; ignored: the working directory names it",
    "debug-socket": "the address of a debug service; accepted and ignored",
    "id": "the id of the container",
    "namespace": "the namespace of the container",
    "publish-binary": "containerd's binary; accepted and ignored",
    "socket": "the socket to listen on, instead of the inherited fd 3",
}
_SWITCHES: Final = {
    "debug": "log debug lines",
    "info": "read runtime options from stdin, print the features of the shim and its runtime",
    "v": "print the version",
    "version": "print the version",
}


class Fatal(Exception):
    """An error that ends the program with status 1."""


class BadUsage(Exception):
    """The command line cannot be parsed: status 2, with the usage."""


class Help(Exception):
    """The command line asks for the usage: status 0."""


class Flags:
    """A parsed command line; absent flags are empty or False."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = dict.fromkeys(_TEXTS, "")
        self.switches: dict[str, bool] = dict.fromkeys(_SWITCHES, False)
        self.action = ""


def parse(args: Sequence[str]) -> Flags:
    """Parse a command line with the rules of Go's flag package.

    Raises:
        BadUsage: the command line is wrong; Go's text.
        Help: it has `-h` or `-help`.
    """
    flags = Flags()
    left = list(args)
    while left:
        word = left.pop(0)
        if len(word) < 2 or not word.startswith("-"):
            flags.action = word  # words after the action are ignored
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
    """Derive the runtime's name from the binary's: containerd-shim-X-vN is io.containerd.X.vN."""
    prefix, _, rest = os.path.basename(program).partition("containerd-shim-")
    kind, _, version = rest.rpartition("-")
    if not prefix and kind and version[:1] == "v" and version[1:].isdecimal():
        return f"io.containerd.{kind}.{version}"
    return "io.containerd.pyrunc.v2"


# --- the actions --------------------------------------------------------------------------------


def main() -> NoReturn:
    """Run the shim binary and end the process."""
    os._exit(run(sys.argv))


def launched(new_zygote: str, argv: Sequence[str]) -> NoReturn:
    """Run the shim binary for the launcher; after a successful `start`, leave a zygote behind.

    `new_zygote` is the number of an fd that describes the zygote, "-" for none, or the reason why
    there can be none, which is logged.
    """
    status = run(argv)
    if status == 0 and argv[-1] == "start" and new_zygote != "-":
        _start_zygote(new_zygote, runtime_name(argv[0]))
    os._exit(status)


def run(argv: Sequence[str], caller: "Caller | None" = None) -> int:
    """Run a command line and return the exit status.

    With a `caller`, this process is a zygote's waiting child, and `start` may become the shim.
    """
    _open_standard_fds()
    sys.argv[:] = argv  # a fork still has its parent's argv
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
    except Exception as error:  # noqa: BLE001 - containerd shows the text
        _write(2, f"{name}: {error_text(error)}")
    return 1


def _act(flags: Flags, program: str, name: str, caller: "Caller | None") -> int:
    if flags.switches["v"] or flags.switches["version"]:
        _print_version(program)
        return 0
    if not flags.switches["info"]:
        _check_namespace(flags.texts["namespace"])
    if caller is None:
        _silence_warnings()  # a waiting child inherits this from its zygote
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
    """Refuse a name that is no identifier of containerd: it becomes a part of paths."""
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

    settings = caller.settings if caller else load()
    start(identity, _stdin(), settings, lambda reply: _write(1, reply), caller)


def _start_zygote(new_zygote: str, name: str) -> None:
    """Leave a zygote behind for later starts, or log why there can be none.

    Errors are ignored: this `start` has succeeded already.
    """
    from shimv2.settings import SettingsError, load

    with contextlib.suppress(OSError, ValueError, SettingsError):
        settings = load()
        if not settings.zygote:
            return
        if not new_zygote.isdecimal():
            _log_cold_start(name, new_zygote)
            return
        from shimv2.zygote.protocol import NewZygote
        from shimv2.zygote.supervisor import start_supervisor

        start_supervisor(NewZygote.read(int(new_zygote)), run, settings, name)


def _log_cold_start(name: str, reason: str) -> None:
    import logging

    from shimv2 import log

    with contextlib.suppress(log.NoLog):
        log.setup(name, debug=False)
        logging.getLogger(__name__).info("cold start: %s", reason)


def _serve(flags: Flags, name: str) -> int:
    """Run only the server, on the inherited fd 3 or on `-socket`."""
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
    rows = {"Version": VERSION, "Python": python, "Memory": _memory_sharing()}
    lines = [f"  {name + ':':9} {value}\n" for name, value in rows.items()]
    _write(1, f"{os.path.basename(program)}:\n{''.join(lines)}\n")


def _memory_sharing() -> str:
    """Say whether the settings and this machine let shims share memory, and why not.

    The memory map of a running shim shows whether it shares memory: see `shimctl list`.
    """
    from shimv2.pagesharing import support
    from shimv2.settings import SettingsError, load, shares_memory

    try:
        settings = load()
    except SettingsError as error:
        return f"not shared: {error}"
    if not settings.zygote:
        return "not shared: zygote is false in the settings"
    reason = support.why_not(support.Build.current())
    if not shares_memory(settings):
        reason = "share_memory is off"
    return f"not shared: {reason}" if reason else "shared"


def error_text(error: Exception) -> str:
    """Return the Go shim's text of an error; of an unexpected one, its type and place."""
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
    """Open fds 0 to 2 on /dev/null if they are closed: no other file must get these numbers."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number is `fd`
            os.set_inheritable(fd, True)


def _silence_warnings() -> None:
    """Turn warnings and unconfigured logging off: containerd reads stderr as part of the reply."""
    import logging
    import signal
    import warnings

    warnings.simplefilter("ignore")
    logging.lastResort = logging.NullHandler()  # until the log is set up
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # instead of KeyboardInterrupt's traceback


def _ignore_stop_signals() -> None:
    """Let `delete` finish.  The runtime that it runs gets the default handlers."""
    import signal

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def _stdin() -> bytes:
    """Read stdin to its end, or to the limit; input that is cut cannot be parsed."""
    data = bytearray()
    while len(data) < STDIN_LIMIT_BYTES:
        chunk = os.read(0, min(_READ_BYTES, STDIN_LIMIT_BYTES - len(data)))
        if not chunk:
            break
        data += chunk
    return bytes(data)


def _write(fd: int, text: str | bytes) -> None:
    """Write the whole text.

    Raises:
        OSError: stdout cannot be written; errors on stderr are ignored.
    """
    left = os.fsencode(text) if isinstance(text, str) else text
    try:
        while left:
            left = left[os.write(fd, left) :]
    except OSError:
        if fd != 2:
            raise
