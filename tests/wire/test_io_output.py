"""Output from a process to the client's FIFO or file: complete, in order, without a busy loop."""

import asyncio
import itertools
import os
import zlib
from pathlib import Path

import pytest

from shimv2.io.stdio import ProcessIO
from shimv2.kernel.linux import bytes_waiting
from shimv2.shimctl.testbed.until import stays
from tests.support.aio import LOOPS, LoopName
from tests.support.kernel import pipe_capacity_bytes
from tests.support.streams import (
    REST_WAKEUPS,
    Container,
    FifoReader,
    eventually,
    fifos,
    lines,
    on_fifo,
    opened,
    run_clean,
    shell_lines,
    wakeups_at_rest,
)

MIB = 1 << 20
PIPE_BYTES = 65536


# --- complete and in order ---------------------------------------------------------------------


@pytest.mark.rule("io.pipes.10")
@pytest.mark.parametrize("loop", LOOPS)
def test_streams_20_mib_through_cat_arrive_unchanged(tmp_path: Path, loop: LoopName) -> None:
    """20 MiB from stdin to stdout, compared by CRC."""
    stdin, out, err = fifos(tmp_path)
    data = os.urandom(MIB) * 20
    (tmp_path / "data").write_bytes(data)

    async def scenario() -> None:
        reader, errors = FifoReader(out), FifoReader(err)
        async with opened(stdin=stdin, stdout=out, stderr=err) as io:
            child = Container(io, "cat")
            await io.connect()
            client = Container(ProcessIO(), "sh", "-c", f"cat {tmp_path}/data > {stdin}")
            await eventually(lambda: io.counters().stdin.relayed_bytes, "the first bytes")
            io.close_stdin()
            received = await reader.read_all()
            assert await child.wait() == 0
            assert await client.wait() == 0
            assert await errors.read_all() == b""
            assert zlib.crc32(received) == zlib.crc32(data)
            assert io.counters().stdin.relayed_bytes == len(data)
            assert io.counters().stdout.relayed_bytes == len(data)
        reader.close()
        errors.close()

    run_clean(scenario(), loop=loop)


@pytest.mark.rule("io.pipes.4")
@pytest.mark.parametrize("loop", LOOPS)
def test_output_end_is_seen_before_delete_and_fds_are_gone(tmp_path: Path, loop: LoopName) -> None:
    """Clients wait for the end of the FIFO before they call Delete."""
    stdin, out, err = fifos(tmp_path)

    async def scenario() -> None:
        reader, errors = FifoReader(out), FifoReader(err)
        async with opened(stdin=stdin, stdout=out, stderr=err) as io:
            await io.connect()
            assert [on_fifo(path) for path in (stdin, out, err)] == [2, 3, 3]  # two are ours
            child = Container(io, "sh", "-c", "echo o; echo e >&2; exit 3")
            assert await reader.read_all() == b"o\n"
            assert await errors.read_all() == b"e\n"
            assert await child.wait() == 3
            await eventually(lambda: on_fifo(stdin) == 0, "stdin to be closed")
            io.process_ended()
            await io.output_read()
            assert [on_fifo(path) for path in (stdin, out, err)] == [0, 1, 1]
        reader.close()
        errors.close()

    run_clean(scenario(), loop=loop)


@pytest.mark.rule("io.pipes.7")
@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_output_alone_is_enough(tmp_path: Path, name: str) -> None:
    """Each name may be empty alone (the reference fails)."""
    (path,) = fifos(tmp_path, ["fifo"])

    async def scenario() -> None:
        reader = FifoReader(path)
        to_stdout = name == "stdout"
        async with opened(stdout=path if to_stdout else "", stderr="" if to_stdout else path) as io:
            await io.connect()
            child = Container(io, "sh", "-c", "echo o; echo e >&2; cat")  # stdin is /dev/null
            assert await reader.read_all() == (b"o\n" if to_stdout else b"e\n")
            assert await child.wait() == 0
        reader.close()

    run_clean(scenario())


def test_output_written_before_connect_is_delivered(tmp_path: Path) -> None:
    """The process may have exited before the FIFOs are open."""
    (out,) = fifos(tmp_path, ["out"])

    async def scenario() -> None:
        async with opened(stdout=out) as io:
            assert await Container(io, "echo", "early").wait() == 0
            reader = FifoReader(out)
            await io.connect()
            assert await reader.read_all() == b"early\n"
            reader.close()

    run_clean(scenario())


# --- a reader that is disconnected
# ---------------------------------------------------------------------


@pytest.mark.rule("io.open.6")
@pytest.mark.parametrize("loop", LOOPS)
def test_reader_lost_and_back_gets_everything_in_order(tmp_path: Path, loop: LoopName) -> None:
    """Output waits and is never dropped; no writer gets EPIPE."""
    (out,) = fifos(tmp_path, ["out"])
    count = 6000  # 480 kB: more than pipe and FIFO hold

    async def scenario() -> None:
        reader = FifoReader(out)
        async with opened(stdout=out) as io:
            await io.connect()
            child = Container(io, "sh", "-c", shell_lines(count))
            received = await reader.read(80 * 100)
            for _ in range(3):
                reader.close()
                await stays(lambda: not child.exited, "the process waits", for_s=0.05)
                reader = FifoReader(out)
                received += await reader.read(80 * 1000)
            received += await reader.read_all()
            assert received == lines(count)
            assert await child.wait() == 0
        reader.close()

    run_clean(scenario(), loop=loop)


