"""The `start` action: finds or starts the shim of a container's group, and prints its address.

The working directory is the bundle.  Three generations of containerd's bootstrap protocol are
served: up to 1.7, 2.0 to 2.2, and from 2.3.
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
    """The launcher that a pre-forked process serves (zygote/child.py)."""

    @property
    def settings(self) -> Settings:
        """The settings of this start."""
        ...

    @property
    def kept(self) -> Sequence[socket.socket]:
        """The sockets that stay open in the shim."""
        ...

    @property
    def idle_hook(self) -> "Callable[[AbstractEventLoop], IdleHook] | None":
        """The hook for `DaemonConfig`."""
        ...

    @property
    def daemon_oom_score(self) -> int:
        """The `oom_score_adj` of the process that ran `start`.

        Raises:
            Refused: it could not be read.
        """
        ...

    def report_success(self) -> None:
        """Report success to the launcher and end the connection.

        Raises:
            OSError: the launcher is gone.
        """
        ...


def start(
    identity: Identity,
    stdin: bytes,
    settings: Settings,
    answer: Callable[[bytes], None],
    caller: Caller | None = None,
) -> None:
    """Start a shim for the container, or join the one of its group; pass the reply to `answer`.

    With a `caller`, this process is the zygote's waiting child.  It becomes the shim itself and
    does not return.  On failure, also of `answer`, no process, socket or file is left.

    Raises:
        Refused, OSError, ValueError: containerd shows the text.
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
            _write_address(path)  # before the server, which may exit at once
            idle_hook = caller.idle_hook if caller else None
            config = DaemonConfig(
                request.identity, listener, bound, settings, idle_hook, exit=os._exit
            )
            _make_server(
                config,
                request.options.shim_cgroup,
                lambda: answer(_reply(request, path, settings, joined=False)),
                caller,
            )
        undo.pop_all()


def _make_server(
    config: DaemonConfig, cgroup: str, reply: Callable[[], None], caller: Caller | None
) -> None:
    """Fork the server, or with a `caller` become the server and do not return."""
    from shimv2.actions import daemonize  # noqa: PLC0415 - a `start` that joins needs no server

    score = caller.daemon_oom_score if caller else daemonize.oom_score_of(os.getppid())
    place = daemonize.Place(daemonize.oom_score_above(score), cgroup)
    _isolate_cores()
    if caller is None:
        daemonize.fork_server(config, place, reply)
    else:
        daemonize.become_server(
            config, place, reply, release=caller.report_success, kept=caller.kept
        )


def _withdraw(listener: socket.socket, bound: BoundSocket) -> None:
    listener.close()
    with contextlib.suppress(OSError):  # the error that made `start` fail is reported
        bound.unlink()


def _isolate_cores() -> None:
    """If $SCHED_CORE is set, give this process group a core scheduling cookie (prctl(2)).

    The server inherits it.
    """
    if os.environ.get("SCHED_CORE"):
        try:
            linux.create_core_scheduling_group()
        except OSError as error:
            raise Refused(f"enable sched core support: {os_error(error)}") from None


# --- the request -------------------------------------------------------------------------------


def read_request(identity: Identity, stdin: bytes) -> Request:
    """Parse containerd's request; stdin is empty if containerd < 2.3 has no options."""
    if not stdin:
        return Request(identity, RuncOptions(), "", new=False)
    from shimv2.actions import bootstrap_params  # noqa: PLC0415 - protobuf takes longer than all the rest

    return bootstrap_params.read(identity, stdin)


def _annotations() -> Mapping[str, str]:
    """Read the container's annotations, which name its group.

    Raises:
        OSError: `config.json` cannot be read.
        ValueError: it is no JSON object with annotations; Go's text.
    """
    with open(paths.config_file(""), "rb") as file:
        text = file.read()
    try:
        config = next(gojson.values(text))  # as in the Go shim, later values are ignored
    except StopIteration:
        raise ValueError("EOF") from None
    gojson.check(config, _CONFIG)
    annotations = (config.get("annotations") if isinstance(config, dict) else None) or {}
    return {name: value or "" for name, value in annotations.items()}  # Go reads null as ""


# --- the reply ---------------------------------------------------------------------------------


def _reply(request: Request, path: str, settings: Settings, *, joined: bool) -> bytes:
    """Build the reply in a form containerd understands, with a version the shim at `path` serves.

    All releases before 2.3 understand the plain address, which means version 2.  If this
    binary joins a Go shim of 2.x, that shim does not serve version 2, but its containerd
    understands JSON.
    """
    address = paths.address_of(path)
    if request.new:
        from shimv2.actions import bootstrap_params  # noqa: PLC0415 - which has read the request

        return bootstrap_params.result(
            2 if joined and not _has_task_service(path, 3) else 3, address
        )
    newer = settings.json_v3_reply
    if joined:
        newer = _has_task_service(path, 3) if newer else not _has_task_service(path, 2)
    if newer:
        reply = {"version": 3, "address": address, "protocol": "ttrpc"}
        return json.dumps(reply, separators=(",", ":")).encode()
    return os.fsencode(address)


def _has_task_service(path: str, version: int) -> bool:
    from shimv2.actions.running_shim import has_task_service  # noqa: PLC0415 - it calls the shim, for which it needs ttrpc

    return has_task_service(path, version)


# --- files in the bundle -----------------------------------------------------------------------


def _write_address(path: str) -> None:
    """Write the file `address`, where containerd up to 1.7 finds the shim after its restart.

    A container that joins a shim gets one too.  The file is written under another name and renamed,
    but not synced: it has to outlive this process, not a crash of the machine.
    """
    target = paths.address_file("")
    temporary = f".{target}.{os.getpid()}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    _forget(temporary)  # left by a `start` that was killed at this point
    try:
        with open(os.open(temporary, flags, _ADDRESS_MODE), "wb") as file:
            os.fchmod(file.fileno(), _ADDRESS_MODE)  # independent of the umask
            file.write(os.fsencode(paths.address_of(path)))
        os.rename(temporary, target)
    except OSError:
        _forget(temporary)
        raise


def _link_socket_dir(folder: str) -> None:
    """Link to the socket directory: `delete` finds it there, because no argument names it."""
    link = paths.socket_dir_link("")
    _forget(link)
    os.symlink(folder, link)


def _forget(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
