"""Logging binaries with the harness."""

import asyncio
import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import pytest

from shimv2.shimctl import spec
from shimv2.shimctl.container import Container
from shimv2.shimctl.harness import Harness, Setup, captured
from shimv2.shimctl.testbed.until import eventually
from shimv2.values.model import Stdio
from tests.support.harnessed import in_harness, refused

pytestmark = pytest.mark.root

NOT_READY = "logging binary did not call ready (it may have crashed or exited prematurely)"
NOT_CREATED = (5, "container not created: not found")
FAILED = "failed to create init process I/O: "
READY = "printf x >&5; exec 5>&-\n"


EXACT = """#!/usr/bin/python3 -IS
import json, os

def read(name):
    with open("/proc/self/" + name, "rb") as file:
        return file.read().decode()

fds = sorted(int(name) for name in os.listdir("/proc/self/fd"))[:-1]  # less the listing's own
state = {
    "fds": {number: os.readlink("/proc/self/fd/%d" % number).partition(":")[0] for number in fds},
    "flags": [os.get_blocking(number) for number in (3, 4, 5)],
    "env": sorted(read("environ").split("\\0")[:-1]),
    "cwd": os.getcwd(),
    "group": os.getpgid(0),
    "blocked": read("status").split("SigBlk:")[1].split()[0],
}
with open(os.path.dirname(__file__) + "/state", "w") as file:
    json.dump(state, file)
os.write(5, b"\\0")
os.close(5)
with open(os.path.dirname(__file__) + "/out", "wb", buffering=0) as file:
    while chunk := os.read(3, 65536):
        file.write(chunk)
"""


def program(folder: Path, body: str) -> str:
    """Write a logging program with `$F`, its folder, and a PATH of its own."""
    path = folder / "logger"
    path.write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\nF={folder}\n{body}")
    path.chmod(0o755)
    return str(path)


async def created(harness: Harness, uri: str, script: str, *, terminal: bool = False) -> Container:
    wanted = spec.Wanted(["sh", "-c", script], terminal=terminal)
    container = await harness.start_shim("c1", wanted)
    await container.create(
        rootfs=[harness.root_mount(container.bundle)],
        stdio=Stdio(stdout=uri, stderr="" if terminal else uri, terminal=terminal),
        options=harness.options,
    )
    return container


async def failing(harness: Harness, uri: str) -> str:
    """Create with `uri`; return the text of the refusal.  Check that the shim has no more fds than
    before."""
    container = await harness.start_shim("c1", spec.Wanted(["true"]))
    pid = (await container.task.connected("c1")).shim_pid
    before = len(os.listdir(f"/proc/{pid}/fd"))
    root = [harness.root_mount(container.bundle)]
    call = container.create(
        rootfs=root, stdio=Stdio(stdout=uri, stderr=uri), options=harness.options
    )
    code, text = await refused(call)
    assert code == 2
    assert len(os.listdir(f"/proc/{pid}/fd")) == before
    await container.remove()
    return text


@pytest.mark.rule("io.logger.2", "io.logger.3", "io.logger.4", "io.logger.12")
def test_logger_has_its_fds_and_variables_and_nothing_else(setup: Setup, tmp_path: Path) -> None:
    """fds 3 and 4 to read, 5 to report ready, /dev/null; two variables; the shim's cwd and
    group."""
    path = tmp_path / "exact"
    path.write_text(EXACT)
    path.chmod(0o755)

    async def scenario(harness: Harness) -> None:
        container = await created(harness, f"binary://{path}", "echo hello")
        pid = (await container.task.connected("c1")).shim_pid
        state = json.loads((tmp_path / "state").read_text())
        assert state == {
            "fds": {**dict.fromkeys("012", "/dev/null"), **dict.fromkeys("345", "pipe")},
            "flags": [True] * 3,
            "env": ["CONTAINER_ID=c1", f"CONTAINER_NAMESPACE={setup.namespace}"],
            "cwd": container.bundle.path,
            "group": os.getpgid(pid),
            "blocked": "0" * 16,
        }
        await container.disconnect()  # a restart of the daemon does not affect a logger
        container = await harness.found("c1")
        await container.task.start("c1")
        await container.task.wait("c1")
        out = tmp_path / "out"
        await eventually(lambda: out.exists() and out.read_text() == "hello\n", "its input")
        await container.task.delete("c1")
        await container.remove()

    in_harness(setup, scenario)


