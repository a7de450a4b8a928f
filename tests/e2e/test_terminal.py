"""Containers and execs with a terminal, with the harness."""

import asyncio
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from shimv2.shimctl import spec
from shimv2.shimctl.container import Container
from shimv2.shimctl.harness import Harness, Setup
from shimv2.shimctl.streams import Capture, write_fifo
from shimv2.shimctl.testbed.until import eventually
from shimv2.values.model import Stdio
from tests.support.boot import fds_at_rest
from tests.support.harnessed import in_harness, refused
from tests.support.host import Host, words

pytestmark = pytest.mark.root

MIB = 1 << 20


def screen(container: Container) -> Capture:
    assert isinstance(container.stdout, Capture)
    return container.stdout


def ptmx_of(pid: int) -> list[str]:
    """Return the terminals whose masters and slaves a process has open."""
    found = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            target = os.readlink(f"/proc/{pid}/fd/{name}")
        except OSError:
            continue
        if "ptmx" in target or "/pts/" in target:
            found.append(target)
    return found


def fds_of(pid: int) -> int:
    return len(fds_at_rest(pid))


async def shim_pid(container: Container) -> int:
    return (await container.task.connected(container.id)).shim_pid


def folders_for_consoles() -> set[str]:
    return {name for name in os.listdir("/tmp") if name.startswith("pty")}


async def run(harness: Harness, id_: str, script: str, *, stdin: bool = True) -> Container:
    wanted = spec.Wanted(["sh", "-c", script], terminal=True)
    container = await harness.create(id_, wanted, stdin=stdin)
    await container.task.start(id_)
    return container


@pytest.mark.rule(
    "task.resize.1", "io.select.1", "io.terminal.5", "io.terminal.12", "io.terminal.14"
)
def test_terminal_container_has_a_tty_its_size_and_ends_with_its_status(setup: Setup) -> None:
    """Resize before and after Start; the end of output comes before Delete."""
    before = folders_for_consoles()

    async def scenario(harness: Harness) -> None:
        script = "tty; stty size; read x; stty size; exit 5"
        container = await harness.create(
            "c1", spec.Wanted(["sh", "-c", script], terminal=True), stdin=True
        )
        task = container.task
        assert (await task.state("c1")).stdio.terminal
        assert folders_for_consoles() == before
        await task.resize_pty("c1", width=70, height=20)
        await task.start("c1")
        await screen(container).until(b"20 70")
        await task.resize_pty("c1", width=70000, height=65)
        await write_fifo(container.bundle.fifo("stdin"), b"\n")
        ended = await task.wait("c1")
        await screen(container).ended()
        await task.resize_pty("c1", width=1, height=1)

        assert ended.status == 5
        assert screen(container).text == "/dev/pts/0\r\n20 70\r\n\r\n65 4464\r\n"
        await container.remove()

    in_harness(setup, scenario)


@pytest.mark.rule("io.terminal.6")
def test_close_io_without_a_writer_hangs_the_terminal_up(setup: Setup) -> None:
    """The end of input ends the terminal."""

    async def scenario(harness: Harness) -> None:
        script = "trap 'exit 6' HUP; echo ready; while :; do sleep 0.1; done"
        container = await run(harness, "c1", script)
        await screen(container).until(b"ready\r\n")  # before that the runtime would get the signal
        await container.task.close_io("c1")
        ended = await container.task.wait("c1", timeout_s=10)
        await screen(container).ended()
        await container.remove()

        assert ended.status == 6

    in_harness(setup, scenario)


@pytest.mark.rule("io.select.1", "io.terminal.18")
def test_client_of_a_terminal_leaves_and_returns(setup: Setup) -> None:
    """Neither input nor output ends when a client disconnects."""

    async def scenario(harness: Harness) -> None:
        container = await run(harness, "c1", "while read x; do echo got $x; done")
        fifo = container.bundle.fifo("stdin")
        await write_fifo(fifo, b"one\n")
        await screen(container).until(b"got one\r\n")
        screen(container).close()
        await write_fifo(fifo, b"two\n")
        container.stdout = Capture(container.bundle.fifo("stdout"))
        await screen(container).until(b"got two\r\n")
        await write_fifo(fifo, b"\x04")
        assert (await container.task.wait("c1", timeout_s=10)).status == 0
        await screen(container).ended()
        await container.remove()

    in_harness(setup, scenario)


