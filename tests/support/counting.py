"""Containers that print numbers, for the tests of checkpoints with the real CRIU."""

from protos import runc_pb2
from shimv2.shimctl import spec
from shimv2.shimctl.container import Container
from shimv2.shimctl.harness import Harness
from shimv2.shimctl.streams import Capture
from shimv2.shimctl.testbed.until import eventually

COUNT = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.05; done"
COUNTER = spec.Wanted(["sh", "-c", COUNT])
EXIT = runc_pb2.CheckpointOptions(exit=True)


def output(container: Container) -> Capture:
    assert isinstance(container.stdout, Capture)
    return container.stdout


async def counted(container: Container) -> int:
    """Wait for one more number; return the last complete one."""
    came = len(output(container).data)
    await eventually(lambda: len(output(container).data) > came + 8, "numbers")
    return int(output(container).text.rpartition("\n")[0].splitlines()[-1])


async def end(container: Container) -> None:
    await container.kill_and_wait()
    await container.remove()


async def restored(harness: Harness, id_: str, wanted: spec.Wanted, dump: str) -> Container:
    container = await harness.create(id_, wanted, stdin=True, checkpoint=dump)
    await container.task.start(id_)
    return container