async def gone(*pids: int | str) -> None:
    """Wait until processes have ended and were reaped."""
    await eventually(
        lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids), "the logger to go"
    )


async def pid_of(folder: Path) -> int:
    """Wait until a program has written its pid."""
    await eventually(lambda: (folder / "pid").exists() and (folder / "pid").read_text(), "a pid")
    return int((folder / "pid").read_text())


@pytest.mark.rule("io.select.4", "io.logger.1", "io.logger.9")
@pytest.mark.parametrize("scheme", ["binary", "binary-v2"])
@pytest.mark.ours("ends it by SIGTERM before it has read everything")
def test_logger_gets_arguments_two_variables_and_both_streams(
    setup: Setup, tmp_path: Path, scheme: str
) -> None:
    """argv in the order of the query, no inherited variables, complete output."""
    body = (
        'printf "%s|" "$@" >$F/argv; tr "\\0" "\\n" </proc/$$/environ >$F/env\n'
        f"ls -l /proc/$$/fd >$F/fds\n{READY}cat <&4 >$F/err &\ncat <&3 >$F/out; wait; : >$F/end\n"
    )
    uri = f"{scheme}://{program(tmp_path, body)}?b=2&a=1&c&a=9&mode=x%20y"

    async def scenario(harness: Harness) -> None:
        script = "head -c 300000 /dev/zero | tr '\\0' o; echo err >&2; exit 3"
        container = await created(harness, uri, script)
        await container.task.start("c1")
        assert (await container.task.wait("c1")).status == 3
        assert not (tmp_path / "end").exists()  # the shim holds its pipes open until Delete
        await container.task.delete("c1")
        assert (tmp_path / "end").exists()  # it had the time to read everything
        await container.remove()

    in_harness(setup, scenario)
    assert (tmp_path / "argv").read_text() == "b|2|a|1|c||mode|x y|"
    assert sorted((tmp_path / "env").read_text().split()) == [
        "CONTAINER_ID=c1",
        f"CONTAINER_NAMESPACE={setup.namespace}",
    ]
    assert (tmp_path / "out").read_text() == "o" * 300000
    assert (tmp_path / "err").read_text() == "err\n"
    lines = [line.split() for line in (tmp_path / "fds").read_text().splitlines()]
    named = {words[-3]: words[-1] for words in lines if "->" in words}
    # The shell itself has its script and its redirections open, from 10 on.
    assert {number for number in named if int(number) < 10} == {"0", "1", "2", "3", "4", "5"}
    assert not any(
        target.startswith("socket:") or target.endswith("/log") for target in named.values()
    )


@pytest.mark.rule("io.logger.5")
@pytest.mark.ours("no binary-v2 before containerd 2.3")
def test_logger_that_ends_before_it_is_ready_depends_on_the_scheme(
    setup: Setup, tmp_path: Path
) -> None:
    """With `binary` an exit counts as ready; with `binary-v2` the program has to report it."""
    path = program(tmp_path, "exit 1\n")

    async def scenario(harness: Harness) -> None:
        assert await failing(harness, f"binary-v2://{path}") == FAILED + NOT_READY
        container = await created(harness, f"binary://{path}", "true")
        await container.remove()

    in_harness(setup, scenario)


@pytest.mark.rule("io.logger.7", "io.logger.15")
@pytest.mark.ours("runs any program, and has other texts")
def test_logger_that_is_missing_or_not_safe_is_refused(setup: Setup, tmp_path: Path) -> None:
    """CVE-2026-53488: a program is run only if no other user than root could have written it."""
    path = program(tmp_path, READY)
    start = f"{FAILED}failed to start binary process: "

    async def scenario(harness: Harness) -> None:
        text = await failing(harness, "binary:///no/such/prog")
        assert text == f"{start}fork/exec /no/such/prog: no such file or directory"
        os.chmod(path, 0o775)
        assert "other users than its owner can write to it" in await failing(
            harness, f"binary://{path}"
        )
        os.chmod(path, 0o644)
        text = await failing(harness, f"binary://{path}")
        assert text == f"{start}fork/exec {path}: permission denied"
        os.chmod(path, 0o755)
        os.chown(path, 1000, 0)
        assert "does not belong to root" in await failing(harness, f"binary://{path}")
        assert "not absolute" in await failing(harness, "binary:logger")

    in_harness(setup, scenario)
    assert list(tmp_path.iterdir()) == [Path(path)]


