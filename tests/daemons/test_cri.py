"""Kubernetes' interface, with every containerd and every runtime: pods and their containers."""

import os
import signal

import pytest

from shimv2.shimctl.testbed.leaks import alive
from shimv2.shimctl.testbed.until import until
from tests.daemons.cri import SUBNET
from tests.daemons.pairs import pairs
from tests.daemons.pods import NODE, POD, Pods

PAIRS = [*pairs("CRI 1.6"), *pairs("CRI 1.7"), *pairs("CRI 2.1")]
pytestmark = [pytest.mark.root, pytest.mark.parametrize("pair", PAIRS, indirect=True)]

MIB = 1024 * 1024
SLEEP = ("sleep", "1000")


def namespace(pid: int, kind: str) -> str:
    return os.readlink(f"/proc/{pid}/ns/{kind}")


def parent(pid: int) -> int:
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        return int(file.read().rpartition(")")[2].split()[1])


def fetched(pods: Pods, container: str, host: str) -> bytes:
    return pods.exec(container, "wget", "-qO-", f"http://{host}/i").stdout


def test_containers_of_a_pod_share_its_namespaces_and_its_shim(pods: Pods) -> None:
    """Network, IPC and UTS namespaces belong to the pod, mount and pid namespaces to each
    container."""
    pod = pods.run("web")
    server = pods.start(pod, "server", "sh", "-c", "echo hi >/tmp/i; exec httpd -f -h /tmp")
    client = pods.start(pod, "client", *SLEEP)
    one, two = pods.pid(server), pods.pid(client)
    address = pods.daemon.ask("inspectp", pod.id)["status"]["network"]["ip"]

    assert [namespace(one, kind) == namespace(two, kind) for kind in ("net", "ipc", "uts")] == [
        True
    ] * 3
    assert [namespace(one, kind) == namespace(two, kind) for kind in ("mnt", "pid")] == [False] * 2
    assert parent(one) == parent(two) == parent(pods.pid_of_pod(pod))
    assert pods.exec(client, "hostname").stdout == b"web\n"
    assert address.startswith(f"{SUBNET}.")
    until(lambda: fetched(pods, client, "127.0.0.1") == b"hi\n", "the server to answer")
    assert fetched(pods, client, address) == b"hi\n"
    shim = parent(one)
    pods.remove(pod)
    until(lambda: not alive(shim), "the shim to end")


def test_shared_pid_namespace(pods: Pods) -> None:
    """With shareProcessNamespace a container sees the others, and can signal them."""
    pod = pods.run(pid=POD)
    victim = pods.start(pod, "victim", "httpd", "-f")
    other = pods.start(pod, "other", *SLEEP)

    assert namespace(pods.pid(victim), "pid") == namespace(pods.pid(other), "pid")
    assert pods.exec(other, "killall", "-9", "httpd").returncode == 0
    assert pods.exited(victim)["exitCode"] == 137
    assert pods.status(other)["state"] == "CONTAINER_RUNNING"
    pods.remove(pod)


def test_namespaces_of_the_node(pods: Pods) -> None:
    """With hostNetwork and hostPID a container has the namespaces of its daemon."""
    pod = pods.run(pid=NODE, network=NODE)
    container = pods.start(pod, "c", "sh", "-c", "sleep 1000 & sleep 1001")
    init = pods.pid(container)

    assert namespace(init, "net") == namespace(pods.daemon.pid, "net")
    assert namespace(init, "pid") == namespace(os.getpid(), "pid")
    assert pods.exec(container, "kill", "-0", str(init)).returncode == 0

    # There no process of the container is pid 1: the shim has to find the remaining children.
    pods.daemon.crictl("stop", "--timeout", "1", container)
    assert pods.status(container)["state"] == "CONTAINER_EXITED"
    pods.remove(pod)


def test_update_changes_the_limits_of_a_running_container(pods: Pods) -> None:
    """`crictl update` reaches the cgroup."""
    pod = pods.run()
    container = pods.start(pod, "c", *SLEEP, memory_bytes=64 * MIB)
    assert pods.memory_limit_bytes(container) == 64 * MIB

    pods.daemon.crictl("update", "--memory", str(32 * MIB), container)

    assert pods.memory_limit_bytes(container) == 32 * MIB
    pods.remove(pod)


def test_stats_of_containers_and_pods(pods: Pods) -> None:
    """The figures that a kubelet reads every ten seconds: memory and CPU time."""
    pod = pods.run()
    container = pods.start(pod, "c", "sh", "-c", "i=0; while :; do i=$((i+1)); done")

    def used() -> bool:
        (found,) = pods.daemon.ask("stats", "-o", "json", container)["stats"]
        cpu = int(found["cpu"]["usageCoreNanoSeconds"]["value"])
        return cpu > 0 and int(found["memory"]["workingSetBytes"]["value"]) > 0

    until(used, "CPU time and memory to be reported")
    (of_pod,) = pods.daemon.ask("statsp", "-o", "json", pod.id)["stats"]
    assert int(of_pod["linux"]["memory"]["workingSetBytes"]["value"]) > 0
    assert int(of_pod["linux"]["network"]["defaultInterface"]["rxBytes"]["value"]) >= 0
    pods.remove(pod)


