"""Output without a client's two FIFOs: to no stream, to files, to one stream only."""

import os
from pathlib import Path

import pytest

from shimv2.shimctl import spec
from shimv2.shimctl.bundle import STREAMS
from shimv2.shimctl.container import Container
from shimv2.shimctl.harness import Harness, Setup
from shimv2.shimctl.streams import Capture, write_fifo
from shimv2.values.model import Stdio
from tests.support.boot import fds
from tests.support.harnessed import in_harness

pytestmark = pytest.mark.root


def pipes(pid: int) -> list[str]:
    return [path for path in fds(pid).values() if path.startswith("pipe:")]


async def create(harness: Harness, container: Container, stdio: Stdio) -> None:
    root = [harness.root_mount(container.bundle)]
    await container.create(rootfs=root, stdio=stdio, options=harness.options)


@pytest.mark.rule("io.select.2")
def test_process_without_streams_has_dev_null_and_may_write_to_it(setup: Setup) -> None:
    """Also when it opens them again by name; the shim copies nothing."""
    script = """set -e
    for n in 0 1 2; do echo $(stat -L -c %t:%T /proc/$$/fd/$n) >>/devices; done
    echo lost; echo lost >&2; echo lost >/dev/stdout; cat"""

    async def scenario(harness: Harness) -> None:
        container = await harness.start_shim("c1", spec.Wanted(["sh", "-c", script]))
        task = container.task
        shim = (await task.connected("c1")).shim_pid
        before = pipes(shim)
        await create(harness, container, Stdio())
        assert pipes(shim) == before
        await task.close_io("c1")
        await task.start("c1")
        assert (await task.wait("c1", timeout_s=10)).status == 0
        upper = Path(container.bundle.own, "upper")
        assert (upper / "devices").read_text() == "1:3\n" * 3
        await task.delete("c1")
        await container.remove()

    in_harness(setup, scenario)


@pytest.mark.rule("io.pipes.7")
@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.ours("fails, or hangs with stdin only")
def test_single_stream_is_enough_for_init_and_exec(setup: Setup, name: str) -> None:
    """A stream without a name is /dev/null; no verb waits for the process."""
    script = "echo out; echo err >&2; read x && exit 3; exit 4"
    status = 3 if name == "stdin" else 4

    async def scenario(harness: Harness) -> None:
        container = await harness.start_shim(
            "c1", spec.Wanted(["sh", "-c", f"({script}); sleep 9"])
        )
        task, bundle = container.task, container.bundle
        for exec_id in ("", "e1"):
            bundle.make_fifos(exec_id=exec_id)
            fifo = bundle.fifo(name, exec_id=exec_id)
            output = Capture(fifo) if name != "stdin" else None
            names = {each: fifo if each == name else "" for each in STREAMS}
            stdio = Stdio(names["stdin"], names["stdout"], names["stderr"])
            if exec_id:
                process = spec.process(spec.Wanted(["sh", "-c", script]))
                await task.exec("c1", exec_id, process, stdio=stdio)
            else:
                await create(harness, container, stdio)
            await task.start("c1", exec_id, timeout_s=10)
            if output is None:
                await write_fifo(fifo, b"word\n")
            else:
                await output.until(f"{name[3:]}\n".encode())
                assert len(output.data) == 4
                output.close()
        assert (await task.wait("c1", "e1", timeout_s=10)).status == status
        await task.delete("c1", "e1")
        await container.kill_and_wait()
        await container.remove()

    in_harness(setup, scenario)


@pytest.mark.rule("io.select.5", "io.pipes.5", "io.file.1", "io.file.2", "io.file.3")
@pytest.mark.parametrize("scheme", ["file://host", ""])
def test_output_to_a_file_is_appended_in_the_order_written(
    setup: Setup, tmp_path: Path, scheme: str
) -> None:
    """Both streams in one file, which is created or not, depending on the scheme."""
    folder = tmp_path / "new" / "folder"
    path = folder / "log"
    if not scheme:
        folder.mkdir(parents=True)
        path.write_text("before\n")
    # The next line is written once the one before it is seen in the file.
    seen = "until grep -q $1.$2 /t/new/folder/log; do sleep 0.01; done"
    script = f"w() {{ echo $1 $2 >&$3; {seen}; }}; for i in 1 2 3; do w out $i 1; w err $i 2; done"
    stdio = Stdio(stdout=f"{scheme}{path}", stderr=f"{scheme}{path}")

    async def scenario(harness: Harness) -> None:
        wanted = spec.Wanted(["sh", "-c", script], binds=[(str(tmp_path), "/t")])
        container = await harness.start_shim("c1", wanted)
        task = container.task
        await create(harness, container, stdio)
        await task.start("c1")
        await task.wait("c1")
        await task.delete("c1")
        await container.remove()

    in_harness(setup, scenario)
    lines = path.read_text().splitlines()
    if not scheme:
        assert lines.pop(0) == "before"
    else:
        assert [oct(os.stat(each).st_mode)[-3:] for each in (path, folder)] == ["644", "755"]
    assert lines == [f"{name} {i + 1}" for i in range(3) for name in ("out", "err")]
