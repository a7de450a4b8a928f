"""The binary's command line: flags, actions, input and output."""

import asyncio
import os
import re
import tempfile
from asyncio.subprocess import PIPE
from typing import Final

from protos import runc_pb2, task_v2_pb2, types_pb2
from shimv2.shimctl.reply import OPTIONS_URL, BadReply, Reply, pack
from tests.differential.tour import Tour

_LIMIT_S: Final = 15.0


async def _invoke(
    t: Tour, label: str, *args: str, cwd: str, stdin: bytes = b"", env: dict[str, str] | None = None
) -> tuple[int, bytes]:
    """Run the binary and record exit status and output, without the text of the usage."""
    with tempfile.TemporaryFile() as given:  # a pipe would break if it is not read
        given.write(stdin)
        given.seek(0)
        child = await asyncio.create_subprocess_exec(
            t.harness.binary.path,
            *args,
            cwd=cwd,
            env={**t.harness.binary.environment(), **(env or {})},
            stdin=given,
            stdout=PIPE,
            stderr=PIPE,
            process_group=0,
        )
    async with asyncio.timeout(_LIMIT_S):
        stdout, stderr = await child.communicate()
    assert child.returncode is not None
    output = stderr.decode(errors="replace")
    output = re.sub(r"(?s)(^|\n)Usage of .*", r"\1Usage of <argv0>: …", output)
    t.note(label, f"rc={child.returncode} {output}".strip())
    return child.returncode, stdout


def _place(t: Tour) -> list[str]:
    binary = t.harness.binary
    return ["-namespace", binary.namespace, "-address", binary.grpc_address]


async def bad_command_lines(t: Tour) -> None:
    """Errors before the action is read."""
    cwd = t.path("tmp")
    for args in (
        (),
        ("start",),
        ("-id", "c1", "start"),
        ("-namespace", "", "start"),
        ("-foo",),
        ("--foo=1",),
        ("-debug=maybe",),
        ("-id",),
        ("-",),
        ("--", "start"),
        ("-=x",),
        ("---id", "x"),
        ("-h",),
        ("--help",),
        ("-namespace", "x"),
        ("-namespace", "x", "-id", "c1", "restart"),
        ("-namespace", "x", "-id", "c1", "-socket", "/" + "x" * 120),
        ("-namespace", "x", "-id", "c1", "start", "more", "words"),
        ("-namespace", "x/y", "-id", "c1", "start"),
    ):
        label = " ".join(args) or "nothing"
        _, stdout = await _invoke(t, label[:60], *args, cwd=cwd)
        t.note(f"{label[:60]}: stdout", stdout.decode())


async def version_and_info(t: Tour) -> None:
    cwd = t.path("tmp")
    _, stdout = await _invoke(t, "-v", "-v", cwd=cwd)
    t.note("first line of -v", stdout.decode().splitlines()[0])
    t.note("keys of -v", " ".join(re.findall(r"^  (.+?):", stdout.decode(), re.MULTILINE)))
    for label, packed in {
        "no options": None,
        "options": pack(OPTIONS_URL, runc_pb2.Options(binary_name="runc").SerializeToString()),
        "another runtime": pack(
            OPTIONS_URL, runc_pb2.Options(binary_name="/bin/true").SerializeToString()
        ),
        "no runtime": pack(
            OPTIONS_URL, runc_pb2.Options(binary_name="nosuchrunc").SerializeToString()
        ),
        "no runtime's path": pack(
            OPTIONS_URL, runc_pb2.Options(binary_name=t.path("no")).SerializeToString()
        ),
        "a folder": pack(OPTIONS_URL, runc_pb2.Options(binary_name="/etc").SerializeToString()),
        "no program": pack(
            OPTIONS_URL, runc_pb2.Options(binary_name="/etc/passwd").SerializeToString()
        ),
        "a known other type": pack("containerd.runc.v1.CheckpointOptions", b"\x08\x01"),
        "another type": pack("foo.Bar", b"\x0a\x00"),
        "garbage": pack(OPTIONS_URL, b"\xff"),
    }.items():
        given = packed.SerializeToString() if packed else b""
        _, stdout = await _invoke(t, f"-info with {label}", "-info", cwd=cwd, stdin=given)
        t.note(f"-info with {label}: said", _info(stdout))
    _, stdout = await _invoke(t, "-info with no Any", "-info", cwd=cwd, stdin=b"\xff\xff")
    t.note("-info with no Any: said", _info(stdout))


