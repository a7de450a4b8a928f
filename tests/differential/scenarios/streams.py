"""stdin, stdout, stderr: FIFOs, files, logging binaries, terminals."""

import os

from shimv2.shimctl import spec
from shimv2.shimctl.streams import write_fifo
from shimv2.values.model import Stdio
from tests.differential.programs import program
from tests.differential.tour import Tour, settled


async def null_streams(t: Tour) -> None:
    """No streams: /dev/null, readable and writable."""
    folder = t.path("tmp", "seen")
    os.mkdir(folder)
    script = (
        "ls -l /proc/self/fd/0 /proc/self/fd/1 /proc/self/fd/2 >/seen/fds 2>/dev/null; "
        "sed -i 's/^\\(.\\{10\\}\\).*self/\\1 self/' /seen/fds; echo x; echo rc=$? >/seen/rc; "
        "grep -E 'Sig(Blk|Ign|Cgt)' /proc/self/status >/seen/masks; env >/seen/env"
    )
    await t.begin("c1", "sh", "-c", script, binds=[(folder, "/seen")])
    await t.run()
    await t.do("Wait")
    for name in ("rc", "masks", "env"):
        t.file(folder, name)
    with open(f"{folder}/fds", encoding="utf-8") as file:
        t.note("fds", "\n".join(line.split(" ")[0] + " " + line.split("/")[-1] for line in file))
    await t.leave()


async def fifo_streams(t: Tour) -> None:
    """cat with two clients, then CloseIO."""
    await t.begin("c1", "sh", "-c", "cat; echo end; echo err >&2; exit 7")
    stdio = t.read(stdin=True)
    await t.create(stdio=stdio)
    await t.do("State")
    await t.do("Start")
    await write_fifo(stdio.stdin, b"abc\n")
    await t.output("abc\n", "stdout of the first client")
    await write_fifo(stdio.stdin, b"def\n")
    await t.output("def\n", "stdout of the second client")
    await t.do("State")
    await t.do("CloseIO", stdin=True)
    await t.do("Wait")
    await t.streams_end()
    await t.do("CloseIO", stdin=True)
    await t.leave()
    t.events()


async def close_io_early(t: Tour) -> None:
    await t.begin("c1", "cat")
    await t.create(stdio=t.read(stdin=True))
    await t.do("CloseIO")
    await t.do("Start")
    await t.do("Wait", limit_s=5.0)
    await t.streams_end()
    await t.leave()


async def close_io_of_an_exec(t: Tour) -> None:
    await t.begin()
    await t.run()
    await t.exec("e1", "cat", stdio=t.read("c1", "e1", stdin=True))
    await t.do("Start", "e1")
    await t.do("CloseIO", "e1", stdin=True)
    await t.do("Wait", "e1", limit_s=5.0)
    await t.streams_end()
    await t.do("Delete", "e1")
    await t.end()


async def close_io_before_the_start_of_an_exec(t: Tour) -> None:
    await t.begin()
    await t.run()
    await t.exec("e1", "cat", stdio=t.read("c1", "e1", stdin=True))
    await t.do("CloseIO", "e1", stdin=True)
    await t.do("Start", "e1")
    await t.do("Wait", "e1", limit_s=2.0)


async def file_streams(t: Tour) -> None:
    """`file://` creates the file and its folder; both streams are written there."""
    await t.begin("c1", "sh", "-c", "echo out; echo err >&2; sleep 0.5")
    target = t.path("tmp", "deep", "er", "log")
    await t.run(stdio=Stdio("", f"file://{target}", f"file://{target}"))
    await t.do("Wait")
    await t.do("State")
    await _written(target)
    await t.leave()
    with open(target, encoding="utf-8") as file:
        t.note("lines", " ".join(sorted(file.read().split())))
    modes = [f"{os.stat(path).st_mode:o}" for path in (target, os.path.dirname(target))]
    t.note("modes", " ".join(modes))


