"""The interface of an OCI runtime to the rest of the shim."""

from collections.abc import Callable, Mapping
from typing import Protocol

from shimv2.gocompat.gotext import os_error
from shimv2.runtime import pidfile
from shimv2.values.errors import Refused
from shimv2.values.model import CheckpointSpec


class Runtime(Protocol):
    """The verbs of an OCI runtime, for the containers of one state directory.

    Every verb takes at most `timeout_s` seconds.  After that, or when its caller is cancelled, the
    runtime and its children are killed, and are dead before the verb returns or raises.  The caller
    must undo what a killed create or exec left.

    `fds` maps the stdio of the new process (0, 1, 2) to fds of the shim; a missing one is
    /dev/null.  `spawned` is called once the runtime has inherited them.  With a `console_socket`,
    `fds` must be empty.

    Raises:
        RuntimeFailed: the runtime refused, failed, was killed or could not be executed.
    """

    def folder_of(self, container_id: str) -> str:
        """Return the directory where the runtime keeps its state of a container."""
        ...

    def has_container(self, container_id: str) -> bool:
        """Whether the runtime has a container of that id, in any state."""
        ...

    def has_init(self, container_id: str, pid: int) -> bool:
        """Whether the runtime's state file names the process `pid` as the container's init.

        False for a runtime with other state files, and for a wrapper script: both may have work to
        do at each verb.
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
        """Send a signal to the init, or to all processes.  Does not wait for its effect.

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
        """Delete a stopped container, with `force` a running one; a missing one is no error."""
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
        """Change the limits of a container; `resources` is an OCI LinuxResources."""
        ...

    async def checkpoint(
        self, container_id: str, spec: CheckpointSpec, *, work_path: str, timeout_s: float
    ) -> None:
        """Write a checkpoint of a container, which keeps running unless `spec.exit`.

        If the runtime is killed, the container may stay frozen.
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
        """Create a running container from a checkpoint."""
        ...


def read_pid_file(path: str, *, whose: str = "container") -> int:
    """Read the pid that the runtime wrote to `path`; `whose` is `container` or `exec`.

    Raises:
        Refused: the file is missing or has no valid pid; the Go shim's text.
    """
    try:
        return pidfile.read(path)
    except (OSError, ValueError) as error:
        why = os_error(error) if isinstance(error, OSError) else str(error)
        raise Refused(f"failed to retrieve OCI runtime {whose} pid: {why}") from None
