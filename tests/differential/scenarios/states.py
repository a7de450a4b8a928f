"""Every verb in every state of an init; unknown ids."""

import signal
from typing import Any

from protos import runc_pb2
from shimv2.shimctl.reply import pack
from shimv2.shimctl.task import RESOURCES_URL
from tests.differential.tour import Tour

_EACH = (
    "State",
    "Start",
    "Delete",
    "Pids",
    "Pause",
    "Resume",
    "ResizePty",
    "CloseIO",
    "Wait",
    "Stats",
)


def _resources(text: str, url: str = RESOURCES_URL) -> dict[str, Any]:
    return {"resources": pack(url, text.encode())}


async def empty_shim(t: Tour) -> None:
    """Calls to a shim without a container."""
    await t.begin()
    for method in (*_EACH, "Connect"):
        await t.do(method)
    await t.do("Kill", signal=9)
    await t.do("Update", **_resources("{}"))
    await t.exec("e1", "true")
    await t.do("State", id="")
    await t.do("State", "e1")
    await t.do("Create", bundle=t.path("nowhere"), label="Create, no bundle")
    await t.do("Create", id="", bundle=t.path("nowhere"), label="Create, no bundle and no id")
    await t.do("Shutdown")
    await t.shim_ends()
    t.files()
    t.events()


async def created(t: Tour) -> None:
    """An init that was created, killed and deleted, and never started."""
    await t.begin()
    await t.create()
    t.phase = "created"
    for method in ("State", "Connect", "Pids", "Stats", "Pause", "Resume"):
        await t.do(method)
    await t.do("ResizePty", width=10, height=20)
    await t.do("CloseIO")
    await t.do("Update", **_resources('{"pids": {"limit": 77}}'))
    waiting = await t.waiting()
    await t.do("Shutdown")
    await t.do("Kill", signal=0)
    await t.do("Kill", signal=15)
    await t.answer(waiting, "Wait that was there before")
    t.phase = "killed"
    await t.do("State")
    await t.do("Kill", signal=9)
    await t.do("Start")
    await t.wait_for_event("exit")
    await t.leave()
    t.phase = "deleted"
    t.events()


async def never_started(t: Tour) -> None:
    await t.begin()
    await t.create()
    await t.do("Delete")
    await t.wait_for_event("exit")
    await t.wait_for_event("delete")
    t.events(in_order=False)
    await t.do("Shutdown")
    await t.shim_ends()
    await t.delete()


async def running(t: Tour) -> None:
    await t.begin()
    await t.run()
    t.phase = "running"
    for method in ("State", "Connect", "Pids", "Stats", "Start", "Delete", "Resume", "Shutdown"):
        await t.do(method)
    await t.do("ResizePty", width=10, height=20)
    await t.do("CloseIO")
    await t.do("CloseIO", stdin=True)
    await t.create(label="Create the same id")
    await t.do("State")
    for number in (0, 64, 65, 9999, 2**32 - 1):
        await t.do("Kill", signal=number)
    await t.do("State")
    await t.do("Wait", limit_s=1.0)
    await t.end()
    t.events()


async def update(t: Tour) -> None:
    await t.begin()
    await t.run()
    for text in (
        "{bad",
        "{}",
        "null",
        "[]",
        '"text"',
        "",
        '{"memory": {"limit": "much"}}',
        '{"memory": {"limit": 1.5}}',
        '{"pids": []}',
        '{"pids": {"limit": 55}}',
        '{"unknown": {"x": 1}}',
        '{"cpu": {"cpus": "999"}}',
        '{"CPU": {"Shares": 512}}',
        '{"hugepageLimits": [{"pageSize": 3}]}',
    ):
        await t.do("Update", **_resources(text), label=f"Update {text}")
    await t.do("Update", **_resources('{"pids": {"limit": 56}}', "foo.Bar"), label="another URL")
    await t.do("Update", **_resources("{}"), annotations={"a": "b"}, label="with annotations")
    await t.end()


