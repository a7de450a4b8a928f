"""Calls on a running container: how long they take, how many there can be; news of an exit."""

import contextlib
import os
import select
import signal
import time
from statistics import median
from typing import Final

from google.protobuf.empty_pb2 import Empty

from bench.experiments import Experiment, one_by_one
from bench.measures import Measure, Samples
from bench.peers import Peer
from bench.place import Place
from bench.ratios import percentile
from bench.running import Running
from bench.sink import Sink
from bench.task import Burst, Repeated, exec_request
from protos import task_v2_pb2
from shimv2.model import Stdio

MS: Final = 1e3
US: Final = 1e6
_WARM_UP: Final = 200
_CALLS: Final = 3000
_CONNECTIONS: Final = 100
_THROUGHPUT_S: Final = 1.0
_EXECS: Final = 5
_EXECS_AT_ONCE: Final = 50
_EVENT_LIMIT_S: Final = 10.0
_READ_BYTES: Final = 64 * 1024


def state(place: Place, peer: Peer) -> Samples:
    """State of a running container, one call after the other."""
    with place.container(peer) as shim:
        shim.up()
        with contextlib.closing(_states(shim)) as calls:
            calls.times(_WARM_UP)
            times = calls.times(_CALLS)
    return {
        "state_p50": [median(times) * US],
        "state_p99": [percentile(times, 0.99) * US],
    }


def throughput(place: Place, peer: Peer) -> Samples:
    """State on many connections, always one call under way on each."""
    with place.container(peer) as shim, contextlib.ExitStack() as undo:
        shim.up()
        poll = select.epoll()
        undo.callback(poll.close)
        connections = {}
        for _ in range(_CONNECTIONS):
            calls = _states(shim)
            undo.callback(calls.close)
            connections[calls.sock.fileno()] = calls
            poll.register(calls.sock, select.EPOLLIN)
        for calls in connections.values():
            calls.sock.send(calls.frames(1)[0])
        done = 0
        began = time.perf_counter()
        while time.perf_counter() - began < _THROUGHPUT_S:
            for fd, _ in poll.poll(_THROUGHPUT_S):
                calls = connections[fd]
                calls.sock.recv(_READ_BYTES)
                calls.sock.send(calls.frames(1)[0])
                done += 1
        taken_s = time.perf_counter() - began
    return {"state_rate": [done / taken_s]}


def execs(place: Place, peer: Peer) -> Samples:
    """Exec, Start, Wait and Delete of `true`, with streams; the median of some in a container."""
    with place.container(peer) as shim:
        shim.up()
        times = []
        for number in range(_EXECS):
            name = f"e{number}"
            stdio = shim.open_streams(exec_id=name)
            began = time.perf_counter()
            run_exec(shim, name, stdio)
            times.append(time.perf_counter() - began)
    return {"exec": [median(times) * MS]}


def run_exec(shim: Running, name: str, stdio: Stdio) -> None:
    shim.task.exec(shim.id, name, "true", stdio=stdio)
    shim.task.start(shim.id, name)
    shim.task.wait(shim.id, name)
    shim.task.delete(shim.id, name)


def execs_at_once(place: Place, peer: Peer) -> Samples:
    """Many execs of `true` together: all Execs, all Starts, all Waits, all Deletes."""
    names = [f"e{number}" for number in range(_EXECS_AT_ONCE)]
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


def exit_event(place: Place, peer: Peer) -> Samples:
    """From the death of an init to the event of it at the daemon."""
    path = os.path.join(place.folder, "own.sock")
    with (
        contextlib.closing(Sink(path)) as sink,
        place.container(peer, events=path) as shim,
    ):
        shim.up()
        sink.wait_for("/tasks/start", _EVENT_LIMIT_S)
        began = time.perf_counter()
        os.kill(shim.init_pid, signal.SIGKILL)
        told = sink.wait_for("/tasks/exit", _EVENT_LIMIT_S)
        shim.end_task()
        # From here on nobody listens, and Shutdown would wait for who does not come.
        sink.wait_for("/tasks/delete", _EVENT_LIMIT_S)
    return {"exit_event": [(told - began) * MS]}


def _states(shim: Running) -> Repeated:
    request = task_v2_pb2.StateRequest(id=shim.id)
    return Repeated(shim.address, "State", request, task_v2_pb2.StateResponse)


EXPERIMENTS: Final = (
    Experiment(
        "state",
        (Measure("state_p50", "State, median", "µs"), Measure("state_p99", "State, p99", "µs")),
        30,
        one_by_one(state),
    ),
    Experiment(
        "throughput",
        (Measure("state_rate", "State on 100 connections", "calls/s", more_is_better=True),),
        10,
        one_by_one(throughput),
    ),
    Experiment("exec", (Measure("exec", "exec round trip", "ms"),), 120, one_by_one(execs)),
    Experiment(
        "execs",
        (Measure("execs_at_once", "50 execs at once", "ms"),),
        3,  # the one of containerd 1.6 takes a minute for it
        one_by_one(execs_at_once),
    ),
    Experiment(
        "event",
        (Measure("exit_event", "death of an init to its event", "ms"),),
        30,
        one_by_one(exit_event),
    ),
)
