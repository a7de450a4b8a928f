"""Frames written by hand, which our clients never send."""

import asyncio
import contextlib

from protos import task_v2_pb2
from shimv2.shimctl.testbed.leaks import alive
from tests.differential.frames import Frames
from tests.differential.tour import Tour, settled
from ttrpc import codec, wire

_PATIENCE_S = 2.0  # for an answer that may never come
_CLOSED, _OPEN = wire.REMOTE_CLOSED, wire.REMOTE_OPEN


def _request(t: Tour, method: str, payload: bytes = b"", service: str = "") -> bytes:
    return codec.encode_request(service or t.shims["c1"].task.service, method, payload)


def _id(id: str = "c1") -> bytes:
    return task_v2_pb2.ConnectRequest(id=id).SerializeToString()


async def _one(t: Tour, label: str, stream_id: int, kind: int, flags: int, data: bytes) -> None:
    """Send one frame and then an ordinary call on a new connection; record all answers."""
    async with Frames(t.shims["c1"].reply.path) as frames:
        frames.send(stream_id, kind, flags, data)
        frames.send(101, wire.REQUEST, 0, _request(t, "Connect", _id()))
        answers: dict[int, str] = {}
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE_S):
                while len(answers) < 2:  # they may come in any order, and the first may be missing
                    answer = await frames.receive()
                    answers[answer.stream_id] = str(answer)
        t.note(label, "\n".join(answers[number] for number in sorted(answers)))


async def services_and_methods(t: Tour) -> None:
    await t.begin()
    for label, data in {
        "an unknown service": _request(t, "State", service="foo"),
        "no service": codec.encode_request("", "State", b""),
        "the Sandbox service": _request(t, "Ping", service="containerd.runtime.sandbox.v1.Sandbox"),
        "version 1 of Task": _request(t, "State", service="containerd.task.v1.Task"),
        "an unknown method": _request(t, "foo"),
        "a method's other case": _request(t, "connect"),
        "no method": _request(t, ""),
        "a method with its path": _request(t, "/task.Task/Connect"),
        "a bad message": _request(t, "State", b"\x0a\xff"),
        "a wrong type": _request(t, "State", b"\x08\x01"),
        "an id that is no UTF-8": _request(t, "State", b"\x0a\x01\xff"),
        "unknown fields": _request(t, "Connect", _id() + b"\xf8\x07\x01"),
        "no request": b"\xff\xff",
        "an empty request": b"",
        "a service that is no UTF-8": b"\x0a\x01\xff",
    }.items():
        await _one(t, label, 1, wire.REQUEST, 0, data)


async def frames(t: Tour) -> None:
    await t.begin()
    good = _request(t, "Connect", _id())
    for label, (stream_id, kind, flags, data) in {
        "an even id": (2, wire.REQUEST, 0, good),
        "id 0": (0, wire.REQUEST, 0, good),
        "Data on an even id": (2, wire.DATA, 0, b""),
        "a Response": (1, wire.RESPONSE, 0, b""),
        "kind 0": (1, 0, 0, b""),
        "kind 4": (1, 4, 0, b""),
        "kind 255": (1, 255, 0, b""),
        "all flags": (1, wire.REQUEST, 0xFF, good),
        "remote open": (1, wire.REQUEST, _OPEN, good),
        "remote closed": (1, wire.REQUEST, _CLOSED, good),
        "too long": (1, wire.REQUEST, 0, bytes(wire.MAX_DATA_BYTES + 1)),
        "as long as can be": (1, wire.REQUEST, 0, _longest(t)),
    }.items():
        await _one(t, label, stream_id, kind, flags, data)


def _longest(t: Tour) -> bytes:
    """A Connect whose envelope is exactly as long as a frame may be."""
    data = _request(t, "Connect", b"")
    room = wire.MAX_DATA_BYTES - len(data) - 5  # the payload's tag and its length
    id = "x" * (room - 5)
    return _request(t, "Connect", _id(id))


async def stream_ids(t: Tour) -> None:
    """Ids that are reused, lower, or have a gap."""
    await t.begin()
    good = _request(t, "Connect", _id())
    for label, ids in {"again": (1, 1), "back": (5, 3), "a gap": (1, 101)}.items():
        async with Frames(t.shims["c1"].reply.path) as frames:
            for stream_id in ids:
                frames.send(stream_id, wire.REQUEST, 0, good)
                t.note(label, str(await frames.receive()))


async def broken_connections(t: Tour) -> None:
    """A partial header, a partial body; the shim continues to serve."""
    await t.begin()
    good = _request(t, "Connect", _id())
    for label, cut in {"half a header": 5, "half a body": 20}.items():
        async with Frames(t.shims["c1"].reply.path) as frames:
            whole = wire.HEADER.pack(len(good), 1, wire.REQUEST, 0) + good
            frames.write(whole[:cut])
        await t.do("Connect", label=f"Connect after {label}")
    async with Frames(t.shims["c1"].reply.path) as frames:
        for number in range(200):
            frames.send(2 * number + 1, wire.REQUEST, 0, good)
        outcomes = {(await frames.receive()).outcome for _ in range(200)}
        t.note("200 at once", str(outcomes))


async def data_on_an_unknown_stream(t: Tour) -> None:
    """Here and below, the Go shims may still answer before they crash: only the end is compared."""
    await t.begin()
    async with Frames(t.shims["c1"].reply.path) as frames:
        frames.send(5, wire.DATA, 0, b"x")
        await _survived(t)


async def data_on_a_finished_stream(t: Tour) -> None:
    await t.begin()
    async with Frames(t.shims["c1"].reply.path) as frames:
        frames.send(1, wire.REQUEST, 0, _request(t, "Connect", _id()))
        t.note("first answer", str(await frames.receive()))
        frames.send(1, wire.DATA, 0, b"x")
        await _survived(t)


async def data_on_a_call_under_way(t: Tour) -> None:
    await t.begin()
    await t.run()
    async with Frames(t.shims["c1"].reply.path) as frames:
        frames.send(1, wire.REQUEST, _OPEN, _request(t, "Wait", _id()))
        frames.send(1, wire.DATA, 0, b"x")
        await _survived(t)


async def _survived(t: Tour) -> None:
    await settled(lambda: not alive(t.shim_pid()))
    await t.do("Connect")
