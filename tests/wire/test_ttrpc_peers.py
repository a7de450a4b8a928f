"""Credentials of peers, as the kernel recorded them."""

import os
import subprocess
import sys

import pytest

from shimv2.shimctl.testbed.until import eventually
from tests.support.aio import LoopName, run
from tests.support.ttrpc_peer import Peer, Things, connected, echo, request_frame, serving
from ttrpc import PeerCredentials

STRANGER = """
import os, socket, sys
path, when, frame = sys.argv[1], sys.argv[2], bytes.fromhex(sys.argv[3])
sock = socket.socket(socket.AF_UNIX)
sock.settimeout(10)
if when == "groups":
    os.setgroups([1])
if when == "before":
    os.setregid(1, 1)
if when == "user":
    os.setreuid(1, 1)
sock.connect(path)
if when == "after":
    os.setregid(1, 1)
try:
    sock.sendall(frame)
    print(len(sock.recv(100)))
except OSError as exc:
    print(type(exc).__name__)
"""


async def ask_as(path: str, when: str) -> str:
    """Return what a process with another user or groups gets: a length, or the name of an error."""
    command = [sys.executable, "-I", "-S", "-c", STRANGER, path, when]
    frame = request_frame(1, "Echo", "x").hex()
    child = subprocess.Popen(  # noqa: ASYNC220 - takes a millisecond; not awaited here
        [*command, frame], stdout=subprocess.PIPE, text=True
    )
    await eventually(lambda: child.poll() is not None, "the child")
    return child.communicate()[0].strip()


@pytest.mark.rule("ttrpc.peer.1", "ttrpc.peer.2")
@pytest.mark.skipif(os.geteuid() != 0, reason="changes its groups")
@pytest.mark.parametrize(("when", "served"), [("before", False), ("groups", True), ("after", True)])
def test_other_primary_group_is_refused(loop: LoopName, when: str, served: bool) -> None:
    """The primary group at the time of connect() counts, and no other."""

    async def scenario() -> None:
        async with serving(Things().registry) as (server, path):
            answer = await ask_as(path, when)
            if served:
                assert int(answer) > 10
            else:
                assert answer in {"0", "ConnectionResetError", "BrokenPipeError"}
            await eventually(lambda: not server.connections, "the end")

    run(scenario(), loop=loop)


@pytest.mark.rule("ttrpc.peer.1")
@pytest.mark.skipif(os.geteuid() != 0, reason="changes its user")
def test_other_user_is_refused(loop: LoopName, caplog: pytest.LogCaptureFixture) -> None:
    """Although the permissions of the socket allow it."""

    async def scenario() -> None:
        async with serving(Things().registry) as (_server, path):
            os.chmod(os.path.dirname(path), 0o711)
            os.chmod(path, 0o777)
            assert await ask_as(path, "user") in {"0", "ConnectionResetError", "BrokenPipeError"}

    run(scenario(), loop=loop)
    [record] = [one for one in caplog.records if "refusing" in one.getMessage()]
    assert record.getMessage() == "ttrpc: refusing connection after handshake"
    assert vars(record)["uid"] == 1


def test_own_rule_decides_who_may_connect(loop: LoopName) -> None:
    """An events sink accepts any peer; a handler can read which process calls."""

    async def scenario() -> None:
        things = Things()
        asked: list[PeerCredentials] = []

        def first_only(peer: PeerCredentials) -> bool:
            asked.append(peer)
            return len(asked) == 1

        async with serving(things.registry, allow_peer=first_only) as (_server, path):
            async with connected(path) as client:
                await echo(client)
            with Peer.connect(path) as refused:
                assert await refused.frame() is None
        me = PeerCredentials(os.getpid(), os.geteuid(), os.getegid())
        assert asked == [me, me]
        assert things.calls[0].peer == me

    run(scenario(), loop=loop)
