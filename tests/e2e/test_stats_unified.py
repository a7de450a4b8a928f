"""Stats, controllers and the freezer on a machine with cgroup v2 only, compared with all files."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest
from google.protobuf.message import Message

from protos import cgroups_v2_pb2
from shimv2.cgroups.files import huge_page_sizes
from shimv2.cgroups.parse import UNLIMITED
from shimv2.shimctl import spec
from shimv2.shimctl.container import Container
from shimv2.shimctl.harness import Harness, Setup
from shimv2.shimctl.reply import runc_options
from shimv2.shimctl.testbed.runtimes import crun
from shimv2.shimctl.testbed.until import eventually
from tests.support.cgroups import folder_of
from tests.support.harnessed import in_harness
from tests.support.host import Host

pytestmark = [pytest.mark.root, pytest.mark.unified]

LIMIT: Final = 48 << 20
WRITTEN: Final = 4 << 20
WRITE: Final = f"dd if=/dev/zero of=/data/big bs={WRITTEN} count=1 conv=fsync; exec sleep 1000"
ROOT: Final = Path("/sys/fs/cgroup")

EVENTS: Final = "memory_events"
EVENTS_FILE: Final = "memory.events"
MESSAGES: Final[dict[str, type[Message]]] = {
    "cpu": cgroups_v2_pb2.CPUStat,
    "memory": cgroups_v2_pb2.MemoryStat,
    EVENTS: cgroups_v2_pb2.MemoryEvents,
}
FIELDS: Final = {
    name: [field.name for field in kind.DESCRIPTOR.fields if field.name != "psi"]
    for name, kind in MESSAGES.items()
}

Numbers = dict[str, int]


@pytest.fixture(params=["runc", "crun"])
def runtime(request: pytest.FixtureRequest, host: Host) -> str:
    return "" if request.param == "runc" else crun(host.folder)


@pytest.fixture
def disk() -> Iterator[str]:
    """A folder on a disk, because writes to a tmpfs are no I/O."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        yield folder


async def busy_container(harness: Harness, runtime: str, disk: str) -> tuple[Container, Path]:
    """Start a container that writes to a disk and then sleeps; return it and its cgroup's
    folder."""
    wanted = spec.Wanted(["sh", "-c", WRITE], memory_limit_bytes=LIMIT, binds=[(disk, "/data")])
    container = await harness.start_shim("c1", wanted)
    root = [harness.root_mount(container.bundle)]
    pid = await container.create(rootfs=root, options=runc_options(binary_name=runtime))
    folder = folder_of(pid, "memory")
    await container.task.start("c1")
    await container.task.update(
        "c1", {"pids": {"limit": 55}, "cpu": {"quota": 50_000, "period": 100_000}}
    )
    await eventually(lambda: wrote(folder) >= WRITTEN, "the container to write", limit_s=30)
    await eventually(lambda: in_sleep(pid), "it to sleep", limit_s=30)
    return container, folder


def wrote(folder: Path) -> int:
    return sum(entry["wbytes"] for entry in io_of(folder).values())


def in_sleep(pid: int) -> bool:
    return b"sleep" in Path(f"/proc/{pid}/cmdline").read_bytes()


@pytest.mark.rule("task.stats.1", "stats.answer.2")
def test_every_field_equals_the_value_in_its_file(setup: Setup, runtime: str, disk: str) -> None:
    """The container is frozen, so its numbers change only where the kernel updates them late."""

    async def scenario(harness: Harness) -> None:
        container, folder = await busy_container(harness, runtime, disk)
        await container.task.pause("c1")
        assert (folder / "cgroup.freeze").read_text() == "1\n"
        assert keys(folder, "cgroup.events")["frozen"] == 1

        before = everything(folder)
        packed = await container.task.stats("c1")
        after = everything(folder)

        assert packed.type_url == "io.containerd.cgroups.v2.Metrics"
        found = numbers_of(cgroups_v2_pb2.Metrics.FromString(packed.value))
        assert found.keys() == before.keys()
        for name, value in found.items():
            low, high = sorted((before[name], after[name]))
            assert low <= value <= high, name
        for name in ("cpu.usage_usec", "memory.pgfault", "memory.usage"):
            assert found[name] > 0, name
        assert wrote(folder) >= WRITTEN  # so there is a device in `found`
        assert (found["pids.current"], found["pids.limit"]) == (1, 55)
        assert found["memory.usage_limit"] == LIMIT
        await container.task.resume("c1")
        assert (folder / "cgroup.freeze").read_text() == "0\n"
        await container.kill_and_wait()
        await container.remove()

    in_harness(setup, scenario)


