"""The shim itself: its process, groups, signals, crashes, and `delete` after them."""

import os
import shutil
import signal
from dataclasses import replace

from protos import runc_pb2
from shimv2.shimctl.reply import OPTIONS_URL, pack
from shimv2.shimctl.testbed.leaks import alive
from tests.differential.programs import runtime
from tests.differential.tour import Tour, settled

_GROUP = "io.containerd.runc.v2.group"
_SANDBOX = "io.kubernetes.cri.sandbox-id"


async def server_process(t: Tour) -> None:
    """The properties of the server process."""
    await t.begin()
    pid = t.shim_pid()
    with open(f"/proc/{pid}/cmdline", encoding="utf-8") as file:
        program, *rest = file.read().rstrip("\0").split("\0")
    t.note("program", program)
    with open(f"/proc/{pid}/comm", encoding="utf-8") as file:
        t.note("comm", file.read().strip())
    t.note("arguments", " ".join(rest))
    t.note("folder", os.readlink(f"/proc/{pid}/cwd"))
    fields = _stat(pid)
    t.note("parent", fields[1])
    t.note("group of its own", str(int(fields[2]) == pid))
    t.note("session of its own", str(int(fields[3]) == pid))
    with open("/proc/self/oom_score_adj", encoding="ascii") as file:
        ours = int(file.read())
    with open(f"/proc/{pid}/oom_score_adj", encoding="ascii") as file:
        t.note("oom_score_adj over its caller's", str(int(file.read()) - ours))
    for name in ("SigIgn", "CapEff", "NoNewPrivs", "Umask", "Groups"):
        t.note(name, _status(pid, name))
    t.note("standard input", os.readlink(f"/proc/{pid}/fd/0"))
    t.note("standard output", os.readlink(f"/proc/{pid}/fd/1"))
    t.note("standard error", os.readlink(f"/proc/{pid}/fd/2"))
    t.note("socket's mode", f"{os.stat(t.shims['c1'].reply.path).st_mode:o}")
    t.note("log", t.shims["c1"].log.decode())
    t.files()
    await t.run()
    init = t.init_pid()
    t.note("the init's parent", t.words.pid(int(_stat(init)[1]), "?"))
    with open(f"/proc/{init}/oom_score_adj", encoding="ascii") as file:
        t.note("the init's oom_score_adj over the caller's", str(int(file.read()) - ours))
    await t.end()


def _stat(pid: int) -> list[str]:
    with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
        return file.read().rpartition(")")[2].split()


def _status(pid: int, name: str) -> str:
    with open(f"/proc/{pid}/status", encoding="utf-8") as file:
        return next(line for line in file if line.startswith(f"{name}:")).strip()


async def killed_shim(t: Tour) -> None:
    """SIGKILL for the shim while its container runs: `delete` cleans up, twice."""
    await t.begin()
    await t.run()
    await t.exec("e1", "sleep", "1000")
    await t.do("Start", "e1")
    t.kill_shim(signal.SIGKILL)
    await t.do("State")
    t.note("shim", "gone" if await settled(lambda: not alive(t.shim_pid())) else "alive")
    t.note("socket before", t.socket())
    await t.delete()
    t.note("socket", t.socket())
    t.files()
    await t.delete()


async def killed_shim_of_a_stopped_container(t: Tour) -> None:
    """The exit was known to the shim."""
    await t.begin("c1", "sh", "-c", "exit 3")
    await t.run()
    await t.do("Wait")
    await t.wait_for_event("exit")
    t.kill_shim(signal.SIGKILL)
    assert await settled(lambda: not alive(t.shim_pid()))
    await t.delete()


async def terminated_shim(t: Tour) -> None:
    """SIGTERM ends the shim and not its container."""
    await t.begin()
    await t.run()
    pid = t.init_pid()
    t.kill_shim(signal.SIGTERM)
    await t.shim_ends()
    t.note("container", "alive" if alive(pid) else "dead")
    await t.delete()
    t.note("container", "alive" if alive(pid) else "dead")
    t.events()


