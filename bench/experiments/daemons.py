"""`ctr run` with a real containerd: the time that a user at a terminal waits.

Each Go shim runs under the daemon of its release, and ours under the same daemon.
"""

import contextlib
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final

from bench.experiments import Experiment, Options
from bench.measures import MS, OURS, Measure, Round
from bench.peers import Peer
from bench.place import Place
from shimv2.shimctl.image import IMAGE, make_image
from shimv2.shimctl.testbed.containerd import Containerd
from shimv2.shimctl.testbed.until import until

_PAIRS_A_ROUND: Final = 5
_CLEAR_LIMIT_S: Final = 30.0


class Daemon(Containerd):
    """A containerd of any release, with the ctr of that release."""

    def __init__(self, folder: str, *, namespace: str, path: str, env: Mapping[str, str]) -> None:
        super().__init__(folder, namespace=namespace, path=path, env=env)
        self._ctr = os.path.join(path, "ctr")

    def command(self, *args: str) -> list[str]:
        return [self._ctr, *super().command(*args)[1:]]

    def clear(self) -> None:
        """Remove what an interrupted ctr left behind; the daemon may still be removing it."""
        bundles = os.path.join(self.state, "io.containerd.runtime.v2.task", self.namespace)

        def empty() -> bool:
            for container_id in self.tasks():
                self.ctr("task", "rm", "--force", container_id, check=False)
            return not os.path.isdir(bundles) or not os.listdir(bundles)

        until(empty, f"the tasks below {bundles} to be gone", limit_s=_CLEAR_LIMIT_S)

    def run_s(self, container_id: str, shim: str) -> float:
        """Run `true` in a container and remove that; return the seconds it took."""
        args = ("run", "--rm", "--runtime", shim, "--fifo-dir", self.fifos)
        began = time.perf_counter()
        self.ctr(*args, IMAGE, container_id, "true")
        return time.perf_counter() - began


def ctr_run(place: Place, peers: Sequence[Peer], _options: Options, *, under: str) -> Round:
    """Run several pairs in a round, because each round starts the daemon."""
    owner = next((peer for peer in peers if peer.name == under), None)
    if owner is None or not owner.containerd:
        return {}
    with contextlib.ExitStack() as undo:
        folder = undo.enter_context(tempfile.TemporaryDirectory(dir=place.folder, prefix="d"))
        archive = os.path.join(place.folder, "image.tar")
        if not os.path.exists(archive):
            make_image(archive, rootfs=place.rootfs)
        daemon = Daemon(folder, namespace=place.mark, path=owner.containerd, env={})
        daemon.start()
        undo.callback(daemon.stop)
        undo.callback(daemon.clear)
        daemon.ctr("image", "import", archive)
        pair = [peer for peer in peers if peer.name in (OURS, under)]
        times: dict[str, list[float]] = {peer.name: [] for peer in pair}
        for number in range(_PAIRS_A_ROUND):
            for peer in pair if number % 2 else reversed(pair):
                taken_s = daemon.run_s(f"{place.mark}-ctr-{number}", peer.path)
                times[peer.name].append(taken_s * MS)
    return {name: {f"ctr_{under}": values} for name, values in times.items()}


def experiment(peer: Peer) -> Experiment:
    """Build the comparison under the daemon of one peer."""
    measure = Measure(f"ctr_{peer.name}", f"`ctr run`, containerd of {peer.label}", "ms")
    run = partial(ctr_run, under=peer.name)
    return Experiment(measure.name, (measure,), 30, run, per_round=_PAIRS_A_ROUND)
