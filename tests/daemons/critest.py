"""Kubernetes' own tests of a container runtime, with this shim and with containerd's.

    python -m tests.daemons.critest PAGE [RELEASE...]

Each containerd runs all specs once with each shim.  The page has every spec with its outcomes.  The
exit status is 1 if a spec passes with containerd's shim and fails with ours, or if it fails with
both without an explanation in critest_page.py.
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from shimv2.shimctl.image import make_image
from shimv2.shimctl.rootfs import make_rootfs
from shimv2.shimctl.testbed.releases import Release, find_release
from tests.daemons import critest_page
from tests.daemons.cri import (
    PAUSE,
    PAUSE_COMMAND,
    CriContainerd,
    config_version,
    cri_tools,
    handlers,
)
from tests.daemons.critest_images import DIGEST_IMAGE, make_images
from tests.daemons.critest_page import Outcomes
from tests.daemons.page import box
from tests.daemons.registry import READY
from tests.support.host import ROOT, Host

RELEASES: Final = ("1.7", "2.1")
_GO: Final = "go"  # the handlers of containerd's own shim and of this one
_OURS: Final = "ours"
_PORT: Final = 5000  # free: the daemon's network namespace has no other process
_LIMIT_S: Final = 1500.0
# The digest of the image that critest pulls by digest.
_DIGEST: Final = b"9700f9a2f5bf2c45f2f605a0bd3bce7cf37420ec9d3ed50ac2758413308766bf"
_HOSTS: Final = f"""server = "http://127.0.0.1:{_PORT}"
[host."http://127.0.0.1:{_PORT}"]
capabilities = ["pull", "resolve"]
"""


def main(page: str, names: list[str]) -> int:
    releases = [find_release(name) for name in names]
    hosts = [Host.make() for _ in releases]
    try:
        # Specs run at the same time, because most of their time is waiting.
        with ThreadPoolExecutor() as pool:
            runs = list(pool.map(_run_release, hosts, releases))
        wrong = [f"left behind: {what}" for host in hosts for what in _left(host)]
    finally:
        for host in hosts:
            host.leaks.remove_marked()
            host.remove()
    found = {release.version: run for release, run in zip(releases, runs, strict=True)}
    Path(page).write_text(critest_page.render(found), encoding="utf-8")
    wrong += critest_page.verdict(found)
    print(*wrong, sep="\n")
    return 1 if wrong else 0


def _left(host: Host) -> list[str]:
    """List what has the mark in its name, after some time for it to end; other tests may run on
    this machine."""
    host.leaks.since_start()
    return host.leaks.marked()


def _run_release(host: Host, release: Release) -> dict[str, Outcomes]:
    with _served(host, release) as (daemon, critest):
        shims = {critest_page.GO: _GO, critest_page.OURS: _OURS}
        return {shim: _run(daemon, critest, handler) for shim, handler in shims.items()}


def _by_path(release: Release, host: Host) -> str:
    """Return the handlers of both shims, as runtimes whose features containerd reads."""
    names = {_GO: release.shim, _OURS: host.shim}
    printed = box({2: "cri-path-v2", 3: "cri-path-v3"}[config_version(release.name)])
    return "".join(
        printed.replace("pyrunc-path", name).replace(
            "/usr/local/bin/containerd-shim-pyrunc-v2", path
        )
        for name, path in names.items()
    )


@contextlib.contextmanager
def _served(host: Host, release: Release) -> Iterator[tuple[CriContainerd, str]]:
    """Run a daemon with both handlers, a registry, and a critest with the digest of its image."""
    tools = cri_tools()
    daemon = CriContainerd(
        host.folder,
        release=release,
        handlers=handlers(release.name, {}, host.folder) + _by_path(release, host),
        crictl=os.path.join(tools, "crictl"),
        path=host.bin,
        env=host.env,
    )
    images = os.path.join(host.folder, "images")
    os.makedirs(images)
    digest = make_images(images)[DIGEST_IMAGE].removeprefix("sha256:").encode()
    critest = os.path.join(host.folder, "critest")
    program = Path(tools, "critest").read_bytes()
    assert _DIGEST in program
    Path(critest).write_bytes(program.replace(_DIGEST, digest))
    os.chmod(critest, 0o755)
    os.makedirs(os.path.join(daemon.hosts, "_default"))
    Path(daemon.hosts, "_default", "hosts.toml").write_text(_HOSTS, encoding="utf-8")
    try:
        daemon.start()
        _import_pause(daemon)
        with _registry(daemon, images):
            yield daemon, critest
            daemon.crictl("rmp", "--all", "--force")
            assert daemon.tasks() == {}
    finally:
        daemon.stop()


def _import_pause(daemon: CriContainerd) -> None:
    root = os.path.join(daemon.folder, "pause")
    make_rootfs(root)
    archive = os.path.join(daemon.folder, "pause.tar")
    make_image(archive, rootfs=root, name=PAUSE, command=PAUSE_COMMAND)
    daemon.ctr("image", "import", archive)
    daemon.wait_images(PAUSE)


@contextlib.contextmanager
def _registry(daemon: CriContainerd, images: str) -> Iterator[None]:
    command = (sys.executable, "-m", "tests.daemons.registry", images, str(_PORT))
    with subprocess.Popen(daemon.inside(*command), cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline().decode().strip() == READY
        try:
            yield
        finally:
            process.terminate()


def _run(daemon: CriContainerd, critest: str, handler: str) -> Outcomes:
    report = os.path.join(daemon.folder, f"{handler}.xml")
    command = daemon.inside(
        critest,
        f"-runtime-endpoint=unix://{daemon.address}",
        f"-image-endpoint=unix://{daemon.address}",
        f"-config={os.devnull}",
        f"-runtime-handler={handler}",
        f"-ginkgo.junit-report={report}",
        "-ginkgo.seed=1",  # the same order with both shims
        "-ginkgo.no-color",
    )
    log = os.path.join(ROOT, f".cache/critest/{daemon.release}-{handler}.log")
    os.makedirs(os.path.dirname(log), exist_ok=True)
    with open(log, "wb") as file:
        done = subprocess.run(
            command, check=False, stdout=file, stderr=file, timeout=_LIMIT_S, cwd=daemon.folder
        )
    print(f"critest: exit status {done.returncode}, see {log}", flush=True)
    return critest_page.read(Path(report).read_text(encoding="utf-8"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:] or list(RELEASES)))