async def paused(t: Tour) -> None:
    await t.begin()
    await t.run()
    await t.exec("e1", "sleep", "1000")
    await t.do("Start", "e1")
    await t.exec("e2", "true")
    await t.do("Pause")
    t.phase = "paused"
    for method in ("State", "Start", "Delete", "Pause", "Pids", "Stats", "Connect", "Shutdown"):
        await t.do(method)
    await t.do("State", "e1")
    await t.do("State", "e2")
    await t.exec("e3", "true")
    await t.do("State", "e3")
    await t.do("Start", "e2", limit_s=5.0)
    await t.do("ResizePty", width=1, height=1)
    await t.do("Update", **_resources("{}"))
    await t.do("Resume")
    t.phase = "resumed"
    await t.do("State")
    await t.do("Resume")
    await t.do("Pause", label="Pause again")
    await t.end()
    t.events()


async def stopped(t: Tour) -> None:
    await t.begin("c1", "sh", "-c", "exit 3")
    await t.run()
    await t.do("Wait")
    t.phase = "stopped"
    for method in ("State", "Start", "Pause", "Resume", "Connect", "Wait", "Shutdown", "Pids"):
        await t.do(method)
    await t.do("ResizePty", width=1, height=1)
    await t.do("CloseIO", stdin=True)
    await t.do("Update", **_resources("{}"))
    await t.exec("e1", "true")
    await t.do("State", "e1")
    for number in (0, 9, 65):
        await t.do("Kill", signal=number)
    await t.do("Kill", signal=9, all=True)
    await t.wait_for_event("exit")
    await t.do("Delete")
    t.phase = "deleted"
    for method in (*_EACH, "Connect"):
        await t.do(method)
    await t.do("Kill", signal=9)
    await t.wait_for_event("delete")
    t.events()
    await t.do("Shutdown")
    await t.shim_ends()
    t.files()


async def kill_all(t: Tour) -> None:
    """`all` reaches the children of an init with a pid namespace of its own."""
    await t.begin("c1", "sh", "-c", "trap '' TERM; sleep 1000 & echo ready; wait")
    await t.run(stdio=t.read())
    await t.output("ready")
    await t.do("Kill", signal=0, all=True)
    await t.do("Kill", signal=int(signal.SIGKILL), all=True)
    await t.do("Wait")
    await t.do("Kill", signal=9, all=True)
    await t.leave()


async def several_waiters(t: Tour) -> None:
    await t.begin()
    await t.run()
    waits = [await t.waiting() for _ in range(3)]
    await t.do("Kill", signal=15)  # it does not kill pid 1 of a namespace
    await t.do("State")
    await t.do("Kill", signal=9)
    for wait in waits:
        await t.answer(wait, "Wait")
    deletes = [t.soon("Delete"), t.soon("Delete")]
    answers = sorted([await call for call in deletes])
    t.note("two Deletes at once", " and ".join(answers))
    await t.wait_for_event("delete")
    t.events()


async def waiting_when_deleted(t: Tour) -> None:
    """A Wait for a process that is deleted before its Start."""
    await t.begin()
    await t.create()
    waiting = await t.waiting()
    await t.exec("e1", "true")
    of_exec = await t.waiting("e1")
    await t.do("Delete", "e1")
    await t.answer(of_exec, "Wait of the exec")
    await t.do("Delete")
    await t.answer(waiting, "Wait of the init")


async def update_without_resources(t: Tour) -> None:
    await t.begin()
    await t.run()
    await t.do("Update")
    await t.do("State")


async def options_of_another_type(t: Tour) -> None:
    await t.begin()
    await t.create(
        options=pack(
            "containerd.runc.v1.CheckpointOptions",
            runc_pb2.CheckpointOptions(exit=True).SerializeToString(),
        )
    )
    await t.do("Connect")
