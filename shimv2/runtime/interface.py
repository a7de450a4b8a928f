"""What the shim asks of an OCI runtime, whichever it is."""

from collections.abc import Callable, Mapping
from typing import Final, Protocol

from shimv2.gocompat.gotext import os_error, quote
from shimv2.values.errors import Refused
from shimv2.values.model import CheckpointSpec

_PID_FILE_BYTES: Final = 32


class Runtime(Protocol):
    """The verbs of an OCI runtime, for the containers of one state folder.

    Every verb takes at most `timeout_s`; then, or when its caller is cancelled, the runtime is
    killed with what it had started, and has ended before the verb returns or raises.  What a
    killed create or exec left half made is the caller's to undo.

    `fds` are the stdio of the process to be (0, 1, 2; missing = /dev/null); `spawned` is called
    once the runtime holds them.  With a `console_socket` they stay empty.

    Raises:
        RuntimeFailed: it refused, failed, was killed or could not be run.
    """

    def folder_of(self, container_id: str) -> str:
        """Where the runtime keeps what it knows of a container."""
        ...

    def knows(self, container_id: str) -> bool:
        """Whether the runtime has a container of that id, in whatever state."""
        ...

    def runs_as_init(self, container_id: str, pid: int) -> bool:
        """Whether the runtime's own notes say that a container's init is the process `pid`.

        Not so with one that runs containers in some other way, where `pid` only stands for one,
        nor with a script in front of a runtime: it may have something to do at each verb.
        """
        ...

    async def create(
        self,
        container_id: str,
        *,
        bundle: str,
        pid_file: str,
        fds: Mapping[int, int],
        spawned: Callable[[], None],
        no_pivot: bool = False,
        no_new_keyring: bool = False,
        console_socket: str = "",
        timeout_s: float,
    ) -> None: ...

    async def start(self, container_id: str, *, timeout_s: float) -> None: ...

    async def exec(
        self,
        container_id: str,
        *,
        process: Mapping[str, object],
        pid_file: str,
        fds: Mapping[int, int],
        spawned: Callable[[], None],
        console_socket: str = "",
        timeout_s: float,
    ) -> None:
        """Run an additional process in a container."""
        ...

    async def kill(
        self,
        container_id: str,
        signal: int,
        *,
        all: bool = False,
        timeout_s: float,
    ) -> None:
        """Send a signal to the init, or to all processes; it may not have acted on return.

        Raises:
            NotFound: the process has ended, or the runtime has no such container.
        """
        ...

    async def delete(
        self,
        container_id: str,
        *,
        force: bool = False,
        timeout_s: float,
    ) -> None:
        """Forget an ended container, or (force) end it too; one that is gone is no error."""
        ...

    async def pause(self, container_id: str, *, timeout_s: float) -> None: ...

    async def resume(self, container_id: str, *, timeout_s: float) -> None: ...

    async def update(
        self,
        container_id: str,
        *,
        resources: Mapping[str, object],
        timeout_s: float,
    ) -> None:
        """Change the limits of a container: an OCI LinuxResources."""
        ...

    async def checkpoint(
        self, container_id: str, spec: CheckpointSpec, *, work_path: str, timeout_s: float
    ) -> None:
        """Write a container's image; it runs on, unless `spec.exit`.

        A runtime that was killed may have left the container frozen.
        """
        ...

    async def restore(
        self,
        container_id: str,
        *,
        image_path: str,
        work_path: str,
        bundle: str,
        pid_file: str,
        fds: Mapping[int, int],
        spawned: Callable[[], None],
        no_pivot: bool = False,
        console_socket: str = "",
        timeout_s: float,
    ) -> None:
        """Make a container from an image; it runs."""
        ...


def read_pid_file(path: str, *, whose: str = "container") -> int:
    """Read the pid that the runtime left in `path`; `whose` is `container` or `exec`.

    Raises:
        Refused: there is none, or no usable one; with the reference's text.
    """
    try:
        with open(path, "rb") as file:
            text = file.read(_PID_FILE_BYTES).decode("ascii", "backslashreplace")
    except OSError as error:
        raise Refused(f"failed to retrieve OCI runtime {whose} pid: {os_error(error)}") from None
    # A pid of 0 or below would make every later kill one of a group, or of everything.
    if not text.isdecimal() or int(text) == 0:
        why = f"strconv.Atoi: parsing {quote(text)}: invalid syntax"
        raise Refused(f"failed to retrieve OCI runtime {whose} pid: {why}")
    return int(text)
