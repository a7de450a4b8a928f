"""Fixtures of the tests with real daemons: a pair of a daemon and a runtime, and their table."""

import contextlib
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from shimv2.shimctl.image import IMAGE, make_image
from shimv2.shimctl.testbed.containerd import Containerd
from shimv2.shimctl.testbed.releases import GO_SHIM, ReleaseMissing, find_release
from tests.daemons.cri import (
    BROKEN,
    HANDLER,
    OTHER_HANDLER,
    PAUSE,
    PAUSE_COMMAND,
    CriContainerd,
    cri_tools,
    handlers,
)
from tests.daemons.nerdctl import Nerdctl, find_nerdctl
from tests.daemons.pairs import Pair
from tests.daemons.pods import Pods
from tests.daemons.prompt import Prompt
from tests.daemons.redis import Redis, make_redis
from tests.daemons.runtimes import describe, find_runtime
from tests.daemons.table import Recorder
from tests.support.host import OTHER_SHIM, ROOT, RUNTIME, Host

_RECORDER = pytest.StashKey[Recorder]()
_FETCHING_LIMIT_S = 600


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_RECORDER] = Recorder(Path(ROOT, ".cache/matrix"))
    config.pluginmanager.register(config.stash[_RECORDER])


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With another shim, leave out the tests of differences (docs/differences.md); set time
    limits."""
    unfit = [item for item in items if OTHER_SHIM and item.get_closest_marker("ours")]
    if unfit:
        items[:] = [item for item in items if item not in unfit]
        config.hook.pytest_deselected(items=unfit)
    for item in items:
        # The first test of a daemon or a runtime also waits for its download.
        if "pair" in getattr(item, "fixturenames", ()) and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(_FETCHING_LIMIT_S))


@pytest.fixture(scope="session")
def pair(request: pytest.FixtureRequest) -> Pair:
    """The daemon and the runtime of the test, which is parametrized with `pairs`.

    It has the scope of the session, so that the tests of one pair can share a daemon.
    """
    given = request.param
    assert isinstance(given, Pair)
    request.config.stash[_RECORDER].titles[given.runtime] = describe(given.runtime)
    return given


@pytest.fixture
def runtime(pair: Pair, host: Host) -> str:
    """The path of the pair's runtime."""
    return find_runtime(pair.runtime, host.folder)


@pytest.fixture
def containerd(pair: Pair, host: Host, image: Path) -> Iterator[Containerd]:
    """The pair's containerd, running, with the image, in the namespace of the test's mark."""
    release = find_release(pair.release)
    service = Containerd(
        host.folder, namespace=host.mark, path=host.bin, env=host.env, binaries=release.binaries
    )
    try:
        service.start()
        service.ctr("image", "import", str(image))
        yield service
    finally:
        service.stop()


@pytest.fixture
def run(pair: Pair, runtime: str, host: Host) -> Sequence[str]:
    """The beginning of `ctr run` with the pair's runtime.

    With the default runtime it names this shim; with another runtime it uses the name of
    containerd's shim, because ctr passes options only to a shim of that name.
    """
    if pair.runtime == "runc":
        return ("run", "--runtime", RUNTIME)
    os.rename(host.shim, os.path.join(host.bin, GO_SHIM))
    return ("run", "--runtime", "io.containerd.runc.v2", "--runc-binary", runtime)


@pytest.fixture
def prompt(containerd: Containerd, host: Host) -> Prompt:
    """A prompt at which containerd's clients use the pair's daemon by default."""
    env = {
        "CONTAINERD_ADDRESS": containerd.address,
        "CONTAINERD_NAMESPACE": containerd.namespace,
    }
    return Prompt(env, path=[host.bin, containerd.binaries])


@pytest.fixture(scope="session")
def _redis(_machine: None, tmp_path_factory: pytest.TempPathFactory) -> Redis:
    try:
        return make_redis(str(tmp_path_factory.mktemp("redis")))
    except ReleaseMissing as missing:
        pytest.skip(f"Debian's redis-server cannot be had: {missing}")


@pytest.fixture
def redis(_redis: Redis, host: Host) -> Redis:
    """An image of redis, and redis-cli at the prompt."""
    _redis.install_cli(host.bin)
    return _redis


@pytest.fixture(scope="session")
def _crictl() -> str:
    try:
        return os.path.join(cri_tools(), "crictl")
    except ReleaseMissing as missing:
        pytest.skip(f"crictl cannot be had: {missing}")


@pytest.fixture
def cri(
    pair: Pair, runtime: str, host: Host, image: Path, rootfs: str, _crictl: str
) -> Iterator[CriContainerd]:
    """The pair's containerd with the CRI plugin, running, with the images."""
    pause = os.path.join(host.folder, "pause.tar")
    make_image(pause, rootfs=rootfs, name=PAUSE, command=PAUSE_COMMAND)
    others = {OTHER_HANDLER: runtime} if pair.runtime != "runc" else {}
    daemon = CriContainerd(
        host.folder,
        release=find_release(pair.release),
        handlers=handlers(pair.release, {**others, **BROKEN}, host.folder),
        crictl=_crictl,
        path=host.bin,
        env=host.env,
    )
    try:
        daemon.start()
        for archive in (str(image), pause):
            daemon.ctr("image", "import", archive)
        daemon.wait_images(IMAGE, PAUSE)
        yield daemon
    finally:
        daemon.stop()


@pytest.fixture
def pods(cri: CriContainerd, pair: Pair, host: Host) -> Iterator[Pods]:
    """The pods of that daemon; those that a test leaves behind are removed with crictl."""
    made = Pods(cri, mark=host.mark, handler=HANDLER if pair.runtime == "runc" else OTHER_HANDLER)
    yield made
    made.remove_all()


@pytest.fixture
def nerdctl(containerd: Containerd, pair: Pair, runtime: str, host: Host) -> Iterator[Nerdctl]:
    """nerdctl with the pair's daemon and runtime; its containers are removed after the test.

    A runtime other than runc is named by its path; nerdctl then uses containerd's own shim.
    """
    folder = find_nerdctl()
    if not folder:
        pytest.skip("nerdctl is built with go, which is not installed")
    if pair.runtime != "runc":
        os.rename(host.shim, os.path.join(host.bin, GO_SHIM))
    words = RUNTIME if pair.runtime == "runc" else runtime
    made = Nerdctl(containerd, folder=folder, runtime=words, path=host.bin)
    yield made
    made.remove_all()
    # nerdctl leaves behind the FIFOs of each foreground `run`; their names contain the container's.
    for path in host.leaks.fifos():
        with contextlib.suppress(FileNotFoundError):  # another process has just removed it
            if all(re.match("[0-9a-f]{64}-std", name) for name in os.listdir(path)):
                shutil.rmtree(path)
