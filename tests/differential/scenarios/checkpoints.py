"""Checkpoint and restore without CRIU: refusals, and the command lines of runc."""

from protos import runc_pb2
from shimv2.shimctl.reply import OPTIONS_URL, pack
from tests.differential.programs import runtime
from tests.differential.tour import Tour

_URL = "containerd.runc.v1.CheckpointOptions"


async def checkpoint_refused(t: Tour) -> None:
    """By the state, by its options, by the runtime."""
    await t.begin()
    await t.create(options=runtime(t.host.bin, "rt", "[ $VERB = checkpoint ] && exit 4"))
    await t.do("Checkpoint", path=t.path("image"), label="Checkpoint, created")
    await t.do("Start")
    for what, packed in {
        "another type": pack("foo.Bar", b"x"),
        "another type, no value": pack("foo.Bar", b""),
        "the options of Create": pack(OPTIONS_URL, b""),
        "a prefixed URL": pack(f"type.googleapis.com/{_URL}", b""),
        "garbage": pack(_URL, b"\xff"),
        "no options": None,
    }.items():
        label = f"Checkpoint with {what}"
        await t.do("Checkpoint", path=t.path("image"), options=packed, label=label)
    await t.do("State")
    await t.do("Kill", signal=9)
    await t.do("Wait")
    await t.do("Checkpoint", path=t.path("image"), label="Checkpoint, stopped")


async def checkpoint_called(t: Tour) -> None:
    """Every option on runc's command line."""
    body = f'[ $VERB = checkpoint ] && {{ echo "$ALL" >>{t.host.bin}/calls; exit 0; }}'
    await t.begin()
    await t.run(options=runtime(t.host.bin, "rt", body))
    every = runc_pb2.CheckpointOptions(
        exit=True,
        open_tcp=True,
        external_unix_sockets=True,
        terminal=True,
        file_locks=True,
        empty_namespaces=["network", "ipc"],
        cgroups_mode="soft",
        work_path=t.path("work"),
    )
    for value in (b"", every.SerializeToString()):
        await t.do("Checkpoint", path=t.path("image"), options=pack(_URL, value))
    t.file(t.host.bin, "calls")
    await t.do("State")
    t.files()


async def restore_refused(t: Tour) -> None:
    """With a missing image: nothing happens before Start."""
    await t.begin()
    await t.create(checkpoint=t.path("image"))
    for method in ("State", "Connect", "Pause", "Resume"):
        await t.do(method)
    await t.exec("e1", "true")
    await t.do("Start")
    await t.do("State")
    await t.do("Kill", signal=9)
    await t.do("Delete")
    await t.wait_for_event("delete")
    t.events()