async def plain_files(t: Tour) -> None:
    """A path that is no FIFO is appended to."""
    await t.begin("c1", "sh", "-c", "echo out; sleep 0.3; echo err >&2; sleep 0.5")
    target = t.path("bin", "log")
    with open(target, "w", encoding="utf-8") as file:
        file.write("before\n")
    await t.run(stdio=Stdio("", target, target))
    await t.do("Wait")
    await _written(target)
    await t.leave()
    t.file(target)
    t.bundle("c2", "sh", "-c", "echo out; echo err >&2; exit 2")
    t.phase = "to /dev/null"
    await t.shim("c2")
    other = Stdio("", "/dev/null", "/dev/null")
    await t.create("c2", stdio=other, on="c2")
    await t.do("Start", id="c2", on="c2")
    await t.do("Wait", id="c2", on="c2")
    await t.leave("c2", on="c2")


async def _written(path: str) -> None:
    """Wait for the last line: the Go shims may lose unwritten output at the end."""

    def complete() -> bool:
        with open(path, encoding="utf-8") as file:
            return {"out", "err"} <= set(file.read().split())

    await settled(complete)


async def fifo_urls(t: Tour) -> None:
    await t.begin("c1", "sh", "-c", "echo out")
    stdio = t.read()
    await t.create(stdio=Stdio("", f"fifo://{stdio.stdout}", f"fifo://{stdio.stderr}"))


async def much_output(t: Tour) -> None:
    """All output and then the end arrive, before and after Delete."""
    await t.begin("c1", "sh", "-c", "seq 1 100000; seq 1 1000 >&2")
    await t.run(stdio=t.read())
    await t.do("Wait")
    for name, stream in zip(("stdout", "stderr"), t.streams, strict=True):
        await stream.ended()
        t.note(name, f"{len(stream.data)} bytes, last {stream.lines[-1]}")
    await t.leave()


async def background_child(t: Tour) -> None:
    """A child of an exec holds the output open when the exec is deleted."""
    await t.begin()
    await t.run()
    await t.exec("e1", "sh", "-c", "sleep 1000 & echo done", stdio=t.read("c1", "e1"))
    await t.do("Start", "e1")
    await t.do("Wait", "e1", limit_s=2.0)
    await t.output("done")
    await t.do("Delete", "e1")
    await t.streams_end()
    await t.end()


_LOGGER = """#!/bin/sh
D={folder}
echo "$@" >$D/argv
env | sort | grep -v '^PWD\\|^SHLVL\\|^_=\\|^OLDPWD' >$D/env
for n in 0 1 2 3 4 5; do readlink /proc/$$/fd/$n | sed 's/:.*//'; done >$D/fds
trap '' TERM
exec 6<&3 7<&4 3<&- 4<&-
(cat <&7 >$D/err; echo EOF >>$D/err) &
printf x >&5
exec 5>&-
cat <&6 >$D/out
echo EOF >>$D/out
wait
touch $D/end
"""


def _logger(t: Tour, name: str, text: str = _LOGGER) -> str:
    folder = t.path("bin", f"{name}.d")
    os.mkdir(folder)
    return program(t.host.bin, name, text.format(folder=folder))


async def logging_binary(t: Tour) -> None:
    await t.begin("c1", "sh", "-c", "echo hello; echo complaint >&2; exit 5")
    uri = f"binary://{_logger(t, 'logger')}?only=x%20y"
    await t.run(stdio=Stdio("", uri, uri))
    await t.do("Wait")
    await t.do("State")
    await t.leave()
    folder = t.path("bin", "logger.d")
    await settled(lambda: os.path.exists(f"{folder}/end"))
    t.phase = ""
    for name in ("argv", "env", "fds", "out", "err"):
        t.file(folder, name)


