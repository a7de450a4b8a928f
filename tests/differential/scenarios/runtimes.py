"""A runtime that is slow, fails or gives wrong results; and the command lines of runc."""

import asyncio
import os
from collections.abc import Callable

from protos import runc_pb2
from shimv2.shimctl.reply import OPTIONS_URL, pack
from shimv2.shimctl.task import RESOURCES_URL
from tests.differential.programs import runtime
from tests.differential.tour import Tour, settled


async def failing_create(t: Tour) -> None:
    """Every way in which `runc create` can fail, and the error that a client gets."""
    error = '{"level":"error","msg":"%s","time":"2026-01-01T00:00:00Z"}'
    scripts = {
        "silent": "exit 3",
        "with output": "echo said; echo complained >&2; exit 1",
        "two errors": f"echo '{error % 'first msg'}' >$LOG; echo '{error % 'second msg'}' >>$LOG; "
        'echo \'{"level":"info","msg":"x","time":"2026-01-01T00:00:00Z"}\' >>$LOG; exit 1',
        "a blank message": f"echo '{error % '  '}' >$LOG; exit 1",
        "only a warning": 'echo \'{"level":"warning","msg":"x"}\' >$LOG; exit 1',
        "no JSON": "echo not >$LOG; exit 1",
        "half a line": 'printf \'{"level":"error","msg":"x\' >$LOG; exit 1',
        "bad time": 'echo \'{"level":"error","msg":"x","time":"today"}\' >$LOG; exit 1',
        "a number": "echo 7 >$LOG; exit 1",
        "log is a folder": "mkdir $LOG; exit 1",
        "killed": "kill -9 $$",
        "terminated": "kill -15 $$",
        "succeeds without a pid": "exit 0",
        "succeeds with a bad pid": "echo many >$(dirname $LOG)/init.pid; exit 0",
    }
    await t.begin()
    for number, (what, script) in enumerate(scripts.items(), 2):
        id = f"c{number}"
        t.bundle(id)
        t.phase = what
        await t.create(
            id, options=runtime(t.host.bin, f"rt{number}", f"[ $VERB = create ] && {{ {script}; }}")
        )
        await t.do("State", id=id, label="State")
    t.phase = "not there"
    for number, binary in enumerate(
        ("nosuchrunc", t.path("no", "runc"), "/etc", "/etc/passwd", "./runc"), 20
    ):
        t.bundle(f"c{number}")
        named = pack(OPTIONS_URL, runc_pb2.Options(binary_name=binary).SerializeToString())
        await t.create(f"c{number}", options=named, label=f"Create with {binary}")
    t.events()


async def failing_verbs(t: Tour) -> None:
    """runc fails at one verb after the other; a file in the scripts' folder names the verb."""
    body = (
        f"F={t.host.bin}/fail.$VERB; if [ -e $F ]; then cat $F; rm $F; exit 1; fi; "
        f"F={t.host.bin}/quiet.$VERB; if [ -e $F ]; then rm $F; exit 5; fi"
    )
    await t.begin()
    await t.create(options=runtime(t.host.bin, "rt", body))
    await t.exec("e1", "sleep", "1000")

    def fail(verb: str, text: str = "bad luck\n", how: str = "fail") -> None:
        t.phase = f"{how}ing {verb}" if how == "fail" else f"quiet {verb}"
        with open(f"{t.host.bin}/{how}.{verb}", "w", encoding="utf-8") as file:
            file.write(text)

    for how in ("fail", "quiet"):
        fail("start", how=how)
        await t.do("Start")
        await t.do("State")
    await t.do("Start")
    for how in ("fail", "quiet"):
        fail("exec", how=how)
        await t.exec(f"e-{how}", "sleep", "1000")
        await t.do("Start", f"e-{how}")
        await t.do("State", f"e-{how}")
        fail("pause", how=how)
        await t.do("Pause")
        await t.do("State")
        fail("update", how=how)
        await t.do("Update", resources=pack(RESOURCES_URL, b"{}"))
        fail("kill", how=how)
        await t.do("Kill", signal=9)
    await t.do("Pause")
    fail("resume")
    await t.do("Resume")
    await t.do("State")
    fail("resume", how="quiet")
    await t.do("Resume")
    await t.do("Resume")
    await _failing_end(t, fail)


async def _failing_end(t: Tour, fail: Callable[..., None]) -> None:
    """The verbs that end a container: kill, whose error texts have meanings, and delete."""
    for text in (
        "container not running\n",
        "os: process already finished\n",
        "x: No Such Process\n",
        "container does not exist\n",
        'container "c1" does not exist: more\n',
    ):
        fail("kill", text)
        await t.do("Kill", signal=9, label=f"Kill: {text}")
    t.phase = ""
    await t.do("Kill", signal=9)
    await t.do("Wait")
    fail("delete")
    await t.do("Delete")
    await t.do("State")
    fail("delete", how="quiet")
    await t.do("Delete")
    fail("delete", "container does not exist\n")
    await t.do("Delete")
    await t.wait_for_event("delete")
    t.events()