@pytest.mark.rule("task.delete.5", "io.terminal.9")
def test_big_output_of_a_terminal_is_complete_at_its_end(setup: Setup) -> None:
    """1 MiB, then the exit; the client reads slowly, Delete comes at once."""

    async def scenario(harness: Harness) -> None:
        script = f"stty -opost; head -c {MIB} /dev/zero | tr '\\0' x; echo END"
        container = await run(harness, "c1", script)
        assert (await container.task.wait("c1", timeout_s=30)).status == 0
        await container.task.delete("c1")
        await screen(container).ended()

        assert bytes(screen(container).data) == b"x" * MIB + b"END\n"
        await container.remove()

    in_harness(setup, scenario)


@pytest.mark.rule("io.terminal.8")
def test_terminal_closed_by_all_and_opened_again_is_not_over(setup: Setup) -> None:
    """While no process has the slave open, the shim waits without using CPU time."""

    async def scenario(harness: Harness) -> None:
        late = "sleep 2; echo late > /dev/console; sleep 0.2"
        container = await run(harness, "c1", f"exec <&- >&- 2>&-; {late}")
        pid = await shim_pid(container)
        used_s = []
        for _ in range(4):
            before_s = cpu_s(pid)
            await asyncio.sleep(0.4)  # the time whose CPU use is measured
            used_s.append(cpu_s(pid) - before_s)
        await screen(container).until(b"late\r\n")
        await container.task.wait("c1")
        await screen(container).ended()
        await container.remove()

        # Two ticks at most, apart from its work when it becomes idle.
        assert min(used_s) <= 0.02, used_s

    in_harness(setup, scenario)


def cpu_s(pid: int) -> float:
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.rule("task.resize.4", "io.terminal.13")
def test_exec_with_a_terminal_has_its_first_size_from_the_request(setup: Setup) -> None:
    """A resize before Start is lost, one after it is seen."""

    async def scenario(harness: Harness) -> None:
        container = await harness.run("c1", "sleep", "60")
        task, bundle = container.task, container.bundle
        bundle.make_fifos(exec_id="e1")
        script = "stty size; read x; stty size; exit 4"
        process = spec.process(spec.Wanted(["sh", "-c", script], terminal=True))
        process["consoleSize"] = {"width": 22, "height": 11}
        stdio = Stdio(
            bundle.fifo("stdin", exec_id="e1"), bundle.fifo("stdout", exec_id="e1"), "", True
        )
        output = Capture(stdio.stdout)
        await task.exec("c1", "e1", process, stdio=stdio)
        await task.resize_pty("c1", "e1", width=7, height=7)
        await task.start("c1", "e1")
        await output.until(b"11 22\r\n")
        await task.resize_pty("c1", "e1", width=90, height=30)
        await write_fifo(stdio.stdin, b"\n")
        ended = await task.wait("c1", "e1")
        await output.ended()
        await task.delete("c1", "e1")

        assert ended.status == 4
        assert output.text == "11 22\r\n\r\n30 90\r\n"
        await container.kill_and_wait()
        await container.remove()

    in_harness(setup, scenario)


@pytest.mark.rule("io.terminal.11")
@pytest.mark.ours("the terminal is left in the shim")
def test_exec_whose_child_keeps_the_terminal_ends_nevertheless(setup: Setup) -> None:
    """The child gets the hangup with the exec, and Delete waits for no client."""

    async def scenario(harness: Harness) -> None:
        container = await harness.run("c1", "sleep", "1000")
        task, bundle = container.task, container.bundle
        shim = await shim_pid(container)
        bundle.make_fifos(exec_id="e1")
        stdout = bundle.fifo("stdout", exec_id="e1")
        output = Capture(stdout)
        script = "trap '' HUP; sh -c 'sleep 1001; echo late' & echo now; exit 3"
        process = spec.process(spec.Wanted(["sh", "-c", script], terminal=True))
        await task.exec("c1", "e1", process, stdio=Stdio(stdout=stdout, terminal=True))
        await task.start("c1", "e1")
        assert (await task.wait("c1", "e1", timeout_s=5)).status == 3
        await task.delete("c1", "e1", timeout_s=2)
        await output.ended()
        assert output.text == "now\r\n"
        assert ptmx_of(shim) == []
        assert len(await task.pids("c1")) == 3  # the child still runs
        await container.kill_and_wait()
        await container.remove()

    in_harness(setup, scenario)


