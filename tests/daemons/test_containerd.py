"""Every containerd with every runtime: what a user of ctr sees."""

from collections.abc import Sequence

import pytest

from shimv2.ctl.image import IMAGE
from tests.daemons.pairs import pairs, unfit_pairs
from tests.daemons.runtimes import INSTALLED
from tests.support.containerd import Containerd

PAIRS = [
    *pairs("containerd 1.6", quick=INSTALLED),
    *pairs("containerd 1.7"),
    *pairs("containerd 2.1"),
]
pytestmark = pytest.mark.root
every_pair = pytest.mark.parametrize("pair", PAIRS, indirect=True)


@every_pair
def test_run_rm_prints_the_output_and_leaves_nothing(
    containerd: Containerd, run: Sequence[str]
) -> None:
    """`ctr run --rm` shows both streams, tells the exit status and leaves no container."""
    done = containerd.ctr(
        *run, "--rm", IMAGE, "c1", "sh", "-c", "echo out; echo err >&2; exit 3", check=False
    )

    assert (done.returncode, done.stdout, done.stderr) == (3, b"out\n", b"err\n")
    assert containerd.tasks() == {}
    assert containerd.ctr("container", "ls", "-q").stdout == b""


@pytest.mark.parametrize(
    "pair", unfit_pairs("containerd 1.6", "containerd 1.7", "containerd 2.1"), indirect=True
)
def test_pair_that_cannot_be_says_why(containerd: Containerd, run: Sequence[str]) -> None:
    """Debian 12's crun knows the specs of its own time only; the client is told in its words."""
    done = containerd.ctr(*run, "--rm", IMAGE, "c1", "true", check=False)

    assert done.returncode == 1
    assert b"unknown version specified" in done.stderr
    assert containerd.tasks() == {}