async def killed_verbs(t: Tour) -> None:
    """runc dies of a signal at each verb."""
    body = f"F={t.host.bin}/kill.$VERB; if [ -e $F ]; then rm $F; kill -9 $$; fi"
    await t.begin()
    await t.create(options=runtime(t.host.bin, "rt", body))

    def die(verb: str) -> None:
        t.phase = f"killed {verb}"
        with open(f"{t.host.bin}/kill.{verb}", "w", encoding="utf-8"):
            pass

    die("start")
    await t.do("Start")
    await t.do("Start")
    die("pause")
    await t.do("Pause")
    await t.do("State")
    die("kill")
    await t.do("Kill", signal=9)
    await t.do("Kill", signal=9)
    await t.do("Wait")
    die("delete")
    await t.do("Delete")
    await t.do("Delete")


async def stale_log(t: Tour) -> None:
    """An earlier error in the log is not the cause of the next failure."""
    await t.begin()
    fail = f"[ $VERB = pause ] && [ -e {t.host.bin}/fail ] && exit 6"
    await t.run(options=runtime(t.host.bin, "rt", fail))
    await t.exec("e1", "/bin/nosuch")
    await t.do("Start", "e1")
    with open(f"{t.host.bin}/fail", "w", encoding="utf-8"):
        pass
    await t.do("Pause")
    await t.do("State")


async def slow_verbs(t: Tour) -> None:
    """The answers to other calls while runc is slow."""
    body = f"[ -e {t.host.bin}/slow.$VERB ] && {{ touch {t.host.bin}/began; sleep 3; }}"
    await t.begin()
    await t.create(options=runtime(t.host.bin, "rt", body))

    def slow(verb: str) -> None:
        t.phase = f"slow {verb}"
        with open(f"{t.host.bin}/slow.{verb}", "w", encoding="utf-8"):
            pass

    async def began() -> None:
        assert await settled(lambda: os.path.exists(f"{t.host.bin}/began"))
        os.unlink(f"{t.host.bin}/began")

    slow("start")
    starts = [t.soon("Start"), t.soon("Start")]
    await began()
    await t.do("Connect")
    await t.do("State", limit_s=1.5, label="State meanwhile")
    t.note("two Starts at once", " and ".join(sorted([await start for start in starts])))
    slow("pause")
    pause = t.soon("Pause")
    await began()
    await t.do("State", limit_s=1.5, label="State meanwhile")
    t.note("Pause", await pause)
    await t.do("State")
    await t.do("Resume")
    t.phase = "slow create"
    t.bundle("c2")
    os.rename(f"{t.host.bin}/slow.start", f"{t.host.bin}/slow.create")
    create = asyncio.create_task(t.create("c2", options=runtime(t.host.bin, "rt", body)))
    await began()
    await t.do("Connect")
    await create


async def create_with_a_deadline(t: Tour) -> None:
    """runc hangs: it is killed at the call's deadline."""
    await t.begin()
    hangs = runtime(t.host.bin, "rt", "[ $VERB = create ] && exec sleep 1000")
    await t.create(options=hangs, deadline_s=1.0)
    await t.do("State")
    await t.do("Start", deadline_s=-1.0)


async def deadlines(t: Tour) -> None:
    await t.begin()
    await t.create()
    await t.do("Start", deadline_s=-1.0, label="Start, too late")
    await t.do("State", deadline_s=-1.0, label="State, too late")
    await t.do("Pause", deadline_s=-1.0, label="Pause, too late")
    await t.do("Start")
    await t.do("Wait", deadline_s=0.5, limit_s=2.0, label="Wait, half a second")
    await t.end()


async def command_lines(t: Tour) -> None:
    """Every command line, environment and folder that runc is called with."""
    body = (
        f'echo "$ALL" | sed "s/runc-process[0-9a-zA-Z_.-]*/runc-process/" >>{t.host.bin}/calls; '
        f"env | cut -d= -f1 | grep -Ev '^(_|PWD|OLDPWD|SHLVL)$' | sort >{t.host.bin}/env.$VERB; "
        f"pwd >{t.host.bin}/cwd.$VERB; "
        f"grep -E 'Sig(Ign|Blk)|NoNewPrivs' /proc/self/status >{t.host.bin}/status.$VERB"
    )
    options = runtime(t.host.bin, "rt", body)
    value = runc_pb2.Options.FromString(options.value)
    value.no_pivot_root = value.no_new_keyring = True
    value.root = t.path("rr")
    options.value = value.SerializeToString()
    await t.begin()
    await t.create(options=options)
    await t.do("Start")
    await t.exec("e1", "sleep", "1000")
    await t.do("Start", "e1")
    await t.do("Pause")
    await t.do("Resume")
    await t.do("Update", resources=pack(RESOURCES_URL, b'{"pids":{"limit":9}}'))
    await t.do("Kill", signal=0, all=True)
    await t.do("Kill", "e1", signal=9)
    await t.do("Wait", "e1")
    await t.do("Delete", "e1")
    await t.end()
    t.phase = ""
    t.file(t.host.bin, "calls")
    for verb in ("create", "start", "exec", "pause", "kill", "delete"):
        for what in ("env", "cwd", "status"):
            t.file(t.host.bin, f"{what}.{verb}")
