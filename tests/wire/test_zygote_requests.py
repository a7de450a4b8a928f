"""Requests that reach a waiting child: valid and invalid ones."""

import contextlib
import os
import signal
import socket
import stat
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import pytest

from shimv2.kernel.spawn import reset_signals
from shimv2.shimctl.testbed import zygotes
from shimv2.shimctl.testbed.leaks import alive
from shimv2.zygote.protocol import Request
from tests.support import launched
from tests.support.boot import Boot, path_of
from tests.support.forks import in_fork
from tests.support.inherited import prctl
from tests.support.warm import booted, started, warmed

_LIMIT_S: Final = 5.0
_START_LIMIT_S: Final = 20.0
# Several times the duration of a cold start.
_PATIENCE_S: Final = 5.0


@pytest.fixture
def boot() -> Iterator[Boot]:
    with booted() as made:
        yield made


def captured(boot: Boot) -> tuple[Path, bytes]:
    """Return the socket of a launcher's zygote, which serves, and a request for it."""
    path = launched.socket_of(warmed(boot))
    zygotes.end_zygotes(boot.shim)
    boot.bundle("captured")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(path))
        listener.listen()
        running = boot.popen_start("captured")
        connection, _ = listener.accept()
        with connection:
            word, fds, _, _ = socket.recv_fds(connection, 16, 1)
            assert word == b"request"
            body = os.pread(fds[0], os.fstat(fds[0]).st_size, 0)
            os.close(fds[0])
        listener.close()
        path.unlink()  # the launcher makes a cold start now, which makes a zygote here
    running.communicate(timeout=_START_LIMIT_S)
    zygotes.zygote(boot.shim)
    return path, body


def answer(path: Path, word: bytes, bodies: Sequence[bytes]) -> bytes:
    """Send a word with files in memory; return the answer, empty if the connection is closed."""
    fds = [os.memfd_create("request") for _ in bodies]
    try:
        for fd, body in zip(fds, bodies, strict=True):
            os.write(fd, body)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.settimeout(_LIMIT_S)
            sock.connect(str(path))
            with contextlib.suppress(BrokenPipeError):  # closed already
                socket.send_fds(sock, [word], fds)
            try:
                return sock.recv(16)
            except ConnectionResetError:
                return b""
    finally:
        for fd in fds:
            os.close(fd)


def test_socket_is_for_its_user_alone_whatever_the_umask(boot: Boot) -> None:
    path = launched.socket_of(warmed(boot, setup=lambda: os.umask(0)))

    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_request_that_is_cut_at_any_byte_is_refused(boot: Boot) -> None:
    """And it has no effect: the same child serves the next launcher."""
    path, body = captured(boot)
    waiting = zygotes.spare(boot.shim)

    answers = {answer(path, b"request", [body[:size]]) for size in range(len(body))}

    assert answers == {b""}
    assert started(boot, "c1") == waiting


@pytest.mark.parametrize(
    ("word", "bodies"),
    [
        (b"req", []),
        (b"request", []),
        (b"request", [b""]),
        (b"request", [b"abc"]),
        (b"request", [b"\xff" * 64]),
        (b"request", [b"a" * 64, b"b"]),
        (b"go", [b"x"]),
        (b"request" * 100, [b"x"]),
        (b"request", [b"\0" * (17 << 20)]),
    ],
    ids=["word", "bare", "empty", "3 bytes", "lengths", "two", "go", "long word", "huge"],
)
def test_what_is_no_request_harms_nothing(boot: Boot, word: bytes, bodies: list[bytes]) -> None:
    path = launched.socket_of(warmed(boot))
    waiting = zygotes.spare(boot.shim)

    assert answer(path, word, bodies) == b""
    assert started(boot, "c1") == waiting


def test_client_that_sends_nothing_delays_the_next_launcher_for_a_moment(boot: Boot) -> None:
    path = launched.socket_of(warmed(boot))
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as silent:
        silent.connect(str(path))
        began = time.monotonic()

        started(boot, "c1")

        assert time.monotonic() - began < _PATIENCE_S


@pytest.mark.root
@pytest.mark.parametrize("restricted", [False, True], ids=["as it says", "with less"])
def test_peer_must_match_its_key(boot: Boot, restricted: bool) -> None:
    """A process without capabilities or with NoNewPrivs is not served with the key of a process
    with all."""
    path, body = captured(boot)

    def asks() -> bool:
        reset_signals()  # as the launcher does; Python itself ignores two
        if restricted:
            prctl(38, 1)  # PR_SET_NO_NEW_PRIVS
        return answer(path, b"request", [body]) == (b"" if restricted else b"ok")

    assert in_fork(asks) == 0


def test_request_whose_state_cannot_be_taken_over_costs_one_child(boot: Boot) -> None:
    """A part of the state may be changed already, so the next launcher gets another child."""
    path, body = captured(boot)
    zygote, waiting = zygotes.zygote(boot.shim), zygotes.spare(boot.shim)
    garbled = body.replace(b"\nnice ", b"\nmice ")
    assert garbled != body

    def asks() -> bool:
        reset_signals()
        return answer(path, b"request", [garbled]) == b""

    assert in_fork(asks) == 0
    assert started(boot, "c1") != waiting
    assert alive(zygote)


@pytest.mark.parametrize("which", ["zygote", "child", "both"])
def test_stopped_process_is_a_cold_start_within_its_usual_time(boot: Boot, which: str) -> None:
    """Once it continues, it serves again."""
    zygote, waiting = warmed(boot), zygotes.spare(boot.shim)
    stopped = {"zygote": [zygote], "child": [waiting], "both": [zygote, waiting]}[which]
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    if which == "zygote":
        assert started(boot, "c0") == waiting  # it serves again; it is the same child
    boot.bundle("c1")
    began = time.monotonic()

    path_of(boot.start("c1"))

    assert time.monotonic() - began < _PATIENCE_S
    for pid in stopped:
        os.kill(pid, signal.SIGCONT)
    next_one = zygotes.spare(boot.shim)
    assert started(boot, "c2") == next_one


def test_parts_of_a_request_are_read_or_refused() -> None:
    """Only exceptions that the child expects are raised."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        body = b"".join(len(p).to_bytes(4, "little") + p for p in (b"k", b"s", b"1", b"a\0", b""))
        for size in range(len(body) + 1):
            fd = os.memfd_create("request")
            os.write(fd, body[:size])
            socket.send_fds(ours, [b"request"], [fd])
            os.close(fd)
            if size == len(body):
                assert Request.receive(theirs) == Request(b"k", b"s", "1", ["a"], [])
            else:
                with pytest.raises(ValueError, match=r"part|values to unpack|program"):
                    Request.receive(theirs)
