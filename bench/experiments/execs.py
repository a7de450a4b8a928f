"""Execs in a running container: the round trip and its steps, their cost, many at once."""

import contextlib
import itertools
import time
from collections.abc import Callable, Sequence
from typing import Final

from google.protobuf.empty_pb2 import Empty

from bench import proc
from bench.experiments import Experiment, Options, one_by_one
from bench.measures import MS, Measure, Round, Samples
from bench.peers import Peer
from bench.place import Place
from bench.running import Running
from bench.task import Burst, exec_request
from protos import task_v2_pb2
from shimv2.values.model import Stdio

_PER_ROUND: Final = 24  # all the orders that four shims can have
_RESTS: Final = 12  # a round
_REST_S: Final = 3.0  # ours gives up memory after 0.5
_AT_ONCE: Final = 50


def round_trips(place: Place, peers: Sequence[Peer], _options: Options) -> Round:
    """Exec, Start, Wait and Delete of `true` with streams, in a container of each shim."""
    return _in_turns(place, peers, _PER_ROUND, rest_s=0.0)


def after_rest(place: Place, peers: Sequence[Peer], _options: Options) -> Round:
    """The same in shims that have done nothing for a while: probes come so."""
    found = _in_turns(place, peers, _RESTS, rest_s=_REST_S)
    return {
        name: {"rested": samples["exec"], "rested_cpu": samples["exec_cpu"]}
        for name, samples in found.items()
    }


def _in_turns(place: Place, peers: Sequence[Peer], count: int, *, rest_s: float) -> Round:
    """Execs in all orders of the shims: what one leaves to be done meets all others as often."""
    samples: dict[str, dict[str, list[float]]] = {peer.name: {} for peer in peers}
    with contextlib.ExitStack() as undo:
        shims = {}
        for peer in peers:
            shims[peer.name] = undo.enter_context(place.container(peer))
            shims[peer.name].up()
        time.sleep(rest_s)
        used_s = {name: proc.cpu_s(shim.pid) for name, shim in shims.items()}
        orders = itertools.cycle(itertools.permutations(shims))
        for number in range(count):
            for name in next(orders):
                for measure, taken_s in _round_trip(shims[name], f"e{number}").items():
                    samples[name].setdefault(measure, []).append(taken_s * MS)
            time.sleep(rest_s)
            for name, shim in shims.items():
                before_s, used_s[name] = used_s[name], proc.cpu_s(shim.pid)
                samples[name].setdefault("exec_cpu", []).append((used_s[name] - before_s) * MS)
    return samples


def _round_trip(shim: Running, name: str) -> dict[str, float]:
    """Return the seconds of it, and of each of its steps."""
    stdio = shim.open_streams(exec_id=name)
    times = [time.perf_counter()]
    for step in steps(shim, name, stdio):
        step()
        times.append(time.perf_counter())
    taken_s = (after - before for before, after in itertools.pairwise(times))
    return {
        "exec": times[-1] - times[0],
        **dict(zip(("exec_add", "exec_start", "exec_wait", "exec_delete"), taken_s, strict=True)),
    }


def steps(shim: Running, name: str, stdio: Stdio) -> Sequence[Callable[[], object]]:
    """List the calls of an exec's life."""
    return (
        lambda: shim.task.exec(shim.id, name, "true", stdio=stdio),
        lambda: shim.task.start(shim.id, name),
        lambda: shim.task.wait(shim.id, name),
        lambda: shim.task.delete(shim.id, name),
    )


def at_once(place: Place, peer: Peer) -> Samples:
    """Many execs of `true` together: all Execs, all Starts, all Waits, all Deletes."""
    names = [f"e{number}" for number in range(_AT_ONCE)]
    with place.container(peer) as shim:
        shim.up()
        with contextlib.closing(Burst(shim.address)) as burst:
            made = [exec_request(shim.id, name, "true", stdio=Stdio()) for name in names]
            began = time.perf_counter()
            burst.calls("Exec", made, Empty)
            started = [task_v2_pb2.StartRequest(id=shim.id, exec_id=name) for name in names]
            burst.calls("Start", started, task_v2_pb2.StartResponse)
            waited = [task_v2_pb2.WaitRequest(id=shim.id, exec_id=name) for name in names]
            burst.calls("Wait", waited, task_v2_pb2.WaitResponse)
            deleted = [task_v2_pb2.DeleteRequest(id=shim.id, exec_id=name) for name in names]
            burst.calls("Delete", deleted, task_v2_pb2.DeleteResponse)
            taken_s = time.perf_counter() - began
    return {"execs_at_once": [taken_s * MS]}


EXPERIMENTS: Final = (
    Experiment(
        "exec",
        (
            Measure("exec", "exec round trip", "ms"),
            Measure("exec_add", "of it: Exec", "ms"),
            Measure("exec_start", "of it: Start", "ms"),
            Measure("exec_wait", "of it: Wait", "ms"),
            Measure("exec_delete", "of it: Delete", "ms"),
            Measure("exec_cpu", "CPU of the shim for it", "ms"),
        ),
        720,
        round_trips,
        per_round=_PER_ROUND,
    ),
    Experiment(
        "rested",
        (
            Measure("rested", "exec after 3 s of rest", "ms"),
            Measure("rested_cpu", "CPU of the shim for it", "ms"),
        ),
        36,
        after_rest,
        per_round=_RESTS,
    ),
    Experiment(
        "execs",
        (Measure("execs_at_once", "50 execs at once", "ms"),),
        3,  # the one of containerd 1.6 takes a minute for it
        one_by_one(at_once),
    ),
)