async def interrupted_shim(t: Tour) -> None:
    """SIGINT ends an empty shim; SIGPIPE and SIGUSR1 do not."""
    await t.begin()
    for number in (signal.SIGPIPE, signal.SIGUSR1):
        t.kill_shim(number)
        await t.do("Connect")
    t.kill_shim(signal.SIGINT)
    await t.shim_ends()
    t.files()


async def killed_shim_with_a_mounted_root(t: Tour) -> None:
    await t.begin()
    await t.create()
    t.kill_shim(signal.SIGKILL)
    assert await settled(lambda: not alive(t.shim_pid()))
    await t.delete()
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        left = [line for line in file if t.harness.bundle("c1").path in line]
    t.note("mounts", str(len(left)))


async def start_twice(t: Tour) -> None:
    """The second `start` of an id joins the first."""
    await t.begin()
    first = t.shims["c1"].reply
    second = await t.harness.binary.start(t.harness.bundle("c1"))
    t.note("same reply", str(first == second))
    await t.do("Connect")
    await t.do("Shutdown")
    await t.shim_ends()


async def stale_socket(t: Tour) -> None:
    """A socket file without a listener is replaced."""
    await t.begin()
    path = t.shims["c1"].reply.path
    t.kill_shim(signal.SIGKILL)
    assert await settled(lambda: not alive(t.shim_pid()))
    t.note("left", str(os.path.exists(path)))
    again = await t.harness.binary.start(t.harness.bundle("c1"))
    t.note("same address", str(again.path == path))
    await t.shims["c1"].disconnect()
    await t.shim()
    await t.do("Connect")
    await t.do("Shutdown")
    await t.shim_ends()


async def pod(t: Tour) -> None:
    """Three containers of one sandbox in one shim; the sandbox is the first."""
    await t.begin("c1", annotations={_SANDBOX: "c1"})
    await t.run()
    for id in ("c2", "c3"):
        t.bundle(id, annotations={_SANDBOX: "c1"})
        reply = await t.harness.binary.start(t.harness.bundle(id))
        t.note(f"{id} joins", str(reply.path == t.shims["c1"].reply.path))
        await t.do("Connect", id=id)
        await t.run(id)
        await t.do("State", id=id)
    await t.exec("e1", "sleep", "1000", id="c2")
    await t.do("Start", "e1", id="c2")
    await t.do("State", "e1", id="c3")
    await t.do("Shutdown")
    await t.do("Kill", id="c2", signal=9)
    await t.do("Wait", id="c2")
    await t.do("Wait", "e1", id="c2")
    await t.do("State", id="c3")
    await t.do("Delete", id="c2")
    await t.do("Shutdown", id="c2")
    await t.delete("c2")
    t.files("c2")
    await t.do("State", id="c3")
    await t.do("State", id="c2")
    await t.do("Kill", signal=9)
    await t.do("Wait")
    await t.do("Delete")
    await t.do("Shutdown")
    await t.do("Kill", id="c3", signal=9)
    await t.do("Wait", id="c3")
    await t.do("Delete", id="c3")
    await t.wait_for_event("delete", "c3")
    await t.do("Shutdown", id="c3")
    await t.shim_ends()
    for id in ("c1", "c2", "c3"):
        t.events(id)
    for id in ("c1", "c3"):
        await t.delete(id)


async def groups(t: Tour) -> None:
    """The annotations of a group, and a group whose id is no container."""
    kinds = {
        "c1": {_GROUP: "g"},
        "c2": {_GROUP: "g", _SANDBOX: "other"},
        "c3": {_SANDBOX: "g"},
        "c4": {_GROUP: "", _SANDBOX: "g"},
        "c5": {_GROUP: ""},
        "c6": {},
    }
    first: dict[str, str] = {}
    for id, annotations in kinds.items():
        t.bundle(id, annotations=annotations)
        reply = await t.harness.binary.start(t.harness.bundle(id))
        t.sockets.add(reply.path)
        t.note(f"shim of {id}", f"the one of {first.setdefault(reply.path, id)}")
    for id in first.values():
        await t.shim(id)
        await t.do("Shutdown", id=id, on=id)
        await t.shim_ends(id)


