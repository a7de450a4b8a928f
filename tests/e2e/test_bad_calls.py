"""Calls with bad or odd contents: unknown execs, wrong payloads, signals, sizes, ids."""

import os
import signal
from collections.abc import Awaitable
from random import Random

import pytest
from google.protobuf import any_pb2
from google.protobuf.empty_pb2 import Empty

from protos import runc_pb2, task_v2_pb2
from shimv2.shimctl import spec
from shimv2.shimctl.container import Container
from shimv2.shimctl.harness import Harness, Setup
from shimv2.shimctl.reply import pack
from shimv2.shimctl.task import PROCESS_URL
from shimv2.shimctl.testbed.leaks import alive
from tests.support.harnessed import add_exec, in_harness, refused
from tests.support.host import OTHER_SHIM, words
from tests.support.ttrpc_peer import Peer
from ttrpc import codec, wire

pytestmark = pytest.mark.root

SLEEP = spec.Wanted(["sleep", "1000"])
# The number after the last real-time signal, an arbitrary one, the largest one.
NO_SIGNALS = (65, 9999, 4294967295)


async def end(container: Container) -> None:
    await container.kill_and_wait()
    await container.remove()


async def exec_with(container: Container, exec_id: str, packed: any_pb2.Any | None) -> None:
    """Send an Exec with any specification, or without one."""
    request = task_v2_pb2.ExecProcessRequest(id=container.id, exec_id=exec_id, spec=packed)
    await container.task.call("Exec", request, Empty)


@pytest.mark.rule("task.errors.2", "task.service.2")
def test_missing_exec_is_not_found_by_any_method(setup: Setup) -> None:
    """Also an id that looks like a path, or like the container's."""

    async def scenario(harness: Harness) -> None:
        container = await harness.run("c1", *SLEEP.args)
        task = container.task
        for id_ in ("zz", "c1", "../init", "x" * 200, "ü"):
            calls: list[Awaitable[object]] = [
                task.start("c1", id_),
                task.delete("c1", id_),
                task.state("c1", id_),
                task.kill("c1", 9, id_),
                task.wait("c1", id_),
                task.resize_pty("c1", id_, width=1, height=1),
            ]
            for call in calls:
                assert await refused(call) == (5, f"process does not exist {id_}: not found")
            # The Go shim has code 2 here, with the same text.
            code, text = await refused(task.close_io("c1", id_))
            assert (code == 5 or bool(OTHER_SHIM), text) == (
                True,
                f"process does not exist {id_}: not found",
            )
        for service in ("containerd.runtime.sandbox.v1.Sandbox", "containerd.task.v1.Task", ""):
            ask = task.client.call(service, "State", Empty(), Empty)
            assert await refused(ask) == (12, f"service {service}")
        assert await refused(task.call("Forget", Empty(), Empty)) == (12, "method Forget")
        assert (await task.state("c1")).status == "RUNNING"
        await end(container)

    in_harness(setup, scenario)


# --- payloads -----------------------------------------------------------------------------------


@pytest.mark.rule("task.exec.1", "task.exec.3")
def test_exec_of_what_is_no_process_is_refused_and_its_id_is_free(setup: Setup) -> None:
    """With the reason and without an event; the id can be used for a later Exec."""

    async def scenario(harness: Harness) -> None:
        container = await harness.run("c1", *SLEEP.args)
        for value, part in (
            (b"{bad", "invalid "),
            (b"", "JSON"),
            (
                b'{"args":"x"}',
                "json: cannot unmarshal string into Go struct field Process.args of type []string",
            ),
        ):
            code, text = await refused(exec_with(container, "e1", pack(PROCESS_URL, value)))
            assert (code, part in text) == (2, True)
        assert harness.sink.events_of("c1") == ["create c1", "start c1"]
        good = b'{"args":["sh","-c","exit 4"],"cwd":"/","env":["PATH=/bin"],"user":{}}'
        await exec_with(container, "e1", pack("odd/type", good))
        assert await container.task.pids("c1") == [(await container.task.state("c1")).pid]
        await container.task.start("c1", "e1")
        assert (await container.task.wait("c1", "e1", timeout_s=10)).status == 4
        await end(container)

    in_harness(setup, scenario)


