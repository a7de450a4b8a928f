"""Many containers on one machine: their memory together, and whether all of them are removed."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from bench import proc
from bench.peers import Peer
from bench.place import Place
from bench.report import figure
from bench.running import Running
from bench.suite import show
from protos import task_types_pb2
from shimv2.shimctl.launch import ShimFailed
from shimv2.shimctl.reply import BadReply
from ttrpc import TtrpcError

_FAILURES: Final = (ShimFailed, BadReply, TtrpcError, OSError)  # TimeoutError is an OSError
_SETTLE_S: Final = 2.0
_STEPS: Final = 10  # of progress
_MIB_KIB: Final = 1024


@dataclass(slots=True)
class Density:
    """The result of a run."""

    wanted: int
    running: int = 0
    up_s: float = 0.0
    down_s: float = 0.0
    used_kib: float = 0.0  # of the machine's memory, containers and kernel included
    pss_kib: float = 0.0  # of the shims, their zygote included
    failures: list[str] | None = None
    leftovers: Sequence[str] = ()

    @property
    def is_good(self) -> bool:
        return self.running == self.wanted and not self.failures and not self.leftovers


def density(place: Place, peer: Peer, wanted: int) -> Density:
    """Start `wanted` containers, measure and remove them; print failures and continue."""
    found = Density(wanted)
    failures: list[str] = []
    shims: list[Running] = []
    before_kib = proc.available_kib()

    began = time.monotonic()
    for number in range(wanted):
        shim = place.container(peer)
        try:
            shim.up(streams=False)
            shims.append(shim)
        except _FAILURES as error:
            failures.append(f"container {number + 1}: {error}")
            shim.destroy()
        _progress("started", number + 1, wanted)
    found.up_s = time.monotonic() - began

    time.sleep(_SETTLE_S)
    found.used_kib = before_kib - proc.available_kib()
    found.pss_kib = proc.total_pss([*(shim.pid for shim in shims), *peer.helpers()])
    for shim in shims:
        try:
            found.running += shim.task.status(shim.id) == task_types_pb2.RUNNING
        except _FAILURES as error:
            failures.append(f"{shim.id}: State: {error}")

    began = time.monotonic()
    for number, shim in enumerate(shims):
        try:
            shim.remove()
        except _FAILURES as error:
            failures.append(f"{shim.id}: removal: {error}")
        _progress("removed", number + 1, len(shims))
    found.down_s = time.monotonic() - began
    found.failures = failures
    found.leftovers = place.wait_empty()
    return found


def summary(peer: Peer, found: Density) -> str:
    """Format the result as a table."""
    count = max(found.running, 1)
    lines = [
        ("shim", peer.label),
        ("containers running", f"{found.running} of {found.wanted}"),
        ("started in", f"{found.up_s:.1f} s, {figure(found.up_s * 1000 / count, 'ms')} each"),
        ("removed in", f"{found.down_s:.1f} s, {figure(found.down_s * 1000 / count, 'ms')} each"),
        ("memory of the machine", _memory(found.used_kib, count)),
        ("memory of the shims (PSS)", _memory(found.pss_kib, count)),
        ("failures", str(len(found.failures or ()))),
        ("left over", str(len(found.leftovers))),
    ]
    text = [f"{name:<28}{value}" for name, value in lines]
    return "\n".join([*text, *(found.failures or ()), *found.leftovers])


def _memory(kib: float, count: int) -> str:
    return f"{figure(kib / _MIB_KIB, 'MiB')}, {figure(kib / count, 'KiB')} each"


def _progress(what: str, number: int, wanted: int) -> None:
    step = max(wanted // _STEPS, 1)
    show(f"{what}: {number} of {wanted}", passing=bool(number % step) and number != wanted)
