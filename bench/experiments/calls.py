"""Calls on a running container: their time and rate; the time until an exit event."""

import contextlib
import os
import select
import signal
import time
from statistics import median
from typing import Final

from bench.experiments import Experiment, one_by_one
from bench.measures import MS, US, Measure, Samples
from bench.peers import Peer
from bench.place import Place
from bench.ratios import percentile
from bench.running import Running
from bench.sink import Sink
from bench.task import Repeated
from protos import task_v2_pb2

_WARM_UP: Final = 200
_CALLS: Final = 3000
_CONNECTIONS: Final = 100
_THROUGHPUT_S: Final = 1.0
_EVENT_LIMIT_S: Final = 10.0
_READ_BYTES: Final = 64 * 1024


def state(place: Place, peer: Peer) -> Samples:
    """Measure State of a running container, one call after the other."""
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
    """Measure State on many connections, with one call in flight on each."""
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


def exit_event(place: Place, peer: Peer) -> Samples:
    """Measure the time from the exit of an init to its event at the daemon."""
    path = os.path.join(place.folder, "own.sock")
    with (
        contextlib.closing(Sink(path)) as sink,
        place.container(peer, events=path) as shim,
    ):
        shim.up()
        sink.wait_for("/tasks/start", _EVENT_LIMIT_S)
        began = time.perf_counter()
        os.kill(shim.init_pid, signal.SIGKILL)
        came = sink.wait_for("/tasks/exit", _EVENT_LIMIT_S)
        shim.end_task()
        # Receive the last event now: the sink is not served later, and Shutdown would wait for it.
        sink.wait_for("/tasks/delete", _EVENT_LIMIT_S)
    return {"exit_event": [(came - began) * MS]}


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
        30,
        one_by_one(throughput),
    ),
    Experiment(
        "event",
        (Measure("exit_event", "exit of an init to its event", "ms"),),
        30,
        one_by_one(exit_event),
    ),
)