@pytest.mark.ours("the Go shim crashes on some")
@pytest.mark.rule("task.create.2", "task.create.3", "task.create.21")
def test_create_with_options_that_are_none_is_refused(setup: Setup) -> None:
    """Of an unknown type, of another known type, and bytes that cannot be decoded."""
    other = runc_pb2.CheckpointOptions(exit=True).SerializeToString()
    known, another = "containerd.runc.v1.Options", "containerd.runc.v1.CheckpointOptions"

    async def scenario(harness: Harness) -> None:
        container = await harness.start_shim("c1", SLEEP)
        root = [harness.root_mount(container.bundle)]
        for url, value, code, part in (
            ("foo.Bar", b"x", 2, "type with url foo.Bar: not found"),
            (known, b"\xff", 2, "proto: cannot parse invalid wire-format data"),
            (another, other, 3, another),
        ):
            options = any_pb2.Any(type_url=url, value=value)
            answer = await refused(container.create(rootfs=root, options=options))
            assert (answer[0], part in answer[1]) == (code, True)
        assert not os.path.ismount(os.path.join(container.bundle.path, "rootfs"))
        # Daemons make these calls after a failed Create: neither may take long.
        unknown = (5, "container not created: not found")
        assert await refused(container.task.delete("c1", timeout_s=5)) == unknown
        empty = any_pb2.Any(type_url="foo.Bar")  # without a value its type is not read
        assert await container.create(rootfs=root, options=empty) > 0
        await container.remove()

    in_harness(setup, scenario)


@pytest.mark.rule("task.service.3")
def test_any_bytes_are_answered_and_harm_no_container(setup: Setup) -> None:
    """Any bytes as a message are answered; the shim and its container continue."""
    random = Random(7)
    methods = (
        *("State", "Create", "Start", "Delete", "Pids", "Pause", "Resume", "Checkpoint", "Kill"),
        *("Exec", "ResizePty", "CloseIO", "Update", "Wait", "Stats", "Connect"),
    )

    async def scenario(harness: Harness) -> None:
        container = await harness.run("c1", *SLEEP.args)
        service = container.task.service
        with Peer.connect(container.reply.path) as peer:
            stream_id = 1
            for method in methods:
                for _ in range(50):
                    data = random.randbytes(random.randrange(40))
                    head = b"\x0a\x02c2" if random.random() < 0.5 else b""  # an id: not that of c1
                    await peer.send(
                        wire.encode_frame(
                            stream_id,
                            wire.REQUEST,
                            0,
                            codec.encode_request(service, method, head + data),
                        )
                    )
                    frame = await peer.frame()
                    assert frame is not None
                    assert (frame.stream_id, frame.kind) == (stream_id, wire.RESPONSE)
                    stream_id += 2
        state = await container.task.state("c1")
        assert (state.status, state.pid in await container.task.pids("c1")) == ("RUNNING", True)
        assert harness.sink.events_of("c1") == ["create c1", "start c1"]
        await end(container)

    in_harness(setup, scenario)


@pytest.mark.ours("the Go shim crashes")
@pytest.mark.rule("task.exec.5")
def test_exec_without_a_specification_is_an_error(setup: Setup) -> None:
    """Code 3, and the shim continues to run."""

    async def scenario(harness: Harness) -> None:
        container = await harness.run("c1", *SLEEP.args)
        code, _ = await refused(exec_with(container, "e1", None))
        assert code == 3
        assert (await refused(container.task.state("c1", "e1")))[0] == 5
        assert (await container.task.state("c1")).status == "RUNNING"
        await end(container)

    in_harness(setup, scenario)


# --- signals ------------------------------------------------------------------------------------


@pytest.mark.rule("task.kill.1", "task.kill.2", "task.words.5")
def test_number_that_is_no_signal_is_refused_by_the_runtime(setup: Setup) -> None:
    """0 and 64 are signals; another number is passed on, and harms no process."""

    async def scenario(harness: Harness) -> None:
        container = await harness.run(
            "c1", "sh", "-c", "trap 'exit 9' TERM; while :; do sleep 0.1; done"
        )
        for number in (0, 64):
            await container.task.kill("c1", number)
        for number in NO_SIGNALS:
            code, text = await refused(container.task.kill("c1", number))
            assert (code, text.startswith("unknown error after kill: ")) == (2, True)
            assert "nvalid argument" in text or text.endswith(f": unknown signal {number}\n")
        assert (await container.task.state("c1")).status == "RUNNING"
        await container.task.kill("c1", signal.SIGTERM)
        assert (await container.task.wait("c1", timeout_s=10)).status == 9
        await container.remove()

    in_harness(setup, scenario)