@pytest.mark.rule("io.terminal.1")
@pytest.mark.parametrize(
    "letters",
    [
        pytest.param(8, id="short"),
        pytest.param(100, id="long", marks=pytest.mark.ours("fails: the path is too long")),
    ],
)
def test_console_socket_is_where_the_user_has_his_files_if_it_fits(
    setup: Setup, host: Host, letters: int
) -> None:
    """In XDG_RUNTIME_DIR; the runtime finds it even if that path is too long."""
    folder = os.path.join(host.folder, "x" * letters)
    os.mkdir(folder)

    async def scenario(harness: Harness) -> None:
        container = await run(harness, "c1", "tty")
        assert (await container.task.wait("c1")).status == 0
        await screen(container).ended()
        assert screen(container).text == "/dev/pts/0\r\n"
        await container.remove()

    in_harness(replace(setup, env={**setup.env, "XDG_RUNTIME_DIR": folder}), scenario)
    assert os.listdir(folder) == []


OCI = "OCI runtime create failed: "
CREATE = f"{OCI}runc create failed: "
COPY = "failed to start console copy: "
PARSE = f'{COPY}unable to parse stdout uri: parse "%zz:/x":'
LOGGER = f"{COPY}failed to start logging binary process:"
# The request's stdout, whether request and configuration have a terminal, and the error.
TERMINALS_REFUSED = (
    ("", True, True, f"{COPY}stat : no such file or directory"),
    ("file:///x", True, True, f"{COPY}stat file:///x: no such file or directory"),
    ("foo:///x", True, True, f"{COPY}stat foo:///x: no such file or directory"),
    (
        "/etc",
        True,
        True,
        f'{COPY}containerd-shim: opening file "/etc" failed: open /etc: is a directory',
    ),
    (
        "%zz:/x",
        True,
        True,
        f"{PARSE} first path segment in URL cannot contain colon",
    ),
    (
        "binary:///no/such",
        True,
        True,
        f"{LOGGER} fork/exec /no/such: no such file or directory",
    ),
    (
        "/nowhere",
        True,
        False,
        words(
            runc=f"{CREATE}cannot use console socket if runc will not detach or allocate tty",
            crun="failed to retrieve console master: the runtime did not send it",
        ),
    ),
    (
        "",
        False,
        True,
        words(
            runc=f"{CREATE}cannot allocate tty if runc will detach without setting console socket",
            crun=f"{OCI}use --console-socket with create when a terminal is used",
        ),
    ),
)


@pytest.mark.rule("io.terminal.2", "io.terminal.7", "io.terminal.15")
@pytest.mark.ours("a terminal is left in the shim")
def test_terminal_that_cannot_be_is_refused_and_leaves_nothing(setup: Setup) -> None:
    """With the reference's text; no folder, terminal or fd is left."""
    before = folders_for_consoles()

    async def scenario(harness: Harness) -> None:
        container = await harness.start_shim("c1", spec.Wanted(["true"]))
        pid = await shim_pid(container)
        fds = fds_of(pid)
        root = [harness.root_mount(container.bundle)]
        for stdout, asked, in_spec, text in TERMINALS_REFUSED:
            wanted = spec.Wanted(["true"], terminal=in_spec)
            config = spec.config(wanted, namespace=setup.namespace, container_id="c1")
            Path(container.bundle.path, "config.json").write_text(json.dumps(config))
            stdio = Stdio(stdout=stdout, terminal=asked)
            call = container.create(rootfs=root, stdio=stdio, options=harness.options)
            assert await refused(call) == (2, text)
            assert ptmx_of(pid) == []
            assert fds_of(pid) == fds
        await container.remove()

    in_harness(setup, scenario)
    assert folders_for_consoles() == before


@pytest.mark.rule("io.terminal.16")
@pytest.mark.ours("terminals are left in the shim")
def test_50_terminals_in_one_shim_leave_no_fd(setup: Setup) -> None:
    """After many execs with terminals the shim has the same fds."""

    async def scenario(harness: Harness) -> None:
        container = await harness.run("c1", "sleep", "60")
        task, bundle = container.task, container.bundle
        pid = await shim_pid(container)
        before = fds_of(pid)
        process = spec.process(spec.Wanted(["tty"], terminal=True))
        for number in range(50):
            id_ = f"e{number}"
            bundle.make_fifos(exec_id=id_)
            stdin, stdout = (bundle.fifo(name, exec_id=id_) for name in ("stdin", "stdout"))
            output = Capture(stdout)
            await task.exec("c1", id_, process, stdio=Stdio(stdin, stdout, terminal=True))
            await task.start("c1", id_)
            assert (await task.wait("c1", id_)).status == 0
            await output.ended()
            await task.delete("c1", id_)
            assert output.text == "/dev/pts/0\r\n"
            bundle.remove_fifos(exec_id=id_)

        await eventually(lambda: fds_of(pid) == before, "the fds to be as before")
        await container.kill_and_wait()
        await container.remove()

    in_harness(setup, scenario)
