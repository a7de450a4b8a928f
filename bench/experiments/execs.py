"""Execs in a running container: the round trip, its steps and CPU time, and many at once."""

import contextlib
import itertools
import random
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
from bench.task import Burst, Reading, exec_request
from protos import task_v2_pb2
from shimv2.values.model import Stdio

_PER_ROUND: Final = 24
_IDLE_ROUNDS: Final = 12  # execs of each shim in a round
_IDLE_S: Final = 3.0  # our shim reclaims memory after 0.5 s
_AT_ONCE: Final = 50
_STEPS: Final = ("add", "start", "wait", "delete")


def round_trips(place: Place, peers: Sequence[Peer], _options: Options) -> Round:
    """Measure Exec, Start, Wait and Delete of `true` with streams, in a container of each shim."""
    return _in_turns(place, peers, _round_trip, _PER_ROUND, idle_s=0.0)


def read_at_once(place: Place, peers: Sequence[Peer], _options: Options) -> Round:
    """Measure the same for a program with output, which the client reads at once."""
    return _in_turns(place, peers, _read_round_trip, _PER_ROUND, idle_s=0.0)


def after_idle(place: Place, peers: Sequence[Peer], _options: Options) -> Round:
    """Measure the same in idle shims: this is the pattern of probes."""
    found = _in_turns(place, peers, _round_trip, _IDLE_ROUNDS, idle_s=_IDLE_S)
    return {
        name: {"rested": samples["exec"], "rested_cpu": samples["exec_cpu"]}
        for name, samples in found.items()
    }


def _in_turns(
    place: Place,
    peers: Sequence[Peer],
    round_trip: Callable[[Running, str], dict[str, float]],
    count: int,
    *,
    idle_s: float,
) -> Round:
    """Run execs in random order of the shims, so that each disturbs all others equally."""
    samples: dict[str, dict[str, list[float]]] = {peer.name: {} for peer in peers}
    with contextlib.ExitStack() as undo:
        shims = {}
        for peer in peers:
            shims[peer.name] = undo.enter_context(place.container(peer))
            shims[peer.name].up()
        time.sleep(idle_s)
        used_s = {name: proc.cpu_s(shim.pid) for name, shim in shims.items()}
        order = list(shims)
        for number in range(count):
            random.shuffle(order)
            for name in order:
                for measure, taken_s in round_trip(shims[name], f"e{number}").items():
                    samples[name].setdefault(measure, []).append(taken_s * MS)
            time.sleep(idle_s)
            for name, shim in shims.items():
                before_s, used_s[name] = used_s[name], proc.cpu_s(shim.pid)
                samples[name].setdefault("exec_cpu", []).append((used_s[name] - before_s) * MS)
    return samples


def _round_trip(shim: Running, name: str) -> dict[str, float]:
    """Return the seconds of one exec, and of each of its steps."""
    return _timed("exec", steps(shim, name, shim.open_streams(exec_id=name)))


def _read_round_trip(shim: Running, name: str) -> dict[str, float]:
    """Return the same with a client that reads the output meanwhile."""
    stdio = shim.open_streams(exec_id=name)
    with contextlib.closing(Reading(shim.address, shim.outputs.values())) as client:
        of = {"id": shim.id, "exec_id": name}
        made = exec_request(shim.id, name, "echo", "hello", stdio=stdio)
        taken = _timed(
            "exec_read",
            (
                lambda: client.call("Exec", made, Empty),
                lambda: client.call(
                    "Start", task_v2_pb2.StartRequest(**of), task_v2_pb2.StartResponse
                ),
                lambda: client.call(
                    "Wait", task_v2_pb2.WaitRequest(**of), task_v2_pb2.WaitResponse
                ),
                lambda: client.call(
                    "Delete", task_v2_pb2.DeleteRequest(**of), task_v2_pb2.DeleteResponse
                ),
            ),
        )
        assert client.came == b"hello\n", f"{client.came!r} is the output of an exec"
    return taken


def _timed(name: str, acts: Sequence[Callable[[], object]]) -> dict[str, float]:
    """Return the seconds of an exec, and of each of its calls."""
    times = [time.perf_counter()]
    for act in acts:
        act()
        times.append(time.perf_counter())
    taken_s = (after - before for before, after in itertools.pairwise(times))
    return {
        name: times[-1] - times[0],
        **dict(zip((f"{name}_{step}" for step in _STEPS), taken_s, strict=True)),
    }


def steps(shim: Running, name: str, stdio: Stdio) -> Sequence[Callable[[], object]]:
    """List the calls of one exec, in order."""
    return (
        lambda: shim.task.exec(shim.id, name, "true", stdio=stdio),
        lambda: shim.task.start(shim.id, name),
        lambda: shim.task.wait(shim.id, name),
        lambda: shim.task.delete(shim.id, name),
    )


def at_once(place: Place, peer: Peer) -> Samples:
    """Measure many simultaneous execs of `true`: all Execs, all Starts, all Waits, all Deletes."""
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
        "exec_read",
        (
            Measure("exec_read", "exec with output that is read at once", "ms"),
            Measure("exec_read_add", "of it: Exec", "ms"),
            Measure("exec_read_start", "of it: Start", "ms"),
            Measure("exec_read_wait", "of it: Wait", "ms"),
            Measure("exec_read_delete", "of it: Delete", "ms"),
        ),
        240,
        read_at_once,
        per_round=_PER_ROUND,
    ),
    Experiment(
        "rested",
        (
            Measure("rested", "exec after 3 s without calls", "ms"),
            Measure("rested_cpu", "CPU of the shim for it", "ms"),
        ),
        36,
        after_idle,
        per_round=_IDLE_ROUNDS,
    ),
    Experiment(
        "execs",
        (Measure("execs_at_once", "50 execs at once", "ms"),),
        3,  # the shim of containerd 1.6 takes a minute for it
        one_by_one(at_once),
    ),
)
