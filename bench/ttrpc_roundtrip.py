"""Round-trip times of small ttrpc calls over a Unix socket, server and client in two processes.

    python bench/ttrpc_roundtrip.py [--calls 5000] [--loop shim|stock]

Prints a table.
"""

import argparse
import asyncio
import os
import signal
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

ROOT = str(Path(__file__).resolve().parent.parent)
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)

from google.protobuf.wrappers_pb2 import StringValue  # noqa: E402 - after the path is set

from shimv2.aio.loop import ShimLoop  # noqa: E402 - the same
from ttrpc import BlockingClient, Call, Client, Registry, Server  # noqa: E402 - the same
from ttrpc.connection import ClientConnection  # noqa: E402 - the same

SERVICE = "bench.v1.Echo"
WARM_UP = 500


def plain(request: StringValue, _call: Call) -> StringValue:
    return StringValue(value=request.value)


async def with_task(request: StringValue, _call: Call) -> StringValue:
    return StringValue(value=request.value)


def runner(name: str) -> Callable[[Coroutine[Any, Any, Any]], Any]:
    factory = ShimLoop if name == "shim" else asyncio.new_event_loop

    def run(main: Coroutine[Any, Any, Any]) -> Any:
        with asyncio.Runner(loop_factory=factory) as one:
            return one.run(main)

    return run


async def serve(listener: socket.socket) -> None:
    registry = Registry()
    registry.unary(SERVICE, "Plain", StringValue, plain)
    registry.unary(SERVICE, "Task", StringValue, with_task)
    Server(registry).listen(listener)
    await asyncio.get_running_loop().create_future()


def measure_blocking(path: str, method: str, calls: int) -> list[float]:
    times = []
    request = StringValue(value="x" * 64)
    with BlockingClient.connect(path, timeout_s=5) as client:
        for number in range(WARM_UP + calls):
            began = time.perf_counter()
            client.call(SERVICE, method, request, StringValue)
            if number >= WARM_UP:
                times.append(time.perf_counter() - began)
    return times


async def measure_asyncio(path: str, method: str, calls: int) -> list[float]:
    times = []
    request = StringValue(value="x" * 64)
    client = await Client.connect(path, timeout_s=5)
    for number in range(WARM_UP + calls):
        began = time.perf_counter()
        await client.call(SERVICE, method, request, StringValue)
        if number >= WARM_UP:
            times.append(time.perf_counter() - began)
    await client.close()
    return times


def measure_raw(path: str, method: str, calls: int) -> list[float]:
    """Measure the server alone: bytes are encoded in advance, answers not decoded."""
    connection = ClientConnection()
    payload = StringValue(value="x" * 64).SerializeToString()
    frames = [connection.request(SERVICE, method, payload)[1] for _ in range(WARM_UP + calls)]
    times = []
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)
        for number, frame in enumerate(frames):
            began = time.perf_counter()
            sock.send(frame)
            sock.recv(65536)
            if number >= WARM_UP:
                times.append(time.perf_counter() - began)
    return times


def report(label: str, times: list[float]) -> None:
    cuts = statistics.quantiles(times, n=100)
    figures = [min(times), statistics.median(times), cuts[89], cuts[98]]
    print(f"{label:<34}" + "".join(f"{figure * 1e6:>10.1f}" for figure in figures))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=5000)
    parser.add_argument("--loop", choices=["shim", "stock"], default="shim")
    arguments = parser.parse_args()
    run = runner(arguments.loop)
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listener:
        path = f"{folder}/bench.sock"
        listener.bind(path)
        listener.listen()
        child = os.fork()
        if not child:
            run(serve(listener))
            os._exit(0)
        try:
            print(f"{'µs per call':<34}{'min':>10}{'median':>10}{'p90':>10}{'p99':>10}")
            for method in ("Plain", "Task"):
                what = {"Plain": "function", "Task": "coroutine"}[method]
                report(f"{what}, raw socket", measure_raw(path, method, arguments.calls))
                report(f"{what}, blocking client", measure_blocking(path, method, arguments.calls))
                times = run(measure_asyncio(path, method, arguments.calls))
                report(f"{what}, asyncio client", times)
        finally:
            os.kill(child, signal.SIGTERM)
            os.waitpid(child, 0)


if __name__ == "__main__":
    main()