@pytest.mark.rule("task.kill.6", "task.exits.2")
def test_number_that_is_no_signal_is_refused_for_an_exec(setup: Setup) -> None:
    """The kernel's error text, because the shim itself sends the signal."""

    async def scenario(harness: Harness) -> None:
        container = await harness.run("c1", *SLEEP.args)
        await add_exec(container, "e1", "sleep", "1000")
        pid = await container.task.start("c1", "e1")
        await container.task.kill("c1", 0, "e1")
        for number in NO_SIGNALS:
            assert await refused(container.task.kill("c1", number, "e1")) == (
                2,
                "exec kill error: unknown error after kill: invalid argument",
            )
        assert alive(pid)
        await container.task.kill("c1", 64, "e1")
        assert (await container.task.wait("c1", "e1", timeout_s=10)).status == 128 + 64
        await end(container)

    in_harness(setup, scenario)


@pytest.mark.rule("task.kill.9")
def test_kill_of_all_reaches_every_process(setup: Setup) -> None:
    """An exec, which does not ignore the signal, gets it as well as the init."""

    async def scenario(harness: Harness) -> None:
        container = await harness.run("c1", *SLEEP.args)
        await add_exec(container, "e1", "sleep", "1000")
        await container.task.start("c1", "e1")
        # pid 1 of a namespace does not get signals that it does not handle, so only the exec ends.
        await container.task.kill("c1", signal.SIGTERM, everything=True)
        assert (await container.task.wait("c1", "e1", timeout_s=10)).status == 128 + 15
        assert (await container.task.state("c1")).status == "RUNNING"
        await end(container)

    in_harness(setup, scenario)


# --- sizes --------------------------------------------------------------------------------------


@pytest.mark.rule("task.resize.1", "task.resize.3")
def test_sizes_of_a_terminal_are_those_of_16_bits(setup: Setup) -> None:
    """0, the largest value, and values that are cut, as the container sees them."""
    sizes = [
        ((80, 24), (80, 24)),
        ((0, 0), (0, 0)),
        ((65535, 65535),) * 2,
        ((65537, 65536), (1, 0)),
    ]

    async def scenario(harness: Harness) -> None:
        wanted = spec.Wanted(SLEEP.args, terminal=True)
        container = await harness.create("c1", wanted)
        pid = await container.task.start("c1")
        terminal = os.open(f"/proc/{pid}/root/dev/pts/0", os.O_RDWR | os.O_NOCTTY)
        try:
            for (width, height), seen in sizes:
                await container.task.resize_pty("c1", width=width, height=height)
                assert os.get_terminal_size(terminal) == seen
        finally:
            os.close(terminal)
        await end(container)

    in_harness(setup, scenario)


@pytest.mark.rule("task.words.5")
@pytest.mark.parametrize(
    ("args", "cwd", "runc", "crun"),
    [
        (
            ["nosuch"],
            "/",
            'exec: "nosuch": executable file not found in $PATH',
            "executable file `nosuch` not found in $PATH: No such file or directory",
        ),
        (
            ["/etc"],
            "/",
            'exec: "/etc": permission denied',
            "open executable: Operation not permitted",
        ),
        (
            ["true"],
            "/nodir",
            'chdir to cwd ("/nodir") set in config.json failed: no such file or directory',
            "chdir `/nodir`: No such file or directory",
        ),
    ],
    ids=["missing", "folder", "cwd"],
)
def test_exec_that_cannot_run_reports_the_runtimes_error(
    setup: Setup, args: list[str], cwd: str, runc: str, crun: str
) -> None:
    """Docker derives 126 or 127 from the texts."""

    async def scenario(harness: Harness) -> None:
        container = await harness.run("c1", *SLEEP.args)
        process = spec.process(spec.Wanted(args, cwd=cwd))
        await container.task.exec("c1", "e1", process)
        start = "exec failed: unable to start container process"
        expected = words(runc=f"{start}: {runc}", crun=crun)
        assert await refused(container.task.start("c1", "e1")) == (
            2,
            f"OCI runtime exec failed: {expected}",
        )
        await end(container)

    in_harness(setup, scenario)
