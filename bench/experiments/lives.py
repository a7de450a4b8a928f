"""Times of a container, from the first `start` to the `delete` action."""

import time
from functools import partial
from typing import Final

from bench.experiments import Experiment, one_by_one
from bench.measures import MS, Measure, Samples
from bench.peers import Peer
from bench.place import Place
from bench.running import timed


def start(place: Place, peer: Peer) -> Samples:
    """Measure a shim without a container: `start`, and the first answer after it."""
    with place.container(peer) as shim:
        shim.start_shim()
        first_s = timed(shim.connect)
    peer.settle()
    return {"start": [shim.start_s * MS], "first_rpc": [first_s * MS]}


def start_cold(place: Place, peer: Peer) -> Samples:
    """Measure the first `start` on a node: there is no zygote and no other shim."""
    peer.end_zygotes()
    with place.container(peer) as shim:
        shim.start_shim()
        shim.connect()
    peer.settle()
    return {"start_cold": [shim.start_s * MS]}


def steps(place: Place, peer: Peer) -> Samples:
    """Measure each verb of a container that is killed, and the `delete` after it."""
    with place.container(peer) as shim:
        shim.start_shim()
        shim.connect()
        create_s = timed(shim.create)
        begin_s = timed(shim.begin)
        end_s = timed(shim.end_task)
        began = time.perf_counter()
        shim.shut_down()
        shim.wait_exit()
        exit_s = time.perf_counter() - began
        delete_s = shim.delete_action()
    return {
        "gone": [exit_s * MS],
        "create": [create_s * MS],
        "begin": [begin_s * MS],
        "end": [end_s * MS],
        "delete": [delete_s * MS],
    }


def whole(place: Place, peer: Peer, *, runtime: str, name: str) -> Samples:
    """Measure all of a daemon's steps for a container that runs `true`, in its order."""
    with place.container(peer, "true", runtime=runtime) as shim:
        began = time.perf_counter()
        shim.start_shim()
        shim.connect()
        shim.create()
        shim.begin()
        shim.task.wait(shim.id)
        shim.task.delete(shim.id)
        shim.shut_down()
        shim.wait_closed()  # a daemon does not wait for the process
        shim.delete_action()
        taken_s = time.perf_counter() - began
        shim.wait_exit()
    return {name: [taken_s * MS]}


EXPERIMENTS: Final = (
    Experiment(
        "start",
        (Measure("start", "`start`", "ms"), Measure("first_rpc", "first answer after it", "ms")),
        50,
        one_by_one(start),
    ),
    Experiment(
        "start_cold",
        (Measure("start_cold", "first `start` on a node", "ms"),),
        30,
        one_by_one(start_cold),
    ),
    Experiment(
        "steps",
        (
            Measure("create", "Create", "ms"),
            Measure("begin", "Start", "ms"),
            Measure("end", "Kill, Wait, Delete", "ms"),
            Measure("gone", "Shutdown to the end of the shim", "ms"),
            Measure("delete", "`delete` action", "ms"),
        ),
        30,
        one_by_one(steps),
    ),
    Experiment(
        "whole",
        (Measure("whole", "whole container, runc", "ms"),),
        120,
        one_by_one(partial(whole, runtime="runc", name="whole")),
    ),
    Experiment(
        "whole_crun",
        (Measure("whole_crun", "whole container, crun", "ms"),),
        120,
        one_by_one(partial(whole, runtime="crun", name="whole_crun")),
    ),
)
