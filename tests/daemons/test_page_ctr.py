"""docs/daemons.md: the boxes for containerd and ctr."""

import os
from pathlib import Path

import pytest

from shimv2.shimctl.testbed.containerd import Containerd
from shimv2.shimctl.testbed.releases import GO_SHIM
from shimv2.shimctl.testbed.until import until
from tests.daemons.page import box
from tests.daemons.pairs import pairs
from tests.daemons.prompt import Prompt
from tests.support.host import Host

pytestmark = pytest.mark.root
OPTIONS = "/etc/containerd/crun.toml"
BINARY = "/usr/bin/crun"
MISSING = "/no/such/crun"
with_crun = pytest.mark.parametrize(
    "pair",
    [
        *pairs("containerd 1.6", quick=("crun",), runtimes=("crun",)),
        *pairs("containerd 1.7", runtimes=("crun-sid",)),
        *pairs("containerd 2.1", runtimes=("crun-sid",)),
    ],
    indirect=True,
)


@pytest.mark.parametrize(
    "pair", pairs("containerd 1.6", quick=("runc",), runtimes=("runc",)), indirect=True
)
def test_output_of_a_container_in_a_file(
    containerd: Containerd, prompt: Prompt, host: Host
) -> None:
    """`--log-uri`: the file has what the container wrote."""
    log = Path(host.folder, "web.log")

    prompt.run(box("ctr-log", instead={"/var/log/web.log": str(log)}))

    containerd.wait_status("web", "STOPPED")
    until(lambda: log.read_text() == "hello\n", "the file to have the output")
    assert containerd.remove_task("web") == 0


@with_crun
@pytest.mark.ours("the Go shim does not read it")
def test_another_runtime_by_a_file_of_options(prompt: Prompt, host: Host, runtime: str) -> None:
    """`--runtime-config-path`: the runtime that the file names is called, and no other."""
    options = Path(host.folder, "crun.toml")
    line = box("ctr-options", instead={OPTIONS: str(options)})

    options.write_text(box("crun.toml", instead={OPTIONS: str(options), BINARY: runtime}))
    done = prompt.run(line)
    options.write_text(box("crun.toml", instead={OPTIONS: str(options), BINARY: MISSING}))
    refused = prompt.run(line, check=False)

    assert done.stdout == "hello\n"
    assert (refused.returncode, MISSING in refused.stderr) == (1, True)


@with_crun
def test_another_runtime_in_the_place_of_containerds_own_shim(
    prompt: Prompt, host: Host, runtime: str
) -> None:
    """`--runc-binary`, under the name that ctr knows: that runtime, and no other."""
    os.rename(host.shim, os.path.join(host.bin, GO_SHIM))

    done = prompt.run(box("ctr-drop-in", instead={BINARY: runtime}))
    refused = prompt.run(box("ctr-drop-in", instead={BINARY: MISSING}), check=False)

    assert done.stdout == "hello\n"
    assert (refused.returncode, MISSING in refused.stderr) == (1, True)
