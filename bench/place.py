"""The folder and namespace of a bench, and the check that it leaves nothing behind."""

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, NoReturn, Self

from bench.logs import Logs
from bench.measures import OURS
from bench.peers import Peer, find_python, for_python, given, install_ours, unshared
from bench.running import Folders, Running
from bench.sink import Sink
from shimv2.shimctl import spec
from shimv2.shimctl.launch import Binary
from shimv2.shimctl.reply import Generation
from shimv2.shimctl.rootfs import make_rootfs
from shimv2.shimctl.testbed.leaks import HostLeaks
from shimv2.shimctl.testbed.runtimes import RUNTIMES

_STOPS: Final = (signal.SIGTERM, signal.SIGHUP)
_GRACE_S: Final = 10.0
_STEP_S: Final = 0.05


class Leftovers(Exception):
    """The bench has ended and left something behind; the text lists it."""


class Place:
    """A folder, a namespace, an event sink, and all containers that exist.

    The names of all of it contain the mark, a random word.  A context manager: at its exit
    everything is ended and removed, and anything that is left is an error.
    """

    def __init__(self) -> None:
        self.mark = f"b{secrets.token_hex(4)}"
        self.folder = f"/tmp/{self.mark}"  # short: sockets are in it
        self.state = os.path.join(self.folder, "s")
        self.rootfs = os.path.join(self.folder, "root")
        layers = os.path.join(self.folder, "layers")
        self._folders = Folders(state=self.state, rootfs=self.rootfs, layers=layers)
        self.events = os.path.join(self.folder, "events.sock")
        self._leaks = HostLeaks(self.mark, self.folder)
        self._undo = contextlib.ExitStack()
        self._running: list[Running] = []
        self._peers: list[Peer] = []
        self._count = 0

    def __enter__(self) -> Self:
        for number in _STOPS:
            signal.signal(number, _stop)
        os.mkdir(self.folder, 0o711)
        print(f"bench: works in {self.folder}", file=sys.stderr, flush=True)
        self._undo.callback(shutil.rmtree, self.folder, ignore_errors=True)
        try:
            # As on a node: bundles and FIFOs below /run, in memory, and layers on the disk.
            os.mkdir(self.state, 0o711)
            subprocess.run(["mount", "-t", "tmpfs", "bench", self.state], check=True)
            self._undo.callback(subprocess.run, ["umount", "--lazy", self.state], check=False)
            make_rootfs(self.rootfs)
            self._undo.callback(Sink(self.events).fork())
            self._logs = Logs()
            self._undo.callback(self._logs.close)
            self._undo.callback(self._clear)
        except BaseException:
            self._undo.close()
            raise
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        # A second signal would interrupt the clean-up.
        for number in (signal.SIGINT, *_STOPS):
            signal.signal(number, signal.SIG_IGN)
        self._undo.close()

    def ours(self, path: str = "", python: str = "") -> Peer:
        """Install our shim in this folder, or use the installed one at `path`."""
        if path:
            return self.admit(given(OURS, os.path.abspath(path), Generation.V2_0, label="pyrunc"))
        return self.admit(
            install_ours(Path(self.folder, "ours"), find_python(python) if python else "")
        )

    def for_python(self, python: str) -> Peer:
        """Install our shim for another interpreter too."""
        self._count += 1
        return self.admit(for_python(Path(self.folder, f"ours-{self._count}"), python))

    def unshared(self, ours: Peer) -> Peer:
        """Return a variant of ours that shares no memory."""
        return self.admit(unshared(ours, Path(self.folder, "unshared")))

    def admit(self, peer: Peer) -> Peer:
        """Take responsibility for a peer's zygotes: they are ended with everything else."""
        self._peers.append(peer)
        return peer

    def container(
        self,
        peer: Peer,
        *args: str,
        runtime: str = "runc",
        terminal: bool = False,
        events: str = "",
    ) -> Running:
        """Make a bundle; nothing runs yet.  `events` is the sink's socket; by default our own."""
        self._count += 1
        wanted = spec.Wanted(args or ("sleep", "100000"), terminal=terminal)
        bundle = self._folders.bundle(self.mark, f"{self.mark}-{self._count}", wanted)
        found = "" if runtime == "runc" else RUNTIMES[runtime](self.folder)
        binary = self.binary(peer, events or self.events)
        running = Running(
            self._folders,
            binary,
            bundle,
            runtime=found,
            follow=self._logs.follow,
            forget=self._forget,
        )
        self._running.append(running)
        return running

    def binary(self, peer: Peer, events: str) -> Binary:
        return Binary(
            peer.path,
            namespace=self.mark,
            grpc_address=os.path.join(self.folder, "containerd.sock"),
            ttrpc_address=events,
            generation=peer.generation,
            env=peer.env,
        )

    def leftovers(self) -> Sequence[str]:
        """List what exists of this bench at this moment, except zygotes."""
        shared = {pid for peer in self._peers for pid in peer.helpers()}
        return [
            *(f"process {pid}" for pid in self._leaks.processes() if pid not in shared),
            *(f"mount {point}" for point in self._leaks.mounts() if point != self.state),
            *(f"cgroup {path}" for path in self._leaks.cgroups()),
        ]

    def wait_empty(self) -> Sequence[str]:
        """Wait a limited time for everything to end; return what is left then."""
        end = time.monotonic() + _GRACE_S
        while (left := self.leftovers()) and time.monotonic() < end:
            time.sleep(_STEP_S)
        return left

    def _forget(self, running: Running) -> None:
        with contextlib.suppress(ValueError):  # it was removed already
            self._running.remove(running)

    def _clear(self) -> None:
        failed: list[str] = []
        for running in reversed(self._running[:]):
            try:
                running.destroy()
            except Exception as error:  # noqa: BLE001 - the others are removed too; raised below
                failed.append(f"{running.id}: {error}")
        for peer in self._peers:
            peer.end_zygotes()
        left = [*failed, *self.wait_empty()]
        if left:
            self._force()
        self._leaks.remove_namespace_folders()
        if left:
            raise Leftovers(f"left over: {'; '.join(left)}")

    def _force(self) -> None:
        for pid in self._leaks.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for _ in range(int(_GRACE_S / _STEP_S)):
            if not self._leaks.processes():
                break
            time.sleep(_STEP_S)
        for point in self._leaks.mounts():
            subprocess.run(["umount", "--lazy", point], check=False, capture_output=True)


def _stop(number: int, _frame: object) -> NoReturn:
    sys.exit(128 + number)