async def logging_binary_of_an_exec(t: Tour) -> None:
    await t.begin()
    await t.run()
    uri = f"binary://{_logger(t, 'logger')}"
    await t.exec("e1", "sh", "-c", "echo from exec", stdio=Stdio("", uri, ""))
    await t.do("Start", "e1")
    await t.do("Wait", "e1")
    await t.do("Delete", "e1")
    await settled(lambda: os.path.exists(t.path("bin", "logger.d", "end")))
    for name in ("argv", "env", "out", "err"):
        t.file(t.path("bin", "logger.d"), name)
    await t.end()


async def bad_logging_binaries(t: Tour) -> None:
    """One that exits before it is ready; one that closes fd 5 without a byte."""
    await t.begin()
    scripts = {
        "c2": "#!/bin/sh\nexit 3\n",
        "c3": "#!/bin/sh\nexec 5>&-\ncat <&3 >/dev/null\n",
        "c4": "not a program",
    }
    for id, text in scripts.items():
        t.bundle(id, "sh", "-c", "sleep 0.2; echo x; exit 4")
        t.phase = id
        await t.create(id, stdio=Stdio("", f"binary://{_logger(t, id, text)}", ""), label="Create")
        await t.do("Start", id=id, label="Start")
        await t.do("Wait", id=id, label="Wait")
        await t.do("Delete", id=id, label="Delete")


async def terminal(t: Tour) -> None:
    await t.begin("c1", "sh", "-c", "tty; read x; stty size; echo got $x; exit 5", terminal=True)
    given = t.read(stdin=True)
    await t.create(stdio=Stdio(given.stdin, given.stdout, "", terminal=True))
    await t.do("State")
    await t.do("ResizePty", width=81, height=25)
    await t.do("Start")
    await t.output("/dev/pts/0")
    await t.do("ResizePty", width=90, height=30)
    await write_fifo(given.stdin, b"line\n")
    await t.do("Wait")
    await t.streams[0].ended()
    t.note("stdout", repr(t.streams[0].text))
    await t.do("ResizePty", width=1, height=1)
    await t.do("CloseIO", stdin=True)
    await t.leave()
    t.events()


async def terminal_closed(t: Tour) -> None:
    """CloseIO hangs the terminal up; the program gets SIGHUP once it has replaced the runtime."""
    script = "trap 'exit 6' HUP; echo ready; while :; do sleep 0.1; done"
    await t.begin("c1", "sh", "-c", script, terminal=True)
    given = t.read(stdin=True)
    await t.run(stdio=Stdio(given.stdin, given.stdout, "", terminal=True))
    await t.output("ready")
    await t.do("CloseIO", stdin=True)
    await t.do("Wait", limit_s=5.0)
    await t.leave()


async def terminal_of_an_exec(t: Tour) -> None:
    await t.begin()
    await t.run()
    given = t.read("c1", "e1", stdin=True)
    script = "stty size; read x; stty size; exit 4"
    stdio = Stdio(given.stdin, given.stdout, "", terminal=True)
    process = dict(spec.process(spec.Wanted(("sh", "-c", script), terminal=True)))
    process["consoleSize"] = {"height": 11, "width": 22}
    await t.exec("e1", stdio=stdio, process=process)
    await t.do("ResizePty", "e1", width=7, height=7)
    await t.do("Start", "e1")
    await t.do("State", "e1")
    await t.output("11 22")
    await t.do("ResizePty", "e1", width=70000, height=30)
    await write_fifo(given.stdin, b"\n")
    await t.do("Wait", "e1")
    await t.streams[0].ended()
    t.note("stdout", repr(t.streams[0].text))
    await t.do("ResizePty", "e1", width=1, height=1)
    await t.do("Delete", "e1")
    await t.end()


async def terminal_with_a_logging_binary(t: Tour) -> None:
    await t.begin("c1", "sh", "-c", "tty; echo from tty", terminal=True)
    uri = f"binary://{_logger(t, 'logger')}"
    await t.run(stdio=Stdio("", uri, "", terminal=True))
    await t.do("Wait")
    await t.leave()
    await settled(lambda: os.path.exists(t.path("bin", "logger.d", "end")))
    t.phase = ""
    t.file(t.path("bin", "logger.d"), "out")
