"""`start`: find or make the shim of a container's group, and say where it listens.

Works in the bundle, which is the working directory, and for three generations of daemons (CLI 1.5).
"""

import contextlib
import json
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, Protocol

from shimv2.actions.sockets import BoundSocket, bind_or_join
from shimv2.actions.start_request import Request
from shimv2.daemon_config import DaemonConfig
from shimv2.gocompat import gojson
from shimv2.gocompat.gotext import os_error
from shimv2.kernel import linux
from shimv2.values import paths
from shimv2.values.errors import Refused
from shimv2.values.model import Identity, RuncOptions
from shimv2.values.settings import Settings

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

    from shimv2.daemon_config import IdleHook

_ADDRESS_MODE: Final = 0o644
_CONFIG: Final = gojson.Struct(
    "spec", {"annotations": gojson.StringMap("string")}, package="manager"
)


class Caller(Protocol):
    """Whom a process works for that was forked ahead of need: see zygote/parent.py."""

    @property
    def kept(self) -> Sequence[socket.socket]:
        """What is to stay open in the shim."""
        ...

    @property
    def idle_hook(self) -> "Callable[[AbstractEventLoop], IdleHook] | None":
        """The hook for `DaemonConfig`."""
        ...

    @property
    def daemon_oom_score(self) -> int:
        """Of the process that asked for `start`.

        Raises:
            Refused: it could not be read.
        """
        ...

    def let_go(self) -> None:
        """Tell that all went well.

        Raises:
            OSError: nobody is there any more.
        """
        ...


def start(
    identity: Identity,
    stdin: bytes,
    settings: Settings,
    answer: Callable[[bytes], None],
    caller: Caller | None = None,
) -> None:
    """Leave a shim for the container behind, or find the one of its group; `answer` the reply.

    With a `caller`, whom a zygote's spare works for, this process itself becomes the shim and ends
    as it: then there is no return.  On failure, one of `answer` included, nothing is left: no
    process, no socket, no file.

    Raises:
        Refused, OSError, ValueError: the text that the daemon shows.
    """
    request = read_request(identity, stdin)
    group = paths.group_id(_annotations(), identity.id)
    path = paths.socket_path(
        request.identity.grpc_address,
        identity.namespace,
        group,
        folder=request.socket_dir or paths.SOCKET_DIR,
    )
    with contextlib.ExitStack() as undo:
        if request.socket_dir:
            undo.callback(_forget, paths.socket_dir_link(""))
            _link_socket_dir(request.socket_dir)
        made = bind_or_join(path)
        if made is None:
            _write_address(path)
            answer(_reply(request, path, settings, joined=True))
        else:
            listener, bound = made
            undo.callback(_withdraw, listener, bound)
            undo.callback(_forget, paths.address_file(""))
            _write_address(path)  # before there is a server, which may die at once (CLI 1.8)
            from shimv2.actions import daemonize  # noqa: PLC0415 - a `start` that joins needs no server

            score = caller.daemon_oom_score if caller else daemonize.oom_score_of(os.getppid())
            place = daemonize.Place(daemonize.oom_score_above(score), request.options.shim_cgroup)
            _isolate_cores()
            idle_hook = caller.idle_hook if caller else None
            config = DaemonConfig(request.identity, listener, bound, settings, idle_hook)

            def reply() -> None:
                answer(_reply(request, path, settings, joined=False))

            if caller is None:
                daemonize.leave(config, place, reply)
            else:
                daemonize.stay(config, place, reply, told=caller.let_go, kept=caller.kept)
        undo.pop_all()


def _withdraw(listener: socket.socket, bound: BoundSocket) -> None:
    listener.close()
    with contextlib.suppress(OSError):  # why `start` fails is the error to tell
        bound.unlink()


def _isolate_cores() -> None:
    """Give this process group a core scheduling cookie, for the server to inherit, if asked to."""
    if os.environ.get("SCHED_CORE"):
        try:
            linux.create_core_scheduling_group()
        except OSError as error:
            raise Refused(f"enable sched core support: {os_error(error)}") from None


# --- what the daemon says ----------------------------------------------------------------------


def read_request(identity: Identity, stdin: bytes) -> Request:
    """Understand what the daemon sends, which is nothing when an old one has no options."""
    if not stdin:
        return Request(identity, RuncOptions(), "", new=False)
    from shimv2.actions import bootstrap_params  # noqa: PLC0415 - protobuf takes longer than all the rest

    return bootstrap_params.read(identity, stdin)


def _annotations() -> Mapping[str, str]:
    """Read the annotations of the container: they say which group it belongs to.

    Raises:
        OSError, ValueError: the configuration is missing or wrong; the latter in Go's words.
    """
    with open(paths.config_file(""), "rb") as file:
        text = file.read()
    try:
        config = gojson.loads(text)
    except gojson.JsonError:
        found = gojson.decode_next(text, 0)  # like the reference: what follows is not looked at
        if found is None:
            raise ValueError("EOF") from None
        config = found[0]
    gojson.check(config, _CONFIG)
    annotations = (config.get("annotations") if isinstance(config, dict) else None) or {}
    return {name: value or "" for name, value in annotations.items()}  # null is "" to Go


# --- what it is told ---------------------------------------------------------------------------


def _reply(request: Request, path: str, settings: Settings, *, joined: bool) -> bytes:
    """Answer in the form the daemon understands, with a version the shim at `path` serves.

    The plain address, which means version 2, is what all daemons before 2.3 understand.  Only a
    shim of the reference's 2.x, met by a new binary, does not serve that version; its daemon does
    understand JSON.
    """
    address = paths.address_of(path)
    if request.new:
        from shimv2.actions import bootstrap_params  # noqa: PLC0415 - which has read the request

        return bootstrap_params.result(2 if joined and not _serves(path, 3) else 3, address)
    newer = settings.json_v3_reply
    if joined:
        newer = _serves(path, 3) if newer else not _serves(path, 2)
    if newer:
        reply = {"version": 3, "address": address, "protocol": "ttrpc"}
        return json.dumps(reply, separators=(",", ":")).encode()
    return os.fsencode(address)


def _serves(path: str, version: int) -> bool:
    from shimv2.actions.running_shim import serves  # noqa: PLC0415 - it calls the shim, for which it needs ttrpc

    return serves(path, version)


# --- what is left in the bundle ----------------------------------------------------------------


def _write_address(path: str) -> None:
    """Tell containerd up to 1.7 where to find the shim after its own restart.

    In the bundle of a container that joins a shim, too.  Put in its place whole, but not synced:
    it has to outlive a process, not the machine.
    """
    target = paths.address_file("")
    temporary = f".{target}.{os.getpid()}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    _forget(temporary)  # of a `start` that was killed right here
    try:
        with open(os.open(temporary, flags, _ADDRESS_MODE), "wb") as file:
            os.fchmod(file.fileno(), _ADDRESS_MODE)  # whatever the umask
            file.write(os.fsencode(paths.address_of(path)))
        os.rename(temporary, target)
    except OSError:
        _forget(temporary)
        raise


def _link_socket_dir(folder: str) -> None:
    """Let `delete`, which is not told the folder, find it (CLI-25)."""
    link = paths.socket_dir_link("")
    _forget(link)
    os.symlink(folder, link)


def _forget(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