def test_out_of_memory_is_the_reason_of_the_exit(pods: Pods) -> None:
    """A container beyond its limit is reported as OOMKilled; the others of its pod continue."""
    pod = pods.run()
    other = pods.start(pod, "other", *SLEEP)
    container = pods.start(pod, "c", "sh", "-c", "exec tail /dev/zero", memory_bytes=16 * MIB)

    status = pods.exited(container)

    assert (status["exitCode"], status["reason"]) == (137, "OOMKilled")
    assert pods.status(other)["state"] == "CONTAINER_RUNNING"
    pods.remove(pod)


@pytest.mark.parametrize(
    ("script", "status"),
    [("trap 'exit 7' TERM; while :; do sleep 0.1; done", 7), ("trap '' TERM; sleep 1000", 137)],
    ids=["heeds TERM", "ignores TERM"],
)
def test_stop_gives_a_container_time(pods: Pods, script: str, status: int) -> None:
    """SIGTERM first, and SIGKILL after the timeout."""
    pod = pods.run()
    container = pods.start(pod, "c", "sh", "-c", f"echo ready; {script}")
    until(lambda: pods.log(container).stdout == b"ready\n", "the container to be ready")

    pods.daemon.crictl("stop", "--timeout", "10" if status == 7 else "1", container)

    assert pods.exited(container)["exitCode"] == status
    pods.remove(pod)


def test_removal_of_a_pod_with_many_running_containers(pods: Pods) -> None:
    """One call ends and removes them all, in one shim, and nothing is left."""
    pod = pods.run()
    containers = [pods.start(pod, f"c{number}", *SLEEP) for number in range(8)]
    pids = [pods.pid(container) for container in containers]

    pods.daemon.crictl("rmp", "--force", pod.id)

    assert [pid for pid in pids if alive(pid)] == []
    assert pods.daemon.ask("ps", "-a", "-o", "json")["containers"] == []


def test_daemon_that_is_killed_finds_its_pods_again(pods: Pods) -> None:
    """Running containers continue, exited ones have their own statuses, and all can be removed."""
    pod = pods.run()
    lives = pods.start(pod, "lives", *SLEEP)
    script = "trap 'exit 9' TERM; echo ready; while :; do sleep 0.1; done"
    ends = pods.start(pod, "ends", "sh", "-c", script)
    until(lambda: pods.log(ends).stdout == b"ready\n", "the trap to be set")
    pid, ending = pods.pid(lives), pods.pid(ends)

    pods.daemon.stop(signal.SIGKILL)
    os.kill(ending, signal.SIGTERM)
    until(lambda: not alive(ending), "the container to end")
    pods.daemon.start()

    assert pods.pid(lives) == pid
    assert pods.exec(lives, "echo", "still here").stdout == b"still here\n"
    assert pods.exited(ends)["exitCode"] == 9
    later = pods.start(pod, "later", "sh", "-c", "exit 5")
    assert pods.exited(later)["exitCode"] == 5
    pods.remove(pod)


@pytest.mark.ours("options for a runtime that containerd does not know")
@pytest.mark.parametrize(
    ("handler", "text"),
    [
        ("missing", "/no/such/runtime: no such file or directory"),
        ("failing", "OCI runtime create failed"),
        ("nobody", 'no runtime for "nobody" is configured'),
    ],
    ids=["missing", "failing", "unknown"],
)
def test_handler_that_cannot_work_is_named(pods: Pods, handler: str, text: str) -> None:
    """A pod with it is refused with a text that shows the mistake; other pods work."""
    config = pods.pod_config("refused")

    done = pods.daemon.crictl("runp", "-r", handler, config, check=False)

    assert done.returncode != 0
    assert text in done.stderr.decode().replace("\\", "")
    assert pods.daemon.ask("pods", "-o", "json")["items"] == []
    pod = pods.run()
    assert pods.exited(pods.start(pod, "c", "true"))["exitCode"] == 0
    pods.remove(pod)


def test_command_that_is_not_there(pods: Pods) -> None:
    """The kubelet shows the runtime's error text; the container can be removed, and the pod
    continues."""
    pod = pods.run()
    container = pods.create(pod, "c", "/no/such/command")

    done = pods.daemon.crictl("start", container, check=False)

    assert done.returncode != 0
    assert b"no such file or directory" in done.stderr.lower()
    status = pods.status(container)
    assert (status["exitCode"], status["reason"]) == (128, "StartError")
    pods.daemon.crictl("rm", container)
    assert pods.exited(pods.start(pod, "next", "true"))["exitCode"] == 0
    pods.remove(pod)