def _info(stdout: bytes) -> str:
    """List the members: versions and features differ between releases."""
    info = types_pb2.RuntimeInfo.FromString(stdout)
    names = [field.name for field, _ in info.ListFields() if field.name != "version"]
    return f"{info.name} {' '.join(names)} {info.options.type_url} {info.features.type_url}"


async def bad_starts(t: Tour) -> None:
    """`start` in a folder that is no bundle, or with invalid input."""
    place = _place(t)
    empty = t.path("tmp")
    await _invoke(t, "no config.json", *place, "-id", "c1", "start", cwd=empty)
    path = t.bundle("c2")
    for text in ("{bad", "", "[]", "7", '{"annotations": 7}', '{"annotations": {"a": 1}}'):
        with open(os.path.join(path, "config.json"), "w", encoding="utf-8") as file:
            file.write(text)
        await _invoke(t, f"config.json {text!r}", *place, "-id", "c2", "start", cwd=path)
    await _invoke(
        t,
        "core scheduling",
        *place,
        "-id",
        "c3",
        "start",
        cwd=t.bundle("c3"),
        env={"SCHED_CORE": "1"},
    )


async def start_with_something_on_stdin(t: Tour) -> None:
    place = _place(t)
    known = pack(OPTIONS_URL, runc_pb2.Options(binary_name="runc").SerializeToString())
    for number, (label, given) in enumerate(
        {
            "nothing": b"",
            "options": known.SerializeToString(),
            "garbage": b"\xff\xff\xff",
            "an unknown type": pack("other", b"x").SerializeToString(),
            "bad options": pack(OPTIONS_URL, b"\xff").SerializeToString(),
        }.items(),
        2,
    ):
        id = f"c{number}"
        _, stdout = await _invoke(
            t, label, *place, "-id", id, "start", "more", "words", cwd=t.bundle(id), stdin=given
        )
        try:
            reply = Reply.parse(stdout)
        except BadReply as error:
            t.note(f"{label}: reply", str(error))
            continue
        t.sockets.add(reply.path)
        t.note(f"{label}: reply", reply.address)
        t.note(f"{label}: form", f"{reply.form} version {reply.version}")


async def bad_deletes(t: Tour) -> None:
    """`delete` with missing files in the bundle."""
    place = _place(t)
    whole = ("config.json", "log", "runtime", "options.json", "init.pid")
    for number, missing in enumerate(
        (("runtime", "options.json", "init.pid"), ("init.pid",), ()), 2
    ):
        id = f"c{number}"
        path = t.bundle(id)
        for name in set(whole) - {"config.json", "log", *missing}:
            text = {"runtime": "", "options.json": "{}", "init.pid": "4000000"}[name]
            with open(os.path.join(path, name), "w", encoding="utf-8") as file:
                file.write(text)
        await _deleted(
            t, f"without {' '.join(missing) or 'a container'}", *place, "-id", id, cwd=path
        )
    path = t.harness.bundle("c4").path
    for name, text in (("options.json", "{bad"), ("options.json", "[]"), ("init.pid", "many")):
        with open(os.path.join(path, name), "r+", encoding="utf-8") as file:
            kept = file.read()
            file.seek(0)
            file.truncate()
            file.write(text)
        await _deleted(t, f"{name} {text}", *place, "-id", "c4", cwd=path)
        with open(os.path.join(path, name), "w", encoding="utf-8") as file:
            file.write(kept)
    await _deleted(t, "no such bundle", *place, "-id", "nosuch", cwd=path)
    await _deleted(t, "no id", *place, cwd=path)
    await _deleted(t, "an id that is a path", *place, "-id", "../x", cwd=path)


async def _deleted(t: Tour, label: str, *args: str, cwd: str) -> None:
    child = await asyncio.create_subprocess_exec(
        t.harness.binary.path,
        *args,
        "delete",
        cwd=cwd,
        env=t.harness.binary.environment(),
        stdout=PIPE,
        stderr=PIPE,
        process_group=0,
    )
    async with asyncio.timeout(_LIMIT_S):
        stdout, stderr = await child.communicate()
    answer = task_v2_pb2.DeleteResponse.FromString(stdout)
    what = f"pid={answer.pid} exit_status={answer.exit_status}" if stdout else "nothing"
    t.note(label, f"rc={child.returncode} {what}")
    lines = [
        line
        for line in stderr.decode().splitlines()
        if "starting signal loop" not in line and 'successfully: exit status 255: "' not in line
    ]
    t.note(f"{label}: stderr", "\n".join(lines))
