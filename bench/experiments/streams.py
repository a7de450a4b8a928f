"""Bytes through the shim: their rate, and the CPU time of the shim.

The client discards output with splice(2) to /dev/null, so its own work is small.
"""

import os
import time
from collections.abc import Callable
from typing import Final

from bench import proc
from bench.experiments import Experiment, one_by_one
from bench.measures import Measure, Samples
from bench.peers import Peer
from bench.place import Place

_MIB: Final = 1 << 20
_GIB: Final = 1 << 30
_BLOCK_BYTES: Final = 1 << 20
_LIMIT_S: Final = 120.0


def stdout_blocks(place: Place, peer: Peer) -> Samples:
    rate, cost = _output(place, peer, block_bytes=_MIB, blocks=512)
    return {"stdout": [rate], "stdout_cpu": [cost]}


def stdout_lines(place: Place, peer: Peer) -> Samples:
    rate, cost = _output(place, peer, block_bytes=80, blocks=400_000)
    return {"lines": [rate], "lines_cpu": [cost]}


def terminal(place: Place, peer: Peer) -> Samples:
    rate, _ = _output(place, peer, block_bytes=4096, blocks=8192, terminal=True)
    return {"pty": [rate]}


def _output(
    place: Place, peer: Peer, *, block_bytes: int, blocks: int, terminal: bool = False
) -> tuple[float, float]:
    """Let a container write; return MiB/s (first to last byte) and CPU seconds per GiB."""
    args = ("dd", "if=/dev/zero", f"bs={block_bytes}", f"count={blocks}", "status=none")
    with place.container(peer, *args, terminal=terminal) as shim:
        shim.start_shim()
        shim.connect()
        shim.create(terminal=terminal)
        shim.begin()
        before_s = proc.cpu_s(shim.pid)  # only what fits into the pipes has been relayed before
        came, taken_s = _drained(shim.outputs["stdout"])
        cost_s = proc.cpu_s(shim.pid) - before_s
    wanted = block_bytes * blocks
    assert came == wanted, f"{came} of {wanted} bytes came through {peer.label}"
    return came / _MIB / taken_s, cost_s * _GIB / came


def _drained(fd: int) -> tuple[int, float]:
    """Read to the end of file; return the bytes, and the seconds from the first byte to the end."""
    os.set_blocking(fd, True)
    with open(os.devnull, "wb", buffering=0) as null:
        came = os.splice(fd, null.fileno(), 1)
        began = time.perf_counter()
        while taken := os.splice(fd, null.fileno(), _BLOCK_BYTES):
            came += taken
    return came, time.perf_counter() - began


def stdin(place: Place, peer: Peer) -> Samples:
    """Measure how fast a container gets its input."""
    blocks = 256
    with place.container(peer, "dd", "of=/dev/null", "bs=1M", "status=none") as shim:
        shim.up(stdin=True)
        block = bytes(_BLOCK_BYTES)
        fd = os.open(shim.bundle.fifo("stdin"), os.O_WRONLY | os.O_NONBLOCK)
        os.set_blocking(fd, True)
        began = time.perf_counter()
        with os.fdopen(fd, "wb", buffering=0) as fifo:
            for _ in range(blocks):
                _write_all(fifo.write, block)
        shim.task.close_stdin(shim.id)
        shim.task.wait(shim.id)
        taken_s = time.perf_counter() - began
    return {"stdin": [blocks * _BLOCK_BYTES / _MIB / taken_s]}


def _write_all(write: Callable[[memoryview], int | None], block: bytes) -> None:
    left = memoryview(block)
    while left:
        left = left[write(left) or 0 :]


EXPERIMENTS: Final = (
    Experiment(
        "stdout",
        (
            Measure("stdout", "stdout, blocks of 1 MiB", "MiB/s", more_is_better=True),
            Measure("stdout_cpu", "CPU of the shim for it", "s/GiB"),
        ),
        30,
        one_by_one(stdout_blocks),
    ),
    Experiment(
        "lines",
        (
            Measure("lines", "stdout, writes of 80 bytes", "MiB/s", more_is_better=True),
            Measure("lines_cpu", "CPU of the shim for it", "s/GiB"),
        ),
        10,
        one_by_one(stdout_lines),
    ),
    Experiment(
        "stdin",
        (Measure("stdin", "stdin, blocks of 1 MiB", "MiB/s", more_is_better=True),),
        10,
        one_by_one(stdin),
    ),
    Experiment(
        "pty",
        (Measure("pty", "output of a terminal", "MiB/s", more_is_better=True),),
        10,
        one_by_one(terminal),
    ),
)