@pytest.mark.rule("io.logger.6")
@pytest.mark.ours("waits for ever")
def test_logger_that_never_gets_ready_ends_with_the_callers_patience(
    setup: Setup, tmp_path: Path
) -> None:
    """The deadline of Create holds; the program is killed, State answers meanwhile."""
    path = program(tmp_path, "echo $$ >$F/pid\nwhile :; do sleep 0.1; done\n")

    async def scenario(harness: Harness) -> None:
        container = await harness.start_shim("c1", spec.Wanted(["true"]))
        stdio = Stdio(stdout=f"binary://{path}")
        root = [harness.root_mount(container.bundle)]
        call = container.create(rootfs=root, stdio=stdio, options=harness.options, timeout_s=5.0)
        creating = asyncio.create_task(refused(call))
        pid = await pid_of(tmp_path)
        assert await refused(container.task.state("c1")) == NOT_CREATED
        assert not creating.done()
        code, text = await creating
        assert (code, text) == (4, "context deadline exceeded")
        await gone(pid)
        await container.remove()

    in_harness(setup, scenario)


@pytest.mark.rule("io.logger.6")
@pytest.mark.ours("waits for ever")
def test_logger_that_never_gets_ready_ends_with_the_limit_of_the_verb(
    setup: Setup, tmp_path: Path
) -> None:
    """A caller without a deadline does not wait for ever either: not for Create, not for Start."""
    path = program(tmp_path, "echo $$ >>$F/pids\nexec sleep 1000\n")
    settings = tmp_path / "settings.toml"
    settings.write_text("create_s = 2\nexec_s = 1\n")
    late = f"logging binary {path} was not ready after"

    async def scenario(harness: Harness) -> None:
        wanted = spec.Wanted(["sleep", "1000"], terminal=True)
        container = await harness.start_shim("c1", wanted)
        task = container.task
        shim = (await task.connected("c1")).shim_pid
        fds = len(os.listdir(f"/proc/{shim}/fd"))
        stdio = Stdio(stdout=f"binary://{path}", terminal=True)
        root = [harness.root_mount(container.bundle)]
        call = container.create(rootfs=root, stdio=stdio, options=harness.options)
        assert await refused(call) == (4, f"failed to start console copy: {late} 2 s")
        folder = f"/proc/{shim}/fd"
        await eventually(lambda: len(os.listdir(folder)) == fds, "its fds to be closed")
        stdio = Stdio(stdout=container.bundle.fifo("stdout"), terminal=True)
        container.bundle.make_fifos()
        container.read(captured)
        await container.create(rootfs=root, stdio=stdio, options=harness.options)
        await task.start("c1")
        process = spec.process(spec.Wanted(["true"]))
        await task.exec("c1", "e1", process, stdio=Stdio(stdout=f"binary-v2://{path}"))
        failed = await refused(task.start("c1", "e1"))
        assert failed == (4, f"{FAILED}{late} 1 s")
        assert (await task.state("c1", "e1")).status == "CREATED"
        pids = (tmp_path / "pids").read_text().split()
        assert len(pids) == 2
        await gone(*pids)
        await container.kill_and_wait()
        await container.remove()

    in_harness(replace(setup, env={**setup.env, "PYRUNC_CONFIG": str(settings)}), scenario)


