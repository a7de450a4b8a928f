"""Fixtures of the end-to-end tests: a harness's setup, a containerd, faults."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from shimv2.shimctl.harness import Setup
from shimv2.shimctl.testbed import containerd as daemon
from shimv2.shimctl.testbed.containerd import Containerd
from tests.support.criu import working_criu
from tests.support.faults import Faults
from tests.support.host import OTHER_SHIM, RUNTIME_UNDER_TEST, Host


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out tests that do not apply to the shim or the runtime under test.

    With another shim: the differences in docs/differences.md.  With another runtime: the tests of
    runc only.
    """
    unfit = set()
    if OTHER_SHIM:
        unfit |= {item for item in items if item.get_closest_marker("ours")}
    if RUNTIME_UNDER_TEST != "runc":
        unfit |= {item for item in items if item.get_closest_marker("runc")}
    if unfit:
        items[:] = [item for item in items if item not in unfit]
        config.hook.pytest_deselected(items=list(unfit))


@pytest.fixture
def setup(host: Host, rootfs: str) -> Setup:
    """A harness's setup; the harness itself belongs to the coroutine of the test."""
    return host.setup(rootfs=rootfs)


@pytest.fixture
def containerd(host: Host, image: Path) -> Iterator[Containerd]:
    """A running containerd with the image, in the namespace named like the test's mark."""
    if not daemon.available():
        pytest.skip("there is no containerd")
    service = Containerd(host.folder, namespace=host.mark, path=host.bin, env=host.env)
    try:
        service.start()
        service.ctr("image", "import", str(image))
        yield service
    finally:
        service.stop()


@pytest.fixture
def criu(host: Host) -> str:
    """A criu that works, as the first one on the PATH of this test's shims and daemons."""
    found = working_criu()
    if found is None:
        pytest.skip("no criu works on this machine: make criu")
    os.symlink(found, os.path.join(host.bin, "criu"))
    return found


@pytest.fixture
def criu_setup(setup: Setup, host: Host, criu: str) -> Setup:
    """A harness's setup whose runtime finds that criu."""
    return replace(setup, env={**setup.env, "PATH": f"{host.bin}:{os.environ['PATH']}"})


@pytest.fixture
def faults(host: Host) -> Iterator[Faults]:
    made = Faults(host.folder)
    yield made
    made.close()


@pytest.fixture
def faulty(setup: Setup, faults: Faults) -> Setup:
    """A harness's setup whose runtime is the faulty one."""
    return replace(setup, runtime=faults.binary)


@pytest.fixture
def dump(tmp_path: Path) -> str:
    """A folder that does not exist yet, for a container's image."""
    return str(tmp_path / "dump")
