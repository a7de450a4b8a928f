"""Bytes to `cat` in a container and back: the latency of a prompt or a protocol on stdio."""

import contextlib
import os
import random
import select
import time
from collections.abc import Sequence
from typing import Final

from bench.experiments import Experiment, Options
from bench.measures import US, Measure, Round
from bench.peers import Peer
from bench.place import Place
from bench.running import Running

_SIZES: Final = (8, 4 << 10, 64 << 10)  # the largest is the capacity of a FIFO
_WARM_UP: Final = 10
_PER_ROUND: Final = 50
_LIMIT_S: Final = 10.0


class _Echo:
    """The client's ends of the streams of one `cat`."""

    def __init__(self, shim: Running, undo: contextlib.ExitStack) -> None:
        self._input = os.open(shim.bundle.fifo("stdin"), os.O_WRONLY | os.O_NONBLOCK)
        undo.callback(os.close, self._input)
        self._output = shim.outputs["stdout"]
        self._poll = select.poll()
        self._poll.register(self._output, select.POLLIN)

    def round_trip(self, data: bytes) -> float:
        """Write `data` and read it back; return the seconds from the first to the last byte.

        Raises:
            TimeoutError: not all of it comes back.
        """
        began = time.perf_counter()
        left = len(data)
        written = os.write(self._input, data)
        assert written == left, f"{written} of {left} bytes fit the FIFO of stdin"
        while left:
            if not self._poll.poll(_LIMIT_S * 1000):
                raise TimeoutError(f"{left} of {len(data)} bytes did not come back")
            left -= len(os.read(self._output, left))
        return time.perf_counter() - began


def round_trips(place: Place, peers: Sequence[Peer], _options: Options) -> Round:
    """Measure all sizes with all shims, in random order."""
    samples: dict[str, dict[str, list[float]]] = {peer.name: {} for peer in peers}
    with contextlib.ExitStack() as undo:
        echoes = {}
        for peer in peers:
            shim = undo.enter_context(place.container(peer, "cat"))
            shim.up(stdin=True)
            echoes[peer.name] = _Echo(shim, undo)
        order = list(echoes)
        for number in range(_WARM_UP + _PER_ROUND):
            for size in _SIZES:
                random.shuffle(order)
                for name in order:
                    taken_s = echoes[name].round_trip(bytes(size))
                    if number >= _WARM_UP:
                        samples[name].setdefault(f"cat_{size}", []).append(taken_s * US)
    return samples


def _measure(size: int) -> Measure:
    amount = f"{size >> 10} KiB" if size >= 1 << 10 else f"{size} bytes"
    return Measure(f"cat_{size}", f"{amount} to `cat` and back", "µs")


EXPERIMENTS: Final = (
    Experiment(
        "cat",
        tuple(map(_measure, _SIZES)),
        300,
        round_trips,
        per_round=_PER_ROUND,
    ),
)
