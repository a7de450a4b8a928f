"""One dockerd for all tests of a pair, which is cleaned after each test; and one to be killed."""

import glob
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from shimv2.shimctl.rootfs import make_rootfs
from shimv2.shimctl.testbed.containerd import Containerd
from shimv2.shimctl.testbed.releases import GO_SHIM, find_release
from tests.daemons.docker import daemon_json, engine
from tests.daemons.pairs import Pair
from tests.daemons.runtimes import find_runtime
from tests.support.dockerd import IMAGE, Dockerd
from tests.support.host import Host, install_shim, runs_as_root
from tests.support.outcome import FAILED


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A busybox root as one tar file, for `docker import`."""
    if not runs_as_root():
        pytest.skip("containers need root and runc")
    folder = tmp_path_factory.mktemp("image")
    make_rootfs(str(folder / "root"))
    subprocess.run(["tar", "-C", folder / "root", "-cf", folder / "root.tar", "."], check=True)
    return str(folder / "root.tar")


@contextmanager
def serving(
    request: pytest.FixtureRequest, pair: Pair, archive: str
) -> Iterator[tuple[Host, Dockerd]]:
    """Run a dockerd with its containerd and the image.

    At the end both are stopped, and all that is left is removed, also after a failed test.
    Anything that a passed test left behind is a failure.
    """
    docker = engine(pair.release)
    binaries = find_release(docker.containerd).binaries
    host = Host.make()
    install_shim(os.path.join(host.bin, GO_SHIM))
    path = f"{host.bin}:{docker.path}"
    containerd = Containerd(
        host.folder, namespace=host.mark, path=path, env=host.env, binaries=binaries
    )
    config = daemon_json(pair.release, find_runtime(pair.runtime, host.folder), host.folder)
    dockerd = Dockerd(containerd, path=path, config=config, env=host.env)
    try:
        containerd.start()
        dockerd.start()
        dockerd.docker("import", "--change=CMD sh", archive, IMAGE)
        yield host, dockerd
    finally:
        dockerd.close()
        containerd.stop()
        left = host.leaks.marked_since(())
        host.leaks.remove_marked()
        host.remove()
    assert left == [] or _failed(request)


@pytest.fixture(scope="package")
def _engine(
    request: pytest.FixtureRequest, pair: Pair, archive: str
) -> Iterator[tuple[Host, Dockerd]]:
    with serving(request, pair, archive) as served:
        yield served


@pytest.fixture
def docker(request: pytest.FixtureRequest, _engine: tuple[Host, Dockerd]) -> Iterator[Dockerd]:
    """A running dockerd with the image; anything that a test leaves behind is a failure."""
    host, dockerd = _engine
    before = host.leaks.marked()
    yield dockerd
    kept = _emptied(dockerd)
    left = host.leaks.marked_since(before)
    assert (kept, left) == ([], []) or _failed(request)


@pytest.fixture
def own_docker(request: pytest.FixtureRequest, pair: Pair, archive: str) -> Iterator[Dockerd]:
    """A separate dockerd, which the test may kill and start again."""
    with serving(request, pair, archive) as (_, dockerd):
        yield dockerd
        assert _failed(request) or _emptied(dockerd) == []


def _failed(request: pytest.FixtureRequest) -> bool:
    return bool(request.node.stash.get(FAILED, False))


def _emptied(dockerd: Dockerd) -> list[str]:
    """Remove the containers that a test left; return them and other leftovers."""
    containers = dockerd.containers()
    if containers:
        dockerd.docker("rm", "--force", *containers)
    folder, namespace = dockerd.folder, dockerd.containerd.namespace
    bundles = f"{dockerd.containerd.state}/io.containerd.runtime.v2.task/{namespace}"
    states = f"{folder}/x/runtime-*/{namespace}"
    return [
        *containers,
        *(path for where in (bundles, states) for path in glob.glob(f"{where}/*")),
    ]