@pytest.mark.rule("stats.cgroup.1")
def test_every_controller_of_the_machine_counts(setup: Setup, runtime: str, disk: str) -> None:
    """Create enables the controllers that the runtime did not, down to the container."""

    async def scenario(harness: Harness) -> None:
        container, folder = await busy_container(harness, runtime, disk)
        wanted = set((ROOT / "cgroup.controllers").read_text().split())
        assert {"cpu", "io", "memory", "pids", "hugetlb"} <= wanted
        assert set((folder / "cgroup.controllers").read_text().split()) == wanted
        await container.kill_and_wait()
        await container.remove()

    in_harness(setup, scenario)


# --- the files, read without the shim's code ------------------------------------------------


def everything(folder: Path) -> Numbers:
    """Name each number of the cgroup as `numbers_of` does."""
    found = {
        "pids.current": number(folder, "pids.current"),
        "pids.limit": number(folder, "pids.max"),
        "memory.usage": number(folder, "memory.current"),
        "memory.usage_limit": number(folder, "memory.max"),
        "memory.swap_usage": number(folder, "memory.swap.current"),
        "memory.swap_limit": number(folder, "memory.swap.max"),
        "memory.max_usage": number(folder, "memory.peak"),
        "memory.swap_max_usage": number(folder, "memory.swap.peak"),
    }
    for message, name in (("cpu", "cpu.stat"), ("memory", "memory.stat"), (EVENTS, EVENTS_FILE)):
        fields = {*FIELDS[message]} - {key.partition(".")[2] for key in found}
        counted = keys(folder, name)
        found |= {f"{message}.{field}": counted.get(field, 0) for field in fields}
    for device, entry in io_of(folder).items():
        found |= {f"io.{device}.{key}": entry[key] for key in ("rbytes", "wbytes", "rios", "wios")}
    for size in huge_page_sizes():
        found[f"hugetlb.{size}.current"] = number(folder, f"hugetlb.{size}.current")
        found[f"hugetlb.{size}.max"] = number(folder, f"hugetlb.{size}.max")
        found[f"hugetlb.{size}.failcnt"] = keys(folder, f"hugetlb.{size}.events")["max"]
    for resource in ("cpu", "memory", "io"):
        for line in (folder / f"{resource}.pressure").read_text().splitlines():
            kind, total = line.split()[0], line.rpartition("total=")[2]
            found[f"{resource}.psi.{kind}"] = int(total)
    return found


def number(folder: Path, name: str) -> int:
    """Read a file with one number; only the newest kernels have some of these files."""
    try:
        text = (folder / name).read_text().strip()
    except FileNotFoundError:
        return 0
    return UNLIMITED if text == "max" else int(text)


def keys(folder: Path, name: str) -> Numbers:
    lines = (line.split() for line in (folder / name).read_text().splitlines())
    return {key: int(value) for key, value in lines}


def io_of(folder: Path) -> dict[str, Numbers]:
    found = {}
    for line in (folder / "io.stat").read_text().splitlines():
        device, *pairs = line.split()
        found[device] = {key: int(value) for key, value in (pair.split("=") for pair in pairs)}
    return {device: entry for device, entry in found.items() if entry}


# --- the message, flattened in the same names -----------------------------------------------------


def numbers_of(metrics: cgroups_v2_pb2.Metrics) -> Numbers:
    value: Callable[[object, str], int] = getattr
    found = {"pids.current": metrics.pids.current, "pids.limit": metrics.pids.limit}
    for message, fields in FIELDS.items():
        part = getattr(metrics, message)
        found |= {f"{message}.{field}": value(part, field) for field in fields}
    for entry in metrics.io.usage:
        device = f"{entry.major}:{entry.minor}"
        names = ("rbytes", "wbytes", "rios", "wios")
        found |= {f"io.{device}.{name}": value(entry, name) for name in names}
    for pages in metrics.hugetlb:
        kinds = ("current", "max", "failcnt")
        found |= {f"hugetlb.{pages.pagesize}.{kind}": value(pages, kind) for kind in kinds}
    for resource in ("cpu", "memory", "io"):
        part = getattr(metrics, resource)
        found |= {
            f"{resource}.psi.{kind}": getattr(part.psi, kind).total for kind in ("some", "full")
        }
    return found
