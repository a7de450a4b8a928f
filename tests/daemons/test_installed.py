"""README.md: `make install`, then a container by the shim that was installed, then uninstall."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from shimv2.shimctl.testbed.containerd import Containerd
from shimv2.shimctl.testbed.until import until
from shimv2.shimctl.testbed.zygotes import end_zygotes
from tests.daemons.page import box
from tests.daemons.pairs import pairs
from tests.daemons.prompt import Prompt
from tests.daemons.redis import Redis
from tests.support.host import NAME, ROOT, Host

pytestmark = [pytest.mark.root, pytest.mark.matrix]
README = "README.md"
_LIMIT_S = 300.0  # for a virtual environment with packages from PyPI


@pytest.fixture
def prefix(host: Host) -> Iterator[str]:
    """The prefix of the installation, on containerd's PATH; at the end nothing is left in it."""
    folder = os.path.join(host.folder, "local")
    prompt = Prompt({}, path=[], within=("env", f"--chdir={ROOT}"))
    line = box("install", page=README, instead={"sudo make install": "make install"})
    prompt.run(f"PREFIX={folder} {line}", timeout_s=_LIMIT_S)
    os.unlink(host.shim)
    os.symlink(os.path.join(folder, "bin", NAME), host.shim)
    yield folder
    end_zygotes(Path(host.shim).resolve())
    prompt.run(f"make uninstall PREFIX={folder}")
    assert [name for _, _, names in os.walk(folder) for name in names] == []


@pytest.mark.timeout(600)
@pytest.mark.ours("it is not the installed shim")
@pytest.mark.parametrize("pair", pairs("containerd 1.6", runtimes=("runc",)), indirect=True)
def test_installed_shim_runs_redis(
    prefix: str, containerd: Containerd, prompt: Prompt, redis: Redis
) -> None:
    """containerd's PATH has the installed copy, not the tree."""
    run, _, _, _, kill, *remove = box("ctr-redis-detached", page=README).splitlines()
    containerd.ctr("image", "import", redis.archive)

    prompt.run(run)
    until(redis.answers, "redis to answer")
    shim = containerd.shim_pid("redis")
    assert f"{prefix}/lib/containerd-shim-pyrunc/build-" in Path(f"/proc/{shim}/maps").read_text()
    prompt.run(kill)
    containerd.wait_status("redis", "STOPPED")
    for line in remove:
        prompt.run(line)