async def events_of_one_life(t: Tour) -> None:
    """Every field of every event."""
    await t.begin()
    stdio = t.read()
    await t.run(stdio=stdio)
    await t.do("Pause")
    await t.do("Resume")
    await t.exec("e1", "sh", "-c", "exit 9")
    await t.do("Start", "e1")
    await t.do("Wait", "e1")
    await t.wait_for_event("exit", "e1")
    await t.do("Delete", "e1")
    await t.end()
    first = t.harness.sink.events[0]
    t.note("namespace", f"{first.namespace} {first.metadata} {first.type_url}")
    t.events()


async def out_of_memory(t: Tour) -> None:
    await t.begin("c1", "sh", "-c", "x=x; while :; do x=$x$x; done", memory_limit_bytes=16 << 20)
    await t.run()
    await t.do("Wait")
    await t.wait_for_event("oom")
    await t.wait_for_event("exit")
    await t.do("Delete")
    await t.wait_for_event("delete")
    t.events(once="oom", in_order=False)  # 1.7 and 2.1 publish it before or after the exit


async def shim_cgroup(t: Tour) -> None:
    """The shim is moved to the cgroup in its options."""
    asked = runc_pb2.Options(shim_cgroup=f"/{t.host.mark}/shim")
    for controller in os.listdir("/sys/fs/cgroup"):
        _make_cgroup(f"/sys/fs/cgroup/{controller}", t.host.mark, "shim")
    t.bundle()
    await t.shim("c1", pack(OPTIONS_URL, asked.SerializeToString()))
    with open(f"/proc/{t.shim_pid()}/cgroup", encoding="ascii") as file:
        t.note("cgroups", "\n".join(line.split(":", 1)[1].strip() for line in file))
    for number, wrong in enumerate((f"/{t.host.mark}/none", "relative")):
        id = f"c{number + 2}"
        bundle = t.harness.bundle(id)
        t.bundle(id)
        options = pack(OPTIONS_URL, runc_pb2.Options(shim_cgroup=wrong).SerializeToString())
        outcome = await t.harness.binary.run(
            ["-id", id, "start"],
            cwd=bundle.path,
            stdin=options.SerializeToString(),
            combined=True,
            limit_s=10,
        )
        t.note(f"start with {wrong}", f"rc={outcome[0]} {outcome[1].decode()}")


def _make_cgroup(top: str, *names: str) -> None:
    """Make nested cgroups; a v1 cpuset accepts no process before it has processors and memory."""
    for name in names if os.path.exists(f"{top}/cgroup.procs") else ():
        above, top = top, f"{top}/{name}"
        os.mkdir(top)
        for file in ("cpuset.cpus", "cpuset.mems"):
            if os.path.exists(f"{top}/{file}"):
                shutil.copyfile(f"{above}/{file}", f"{top}/{file}")


async def no_events_address(t: Tour) -> None:
    """A shim without the address of a daemon drops its events."""
    t.harness.binary = replace(t.harness.binary, ttrpc_address="")
    await t.begin()
    await t.run()
    await t.end()


async def many_short_lives(t: Tour) -> None:
    """`true`, ten times: the order of its events never changes."""
    await t.begin("c0", "true")
    t.shims["c1"] = t.shims["c0"]
    for number in range(10):
        id = f"d{number}"
        t.bundle(id, "true")
        await t.create(id, label="Create")
        await t.do("Start", id=id, label="Start")
        await t.do("Wait", id=id, label="Wait")
        await t.do("Delete", id=id, label="Delete")
        await t.wait_for_event("delete", id)
        t.note("order", " ".join(word.split()[0] for word in t.harness.sink.events_of(id)))


async def env_for_the_runtime(t: Tour) -> None:
    """Variables of a service manager for the daemon must not reach runc."""
    env = {**t.harness.binary.env, "NOTIFY_SOCKET": "/x", "FOO": "bar baz"}
    t.harness.binary = replace(t.harness.binary, env=env)
    names = "NOTIFY_SOCKET|FOO|GOMAXPROCS|OTEL_SERVICE_NAME|TTRPC_ADDRESS|NAMESPACE"
    body = f"env | grep -E '^({names})=' | sort >{t.host.bin}/env"
    await t.begin()
    await t.create(options=runtime(t.host.bin, "rt", body))
    t.file(t.host.bin, "env")
