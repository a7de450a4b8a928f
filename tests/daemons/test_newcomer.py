"""README.md: the first commands of a new user, read from the page."""

from pathlib import Path

import pytest

from shimv2.shimctl.testbed.containerd import Containerd
from shimv2.shimctl.testbed.until import until
from tests.daemons.cri import CriContainerd, cri_tools
from tests.daemons.nerdctl import Nerdctl
from tests.daemons.page import box
from tests.daemons.pairs import pairs
from tests.daemons.prompt import Prompt
from tests.daemons.redis import IMAGE, Redis, try_redis
from tests.support.host import RUNTIME, Host

pytestmark = pytest.mark.root
README = "README.md"
CRI = ("CRI 1.6", "CRI 1.7", "CRI 2.1")
NERDCTL = ("nerdctl 1.6", "nerdctl 1.7", "nerdctl 2.1")
CTR = pytest.mark.parametrize(
    "pair",
    [
        *pairs("containerd 1.6", quick=("runc",), runtimes=("runc",)),
        *pairs("containerd 1.7", runtimes=("runc",)),
        *pairs("containerd 2.1", runtimes=("runc",)),
    ],
    indirect=True,
)


@CTR
def test_redis_by_ctr_at_the_terminal(containerd: Containerd, prompt: Prompt, redis: Redis) -> None:
    """It reports ready, answers on the host's network, and ends at Ctrl-C."""
    images, run = box("ctr-redis", page=README).splitlines()
    containerd.ctr("image", "import", redis.archive)

    assert IMAGE in prompt.run(images).stdout
    with prompt.terminal(run) as person:
        person.expect(b"Ready to accept connections")
        assert prompt.run("redis-cli ping").stdout == "PONG\n"
        person.type(b"\x03")
        person.rest()  # not checked: clients lose the end now and then, with any shim
        assert person.wait() == 0

    assert prompt.run("redis-cli ping", check=False).returncode != 0
    assert prompt.run("ctr container list --quiet").stdout == ""


@CTR
def test_redis_by_ctr_in_the_background(
    containerd: Containerd, prompt: Prompt, redis: Redis
) -> None:
    """It answers, is listed, accepts execs, and does not answer once it is killed."""
    lines = box("ctr-redis-detached", page=README).splitlines()
    run, ping, tasks, shell, kill, *remove = lines
    containerd.ctr("image", "import", redis.archive)

    prompt.run(run)
    until(redis.answers, "redis to answer")
    assert prompt.run(ping).stdout == "PONG\n"
    assert prompt.run(tasks).stdout.splitlines()[1].split()[::2] == ["redis", "RUNNING"]
    assert prompt.run(shell).stdout.startswith("redis-cli 7.")
    assert RUNTIME in prompt.run("ctr container info redis").stdout
    prompt.run(kill)
    containerd.wait_status("redis", "STOPPED")
    assert prompt.run(ping, check=False).returncode != 0
    for line in remove:
        prompt.run(line)

    assert prompt.run("ctr container list --quiet").stdout == ""


@pytest.mark.parametrize(
    "pair",
    [pair for daemon in NERDCTL for pair in pairs(daemon, runtimes=("runc",))],
    indirect=True,
)
def test_redis_by_nerdctl(containerd: Containerd, nerdctl: Nerdctl, redis: Redis) -> None:
    """At the terminal, and in the background with its log."""
    containerd.ctr("image", "import", redis.archive)

    try_redis(nerdctl, redis, box("nerdctl-redis"))

    assert nerdctl("ps", "--all", "--quiet").stdout == ""


@pytest.mark.parametrize(
    "pair", [pair for daemon in CRI for pair in pairs(daemon, runtimes=("runc",))], indirect=True
)
def test_redis_by_crictl(cri: CriContainerd, host: Host, redis: Redis) -> None:
    """A pod with the node's network: it answers there, logs, accepts execs and is stopped."""
    run, ping, listed, logs, shell, stop, remove = box("crictl-redis").splitlines()
    prompt = at_node(cri, host)
    cri.ctr("image", "import", redis.archive)
    cri.wait_images(IMAGE)

    prompt.run(run)
    until(lambda: prompt.run(ping, check=False).stdout == "PONG\n", "redis to answer")
    assert "Running" in prompt.run(listed).stdout.splitlines()[1]
    assert "Ready to accept connections" in prompt.run(logs).stdout
    assert prompt.run(shell).stdout.startswith("redis-cli 7.")
    assert RUNTIME in cri.ctr("container", "list").stdout.decode()
    prompt.run(stop)
    assert prompt.run(ping, check=False).returncode != 0
    prompt.run(remove)

    assert (cri.tasks(), prompt.run("crictl pods --quiet").stdout) == ({}, "")


def at_node(cri: CriContainerd, host: Host) -> Prompt:
    """A prompt in the daemon's network namespace, in a folder with the files for crictl."""
    instead = {"/var/log/pods/redis": f"{host.folder}/logs", "/kubepods": f"/{host.mark}"}
    Path(host.folder, "pod.json").write_text(box("pod.json", instead=instead))
    Path(host.folder, "container.json").write_text(box("container.json"))
    config = Path(host.folder, "crictl.yaml")
    config.write_text(f"runtime-endpoint: unix://{cri.address}\ntimeout: 120\n")
    within = cri.inside("env", f"--chdir={host.folder}")
    env = {"CRI_CONFIG_FILE": str(config)}
    return Prompt(env, path=[host.bin, cri_tools()], within=within)
