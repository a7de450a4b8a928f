"""Creates that are refused, with their leftovers, and unusual ones that succeed."""

import os

from protos import runc_pb2, runtimeoptions_pb2, types_pb2
from shimv2.shimctl.bundle import mounts_below
from shimv2.shimctl.reply import OPTIONS_URL, pack
from shimv2.values.model import Stdio
from tests.differential.tour import Tour

_COMMANDS = {
    "missing": ["/bin/nosuch"],
    "missing in PATH": ["nosuch"],
    "a directory": ["/etc"],
    "nothing": [],
}


async def programs_that_cannot_be_run(t: Tour) -> None:
    for number, (what, args) in enumerate(_COMMANDS.items(), 1):
        t.phase = what
        t.bundle(f"c{number}", process={"args": args})
        if number == 1:
            await t.shim()
        await t.create(f"c{number}", label="Create")
        await t.do("State", id=f"c{number}", label="State")
        await t.do("Delete", id=f"c{number}", label="Delete")
        await t.create(f"c{number}", label="Create again")
        t.events(f"c{number}")
        t.files(f"c{number}")
    t.phase = ""
    await t.do("Shutdown")
    await t.shim_ends()
    await t.delete()


async def bad_bundles(t: Tour) -> None:
    await t.begin()
    for id, text in {"c2": "{bad", "c3": "", "c4": "{}", "c5": "[]", "c6": None}.items():
        path = os.path.join(t.bundle(id), "config.json")
        os.unlink(path)
        if text is not None:
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)
        await t.create(id)
        await t.do("State", id=id)
        t.files(id)
    for id in ("", "a/b", "..", "ä"):
        await t.create(id, bundle=t.harness.bundle("c1").path, rootfs=[], label=f"Create id {id!r}")
    await t.create("c7", bundle="", rootfs=[], label="Create without a bundle's files")
    await t.do("Create", label="Create without a bundle")
    await t.do("Connect")


async def created_in_a_relative_bundle(t: Tour) -> None:
    await t.begin()
    await t.create(
        bundle="../c1",
        rootfs=[
            types_pb2.Mount(type="bind", source=t.harness.setup.rootfs, options=["rbind", "ro"])
        ],
    )
    await t.do("State")
    await t.do("Start")
    await t.do("State")


async def options(t: Tour) -> None:
    """The runtime's options that Create accepts, and the file that it writes."""
    await t.begin()
    asked = runc_pb2.Options(
        binary_name="runc",
        io_uid=1001,
        io_gid=1002,
        no_new_keyring=True,
        criu_image_path="/i",
        criu_work_path="/w",
        task_api_address="x",
        task_api_version=3,
    ).SerializeToString()
    root = runc_pb2.Options(root=t.path("rr")).SerializeToString()
    for number, (what, packed) in enumerate(
        {
            "all kinds": pack(OPTIONS_URL, asked),
            "a prefixed URL": pack(f"type.googleapis.com/{OPTIONS_URL}", asked),
            "an unknown URL": pack("foo.Bar", asked),
            "an unknown URL, no value": pack("foo.Bar", b""),
            "no URL": pack("", asked),
            "no URL, no value": pack("", b""),
            "garbage": pack(OPTIONS_URL, b"\xff\xff"),
            "a root": pack(OPTIONS_URL, root),
            "unknown fields": pack(OPTIONS_URL, b"\xf8\x07\x01"),
        }.items(),
        2,
    ):
        id = f"c{number}"
        t.phase = what
        path = t.bundle(id)
        await t.create(id, options=packed, label="Create")
        t.file(path, "options.json")
        t.file(path, "runtime")
        await t.do("Kill", id=id, label="Kill", signal=9)
        await t.do("Wait", id=id, label="Wait")
        await t.do("Delete", id=id, label="Delete")
    t.note("root", ", ".join(sorted(os.listdir(t.path("rr")))))


async def options_of_the_generic_kind(t: Tour) -> None:
    """The options that a CRI plugin sends to a runtime that it does not know."""
    await t.begin()
    value = runtimeoptions_pb2.Options(config_body=b"").SerializeToString()
    await t.create(options=pack("runtimeoptions.v1.Options", value), label="Create, empty")
    value = runtimeoptions_pb2.Options(type_url="x").SerializeToString()
    await t.create(options=pack("runtimeoptions.v1.Options", value), label="Create")
    await t.do("Connect")


async def bad_mounts(t: Tour) -> None:
    await t.begin()
    root = t.harness.setup.rootfs
    good = types_pb2.Mount(type="bind", source=root, options=["rbind", "ro"])
    for number, (what, second) in enumerate(
        {
            "type": types_pb2.Mount(type="nofs", source="nosrc"),
            "source": types_pb2.Mount(type="bind", source=t.path("no"), options=["rbind"]),
            "option": types_pb2.Mount(type="tmpfs", source="t", options=["size=x"]),
            "target": types_pb2.Mount(type="bind", source=root, target="nodir", options=["rbind"]),
        }.items(),
        2,
    ):
        id = f"c{number}"
        t.phase = f"bad {what}"
        path = t.bundle(id)
        await t.create(id, rootfs=[good, second], label="Create")
        t.note("mounts", _mounts(path))
        t.files(id)
    t.phase = "bad program"
    path = t.bundle("c9", process={"args": ["/bin/nosuch"]})
    await t.create("c9", rootfs=[good], label="Create")
    t.note("mounts", _mounts(path))