@pytest.mark.rule("io.logger.10", "io.logger.11", "io.logger.14")
def test_logger_that_crashes_breaks_the_pipe_and_nothing_else(setup: Setup, tmp_path: Path) -> None:
    """The container gets SIGPIPE and the shim continues; a container with a terminal continues
    too."""
    path = program(tmp_path, f"echo $$ >$F/pid\n{READY}exec sleep 1000\n")

    async def scenario(harness: Harness) -> None:
        for terminal in (False, True):
            container = await created(
                harness,
                f"binary://{path}",
                "while echo x; do sleep 0.1; done; exit 9",
                terminal=terminal,
            )
            logger = await pid_of(tmp_path)
            os.kill(logger, signal.SIGKILL)
            await gone(logger)
            await container.task.start("c1")
            if terminal:
                script = "sleep 1; kill -0 1"
                await container.task.exec(
                    "c1", "e1", spec.process(spec.Wanted(["sh", "-c", script]))
                )
                await container.task.start("c1", "e1")
                assert (await container.task.wait("c1", "e1")).status == 0
                assert (await container.task.state("c1")).status == "RUNNING"
                await container.kill_and_wait()
            else:
                # A shell that is pid 1 is not killed by SIGPIPE: it sees the error.
                assert (await container.task.wait("c1", timeout_s=10)).status == 9
            before_s = time.monotonic()
            await container.task.delete("c1")
            assert time.monotonic() - before_s < 5
            await container.remove()
            (tmp_path / "pid").unlink()

    in_harness(setup, scenario)


@pytest.mark.rule("io.logger.10")
def test_logger_that_ignores_sigterm_is_killed_after_12_s(setup: Setup, tmp_path: Path) -> None:
    """Delete succeeds, and takes as long."""
    path = program(tmp_path, f"trap '' TERM\n{READY}while :; do sleep 0.1; done\n")

    async def scenario(harness: Harness) -> None:
        container = await created(harness, f"binary://{path}", "true")
        await container.task.start("c1")
        await container.task.wait("c1")
        before_s = time.monotonic()
        await container.task.delete("c1")
        assert time.monotonic() - before_s >= 11.5
        await container.remove()

    in_harness(setup, scenario)


@pytest.mark.rule("io.logger.8")
@pytest.mark.ours("the program stays")
def test_logger_of_a_create_that_fails_is_ended(setup: Setup, tmp_path: Path) -> None:
    """The program does not outlive a failed Create."""
    path = program(tmp_path, f"echo $$ >$F/pid\n{READY}exec sleep 1000\n")

    async def scenario(harness: Harness) -> None:
        container = await harness.start_shim("c1", spec.Wanted(["/no/such"]))
        stdio = Stdio(stdout=f"binary://{path}")
        root = [harness.root_mount(container.bundle)]
        call = container.create(rootfs=root, stdio=stdio, options=harness.options)
        assert (await refused(call))[0] == 2
        assert not os.path.exists(f"/proc/{await pid_of(tmp_path)}")
        await container.remove()

    in_harness(setup, scenario)


@pytest.mark.rule("io.logger.14")
def test_terminals_output_goes_to_the_logger(setup: Setup, tmp_path: Path) -> None:
    """The program reads all output and its end before Delete."""
    path = program(tmp_path, f"{READY}cat <&3 >$F/out; : >$F/end\n")

    async def scenario(harness: Harness) -> None:
        container = await created(
            harness, f"binary://{path}", "stty -opost; echo fromtty; tty", terminal=True
        )
        await container.task.start("c1")
        await container.task.wait("c1")
        await eventually((tmp_path / "end").exists, "the end of the output")
        await container.remove()

    in_harness(setup, scenario)
    assert (tmp_path / "out").read_text() == "fromtty\n/dev/pts/0\n"


@pytest.mark.rule("io.select.4", "io.logger.2", "io.logger.13")
def test_exec_has_a_logger_of_its_own(setup: Setup, tmp_path: Path) -> None:
    """Under the exec's id."""
    path = program(tmp_path, f'echo "$CONTAINER_ID" >$F/id\n{READY}cat <&3 >$F/out\n')

    async def scenario(harness: Harness) -> None:
        container = await harness.run("c1", "sleep", "60")
        container.bundle.make_fifos(exec_id="e1")
        stdin = container.bundle.fifo("stdin", exec_id="e1")
        process = spec.process(spec.Wanted(["sh", "-c", "cat; echo fromexec"]))
        await container.task.exec(
            "c1", "e1", process, stdio=Stdio(stdin, f"binary://{quote(path)}", "/no/such")
        )
        await container.task.start("c1", "e1")
        await container.task.wait("c1", "e1")
        await container.task.delete("c1", "e1")
        await container.kill_and_wait()
        await container.remove()

    in_harness(setup, scenario)
    assert (tmp_path / "id").read_text() == "e1\n"
    assert (tmp_path / "out").read_text() == "fromexec\n"