@pytest.mark.parametrize(("burst", "turns"), [(1, 0), (1, 1), (1, 5), (52, 1), (52, 5)])
def test_short_lines_without_reader_all_fit_the_fifo(
    tmp_path: Path, burst: int, turns: int
) -> None:
    """800 lines of 80 bytes, 64,000 bytes, fit into the FIFO's 65,536, in bursts of any size.

    52 lines are more than a page, so splice is possible; it would use two of the FIFO's pages for
    them.
    """
    (out,) = fifos(tmp_path, ["out"])

    async def scenario() -> None:
        reader = FifoReader(out)
        async with opened(stdout=out) as io:
            await io.connect()
            process = os.dup(io.fds[1])
            io.spawned()
            data = lines(800)
            for start in range(0, len(data), 80 * burst):
                os.write(process, data[start : start + 80 * burst])  # must not block
                for _ in range(turns):
                    await asyncio.sleep(0)
            os.close(process)
            await eventually(lambda: bytes_waiting(reader.number) == 64_000, "all lines")
            assert await reader.read_all() == lines(800)
        reader.close()

    run_clean(scenario())


@pytest.mark.parametrize("loop", LOOPS)
def test_short_lines_of_a_process_without_reader_all_fit_the_fifo(
    tmp_path: Path, loop: LoopName
) -> None:
    """The same with a process that writes as fast as possible, and is not blocked."""
    (out,) = fifos(tmp_path, ["out"])

    async def scenario() -> None:
        reader = FifoReader(out)
        async with opened(stdout=out) as io:
            await io.connect()
            assert await Container(io, "sh", "-c", shell_lines(800)).wait() == 0
            await eventually(lambda: bytes_waiting(reader.number) == 64_000, "all lines")
            assert await reader.read_all() == lines(800)
        reader.close()

    run_clean(scenario(), loop=loop)


# --- idle -----------------------------------------------------------------------------------


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize(
    "script",
    [
        "sleep 60",  # nothing to do
        "yes",  # the sink is full, the source readable
        "head -c 100000 /dev/zero",  # the sink is full, the source hung up with bytes in it
        "exec >&- 2>&-; sleep 60",  # ended
    ],
)
def test_idle_output_wakes_no_thread(tmp_path: Path, script: str, loop: LoopName) -> None:
    """No busy loop and no timer, whichever side waits for the other."""
    _, out, err = fifos(tmp_path)

    async def scenario() -> None:
        reader, errors = FifoReader(out), FifoReader(err)
        async with opened(stdout=out, stderr=err) as io:
            await io.connect()
            child = Container(io, "sh", "-c", script)
            if not script.startswith("sleep"):
                await eventually(
                    lambda: bytes_waiting(reader.number) > 60_000 or on_fifo(out) == 1,
                    "the FIFO to fill or to end",
                )
            assert await wakeups_at_rest() <= REST_WAKEUPS
            child.kill()
        reader.close()
        errors.close()

    run_clean(scenario(), loop=loop)


@pytest.mark.parametrize("order", list(itertools.permutations(["reader", "process", "io"])))
def test_output_peers_closing_in_any_order_leave_nothing(
    tmp_path: Path, order: tuple[str, ...]
) -> None:
    """The peers close in each order; no descriptor is left, and no thread is woken."""
    (out,) = fifos(tmp_path, ["out"])

    async def scenario() -> None:
        reader = FifoReader(out)
        async with opened(stdout=out) as io:
            await io.connect()
            child = Container(io, "yes")
            await reader.read(1000)
            for who in order:
                if who == "reader":
                    reader.close()
                elif who == "process":
                    child.kill()
                else:
                    await io.close()
                await asyncio.sleep(0.005)  # some iterations of the loop between two steps
            assert await wakeups_at_rest(0.05) <= REST_WAKEUPS

    run_clean(scenario())


def test_100_processes_leave_no_descriptors(tmp_path: Path) -> None:
    """The number of fds is stable."""
    stdin, out, err = fifos(tmp_path)

    async def scenario() -> None:
        for _ in range(100):
            reader, errors = FifoReader(out), FifoReader(err)
            async with opened(stdin=stdin, stdout=out, stderr=err) as io:
                child = Container(io, "sh", "-c", "echo o; echo e >&2")
                await io.connect()
                assert await reader.read_all() == b"o\n"
                assert await errors.read_all() == b"e\n"
                await child.wait()
                await io.drain()
            reader.close()
            errors.close()

    run_clean(scenario())


def test_busy_output_does_not_keep_others_waiting(tmp_path: Path) -> None:
    """One container that writes without pause must not starve the loop."""
    path = tmp_path / "log"
    path.touch()

    async def scenario() -> None:
        async with opened(stdout="/dev/null", stderr=str(path)) as io:
            await io.connect()
            child = Container(io, "sh", "-c", "yes & exec head -c 200000000 /dev/zero >&2")
            most = before = 0
            while before < 64 * MIB:
                await asyncio.sleep(0)
                now = io.counters().stdout.relayed_bytes
                most, before = max(most, now - before), now
            child.kill()
            assert most <= 2 * MIB  # a step moves 1 MiB; then other callbacks run

    run_clean(scenario())


@pytest.mark.root
def test_bulk_output_gets_larger_pipes(tmp_path: Path) -> None:
    """A stream that carries much is woken less often; others keep the kernel's 64 KiB."""
    (out,) = fifos(tmp_path, ["out"])

    async def scenario() -> None:
        reader = FifoReader(out)
        async with opened(stdout=out) as io:
            await io.connect()
            child = Container(io, "sh", "-c", "yes | head -n 1000; exec head -c 33554432 /dev/zero")
            await reader.read(2000)
            assert pipe_capacity_bytes(reader.number) == PIPE_BYTES
            assert await reader.count_all() == 33554432
            assert pipe_capacity_bytes(reader.number) == MIB
            await child.wait()
        reader.close()

    run_clean(scenario())
