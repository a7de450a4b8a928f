"""The names of the streams select their kind; and the pipes."""

import fcntl
import os
import resource
from pathlib import Path

import pytest

from shimv2.io.stdio import open_io
from shimv2.values.errors import Refused
from shimv2.values.model import Stdio
from shimv2.values.settings import IoPolicy
from tests.support.streams import (
    fifos,
    nothing_leaked,
    open_fds,
    opened,
    run_clean,
)


@pytest.mark.rule("io.select.2")
def test_null_io_has_no_fds_and_does_nothing() -> None:
    """All names empty; nothing is copied, every call succeeds."""

    async def scenario() -> None:
        async with opened() as io:
            assert dict(io.fds) == {}
            io.spawned()
            await io.connect(timeout_s=0)
            io.close_stdin()
            await io.drain()
            assert io.counters().stdout.relayed_bytes == 0

    run_clean(scenario())


@pytest.mark.rule("io.select.6")
@pytest.mark.parametrize(
    ("stdio", "error", "text"),
    [
        (Stdio(stdout="foo://x"), Refused, "unknown STDIO scheme foo"),
        (Stdio(stdout="npipe:///x"), Refused, "unknown STDIO scheme npipe"),
        (
            Stdio(stdout="ttrpc+unix:///run/s?streaming_id=1"),
            Refused,
            "unknown STDIO scheme ttrpc+unix",
        ),
        (
            Stdio(stdout="%zz:/x"),
            Refused,
            (
                'unable to parse stdout uri: parse "%zz:/x": '
                "first path segment in URL cannot contain colon"
            ),
        ),
    ],
)
def test_open_io_what_is_not_supported_is_refused(
    stdio: Stdio, error: type[Exception], text: str
) -> None:
    """Another scheme, and a stdout that is no URL, fails Create and Start of an exec before the
    runtime is called.
    """
    with nothing_leaked(), pytest.raises(error) as caught:
        open_io(stdio, uid=0, gid=0, policy=IoPolicy())

    assert str(caught.value) == text


@pytest.mark.rule("io.pipes.1")
def test_pipes_are_made_for_the_named_streams_only(tmp_path: Path) -> None:
    """A stream without a name is /dev/null in the container."""
    paths = fifos(tmp_path)

    async def scenario() -> None:
        async with opened(stdin=paths[0]) as io:
            assert io.fds.keys() == {0}
        async with opened(stdout=paths[1]) as io:
            assert io.fds.keys() == {1}
        async with opened(stderr=paths[2]) as io:
            assert io.fds.keys() == {2}
            io.spawned()
            assert io.fds == {}

    run_clean(scenario())


def test_pipe_ends_container_side_blocks_and_nothing_is_inherited(tmp_path: Path) -> None:
    """With a non-blocking stdout a container would get EAGAIN; a child inherits only what it is
    given."""
    paths = fifos(tmp_path)

    async def scenario() -> None:
        before = open_fds()
        async with opened(stdin=paths[0], stdout=paths[1]) as io:
            pipes = open_fds().keys() - before.keys()
            assert len(pipes) == 4
            assert {n for n in pipes if os.get_blocking(n)} == set(io.fds.values())
            flags = [fcntl.fcntl(n, fcntl.F_GETFD) for n in pipes]
            assert all(f & fcntl.FD_CLOEXEC for f in flags)

    run_clean(scenario())


@pytest.mark.rule("io.pipes.1")
@pytest.mark.root
def test_pipe_ends_belong_to_io_uid_and_io_gid(tmp_path: Path) -> None:
    """So that a container's user can open /dev/stdout again."""
    paths = fifos(tmp_path)
    stdio = Stdio(stdin=paths[0], stdout=paths[1], stderr=paths[2])

    async def scenario() -> None:
        io = open_io(stdio, uid=1001, gid=1002, policy=IoPolicy())
        owners = [(s.st_uid, s.st_gid) for s in map(os.fstat, io.fds.values())]
        await io.close()
        assert owners == [(1001, 1002)] * 3

    run_clean(scenario())


@pytest.mark.rule("io.pipes.2")
@pytest.mark.root
@pytest.mark.parametrize(
    ("stdio", "name"),
    [
        (Stdio(stdin="/x"), "stdin"),
        (Stdio(stdout="/x"), "stdout"),
        (Stdio(stderr="/x"), "stderr"),
    ],
)
def test_refused_chown_of_a_pipe_names_the_stream(stdio: Stdio, name: str) -> None:
    """`failed to chown stdin|stdout|stderr: …`, and no pipe is left."""
    with nothing_leaked():
        os.seteuid(65534)
        try:
            with pytest.raises(Refused) as caught:
                open_io(stdio, uid=0, gid=0, policy=IoPolicy())
        finally:
            os.seteuid(0)

    assert str(caught.value) == f"failed to chown {name}: operation not permitted"


def test_open_io_without_descriptors_left_is_refused_cleanly() -> None:
    """EMFILE while the pipes are made is an error, and nothing is left."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Room for one pipe, not for two: descriptors are given out from the lowest free number.
    probe = os.pipe()
    top = max(probe) + 1
    os.close(probe[0])
    os.close(probe[1])
    with nothing_leaked():
        resource.setrlimit(resource.RLIMIT_NOFILE, (top, hard))
        try:
            with pytest.raises(Refused) as caught:
                open_io(
                    Stdio(stdin="/x", stdout="/y", stderr="/z"),
                    uid=os.geteuid(),
                    gid=os.getegid(),
                    policy=IoPolicy(),
                )
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert str(caught.value) == "pipe2: too many open files"