async def mounted_root(t: Tour) -> None:
    """A mount as a container's root, and its state after Delete."""
    path = t.bundle()
    await t.shim()
    root = types_pb2.Mount(type="bind", source=t.harness.setup.rootfs, options=["rbind", "ro"])
    await t.create(rootfs=[root])
    t.note("mounts", _mounts(path))
    await t.do("Start")
    await t.do("Kill", signal=9)
    await t.do("Wait")
    await t.do("Delete")
    t.note("mounts", _mounts(path))
    await t.wait_for_event("delete")
    t.events()


async def bad_streams(t: Tour) -> None:
    """Streams that cannot be opened: no reader, no file, a directory, an unknown scheme."""
    await t.begin()
    for number, (what, stdio) in enumerate(
        {
            "unknown scheme": Stdio("", "foo://x", "foo://x"),
            "bad URL": Stdio("", "%zz:/x", "%zz:/x"),
            "control character": Stdio("", "a\x01b", "a\x01b"),
            "no file": Stdio("", t.path("nofile"), t.path("nofile")),
            "a directory": Stdio("", "/", "/"),
            "binary-v2": Stdio("", "binary-v2:///bin/true", "binary-v2:///bin/true"),
            "binary missing": Stdio("", f"binary://{t.path('no')}", f"binary://{t.path('no')}"),
            "binary without path": Stdio("", "binary://", "binary://"),
            "terminal without stdout": Stdio(terminal=True),
        }.items(),
        2,
    ):
        id = f"c{number}"
        t.phase = what
        t.bundle(id, terminal=stdio.terminal)
        await t.create(id, stdio=stdio, label="Create")
        await t.do("State", id=id, label="State")
        t.events(id)
    t.phase = "terminal only here"
    t.bundle("c20")
    await t.create(
        "c20", stdio=Stdio("", t.harness.bundle("c20").fifo("stdout"), "", terminal=True)
    )
    t.phase = "terminal only there"
    t.bundle("c21", terminal=True)
    await t.create("c21")
    t.phase = "exec"
    await t.run()
    await t.exec("e1", "true", stdio=Stdio("", "foo://x", ""))
    await t.do("Start", "e1")
    await t.do("State", "e1")
    await t.do("Delete", "e1")


async def streams_without_reader(t: Tour) -> None:
    """No client opens the output: the call's deadline ends it."""
    await t.begin()
    await t.create(stdio=_unread(t, "c1"), deadline_s=1.5)
    t.bundle("c2")
    await t.run("c2")
    t.harness.bundle("c2").make_fifos(exec_id="e1")
    await t.exec("e1", "sleep", "1000", id="c2", stdio=_unread(t, "c2", "e1"))
    await t.do("Start", "e1", id="c2", deadline_s=1.5)
    await t.do("State", "e1", id="c2")
    await t.do("Wait", "e1", id="c2", limit_s=2.0)
    await t.do("Delete", "e1", id="c2")
    t.events("c2")


def _unread(t: Tour, id: str, exec_id: str = "") -> Stdio:
    bundle = t.harness.bundle(id)
    stdout, stderr = (bundle.fifo(stream, exec_id=exec_id) for stream in ("stdout", "stderr"))
    return Stdio("", stdout, stderr)


async def some_streams_only(t: Tour) -> None:
    await t.begin()
    for id, only in {"c2": "stdout", "c3": "stderr"}.items():
        t.bundle(id, "sh", "-c", "echo out; echo err >&2; exit 4")
        t.phase = f"only {only}"
        stdio = t.read(id)
        given = Stdio("", stdio.stdout) if only == "stdout" else Stdio("", "", stdio.stderr)
        await t.create(id, stdio=given)
        await t.do("Start", id=id)
        await t.do("Wait", id=id)


async def stdin_only(t: Tour) -> None:
    await t.begin("c1", "cat")
    stdin = t.harness.bundle("c1").fifo("stdin")
    await t.create(stdio=Stdio(stdin), limit_s=3.0)


async def exec_with_stdin_only(t: Tour) -> None:
    await t.begin()
    await t.run()
    bundle = t.harness.bundle("c1")
    bundle.make_fifos(exec_id="e1")
    await t.exec("e1", "cat", stdio=Stdio(bundle.fifo("stdin", exec_id="e1")))
    await t.do("Start", "e1", limit_s=3.0)


def _mounts(folder: str) -> str:
    return ", ".join(os.path.relpath(point, folder) for point in mounts_below(folder)) or "none"
