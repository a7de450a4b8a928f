"""Execs: their states, refusals and failures."""

from protos import task_v2_pb2
from shimv2.shimctl import spec
from shimv2.shimctl.reply import pack
from shimv2.shimctl.task import PROCESS_URL
from tests.differential.tour import Tour, settled


async def exec_states(t: Tour) -> None:
    """One exec from Exec to Delete, and its id again."""
    await t.begin()
    await t.run()
    t.phase = "unknown"
    for method in ("State", "Start", "Delete", "Wait", "CloseIO", "ResizePty"):
        await t.do(method, "zz")
    await t.do("Kill", "zz", signal=9)
    t.phase = "created"
    await t.exec("e1", "sleep", "1000")
    await t.exec("e1", "sleep", "1000", label="Exec the same id")
    for method in ("State", "CloseIO", "ResizePty"):
        await t.do(method, "e1")
    for number in (0, 9):
        await t.do("Kill", "e1", signal=number)
    await t.do("Wait", "e1", limit_s=1.0)
    await t.do("Start", "e1")
    t.phase = "running"
    for method in ("State", "Delete", "CloseIO", "ResizePty", "Pids"):
        await t.do(method, "e1" if method != "Pids" else "")
    for number in (0, 65, 9999):
        await t.do("Kill", "e1", signal=number)
    await t.do("Kill", "e1", signal=64)
    await t.do("Wait", "e1")
    t.phase = "stopped"
    for method in ("State", "CloseIO", "ResizePty", "Wait", "Start", "Pids"):
        await t.do(method, "e1" if method != "Pids" else "")
    await t.do("Kill", "e1", signal=9)
    await t.exec("e1", "true", label="Exec the same id")
    await t.wait_for_event("exit", "e1")
    t.files()
    await t.do("Delete", "e1")
    t.files()
    t.phase = "deleted"
    await t.do("State", "e1")
    await t.do("Delete", "e1")
    t.phase = "again"
    await t.exec("e1", "sh", "-c", "exit 7")
    await t.do("Start", "e1")
    await t.do("Wait", "e1")
    await t.do("Delete", "e1")
    await t.end()
    t.events()


async def exec_before_start(t: Tour) -> None:
    """An exec of an init that was only created."""
    await t.begin()
    await t.create()
    await t.exec("e1", "sleep", "1000")
    await t.do("Start", "e1")
    await t.do("State", "e1")
    await t.do("State")
    await t.end()
    await t.do("State", "e1")
    t.events()


async def exec_exit_statuses(t: Tour) -> None:
    await t.begin()
    await t.run()
    scripts = ("exit 0", "exit 255", "exit 256", *(f"kill -{n} $$" for n in (1, 2, 9, 11, 15)))
    for number, script in enumerate(scripts):
        t.phase = script
        await t.exec(f"e{number}", "sh", "-c", script)
        await t.do("Start", f"e{number}")
        await t.do("Wait", f"e{number}")
        await t.do("Delete", f"e{number}")


async def odd_exec_ids(t: Tour) -> None:
    await t.begin()
    await t.run()
    for exec_id in ("", "c1", "a/b", "..", "x" * 80, "ä ö"):
        t.phase = f"id {exec_id[:10]!r}"
        await t.exec(exec_id, "true", label="Exec")
        if exec_id:
            await t.do("Start", exec_id, label="Start")
            await t.do("Wait", exec_id, label="Wait", limit_s=2.0)


async def exec_named_init(t: Tour) -> None:
    """Its pid file would be that of the init."""
    await t.begin()
    await t.run()
    await t.exec("init", "sleep", "1000")
    await t.do("Start", "init")
    t.note("init.pid", t.words.pid(t.init_pid(), "?"))
    await t.end()


async def failing_execs(t: Tour) -> None:
    await t.begin()
    await t.run()
    plain = spec.process(spec.Wanted(("true",)))
    changes: dict[str, dict[str, object]] = {
        "missing": {"args": ["/bin/nosuch"]},
        "missing-in-path": {"args": ["nosuch"]},
        "directory": {"args": ["/etc"]},
        "no-args": {"args": []},
        "bad-cwd": {"cwd": "/nodir"},
        "relative-cwd": {"cwd": "etc"},
        "no-user": {"user": {"uid": 4294967295}},
        "bad-rlimit": {"rlimits": [{"type": "RLIMIT_X", "hard": 1, "soft": 1}]},
    }
    for exec_id, change in changes.items():
        t.phase = exec_id
        await t.exec(exec_id, process={**plain, **change})
        await t.do("Start", exec_id)
        await t.do("State", exec_id)
        await t.do("Kill", exec_id, signal=9)
        await t.do("Wait", exec_id, limit_s=3.0)
        await t.do("Delete", exec_id)
        await t.do("State", exec_id)
    await t.end()
    t.events()


async def bad_process_specs(t: Tour) -> None:
    await t.begin()
    await t.run()
    for text in (
        "{bad",
        "",
        "null",
        "[]",
        "7",
        '{"args": "x"}',
        '{"args": [1]}',
        '{"terminal": "yes"}',
        '{"user": {"uid": -1}}',
        '{"user": []}',
        '{"env": {}}',
        '{"capabilities": []}',
        '{"args": ["x"]} more',
        '{"rlimits": [{"hard": "x"}]}',
        '{"oomScoreAdj": 1.5}',
    ):
        await t.do("Exec", "e1", spec=pack(PROCESS_URL, text.encode()), label=f"Exec {text}")
        await t.do("Delete", "e1", label=f"Delete after {text}")
    await t.exec("url", "true", url="foo.Bar", label="Exec with another URL")
    await t.do("Start", "url")
    await t.do("Wait", "url")


async def exec_without_spec(t: Tour) -> None:
    await t.begin()
    await t.run()
    await t.do("Exec", "e1")
    await t.do("Connect")


async def second_start_of_a_failed_exec(t: Tour) -> None:
    await t.begin()
    await t.run()
    await t.exec("e1", "/bin/nosuch")
    await t.do("Start", "e1")
    await t.do("Start", "e1")
    await t.do("State", "e1")


async def second_start_of_a_running_exec(t: Tour) -> None:
    await t.begin()
    await t.run()
    await t.exec("e1", "sleep", "1000")
    await t.do("Start", "e1")
    await t.do("Start", "e1")
    await t.do("Kill", "e1", signal=9)
    await t.do("Wait", "e1")
    await t.do("Start", "e1")
    await t.wait_for_event("exit", "e1")
    await t.do("Kill", signal=9)
    await t.do("Wait", limit_s=3.0)


async def second_start_of_a_stopped_exec(t: Tour) -> None:
    await t.begin()
    await t.run()
    await t.exec("e1", "true")
    await t.do("Start", "e1")
    await t.do("Wait", "e1")
    await t.do("Start", "e1")
    await t.wait_for_event("exit", "e1")
    await t.end()
    t.events()


async def init_dead_execs_left(t: Tour) -> None:
    """Calls for execs after the exit of the init."""
    await t.begin()
    await t.run()
    await t.exec("recorded", "true")
    await t.exec("running", "sleep", "1000")
    await t.do("Start", "running")
    await t.do("Kill", signal=9)
    await t.do("Wait")
    t.phase = "init dead"
    await t.do("Wait", "running")
    await t.do("Start", "recorded")
    for exec_id in ("recorded", "running"):
        await t.do("State", exec_id)
        await t.do("Kill", exec_id, signal=9)
        await t.do("Delete", exec_id)
    await t.leave()
    t.events()


async def host_pid_namespace(t: Tour) -> None:
    """Processes that outlive an init in the host's pid namespace are killed; exits of execs come
    first."""
    await t.begin(
        "c1", "sh", "-c", "sleep 1000 & echo ready; exec sleep 1000", host_namespaces=["pid"]
    )
    await t.run(stdio=t.read())
    await t.output("ready")
    await t.exec("e1", "sleep", "1000")
    await t.do("Start", "e1")
    t.note("processes", await _pids(t))
    await t.do("Kill", signal=9)
    await t.do("Wait")
    await t.wait_for_event("exit", "e1")
    await t.wait_for_event("exit")
    await t.do("State", "e1")
    await t.leave()
    t.events()


async def _pids(t: Tour) -> str:
    request = task_v2_pb2.PidsRequest(id="c1")
    answer = await t.shims["c1"].task.call("Pids", request, task_v2_pb2.PidsResponse)
    return str(len(answer.processes))


async def many_execs(t: Tour) -> None:
    """Twenty at once: each is published once, its start before its exit."""
    await t.begin()
    await t.run()
    names = [f"e{n}" for n in range(20)]
    for name in names:
        await t.exec(name, "true")
    starts = [t.soon("Start", name) for name in names]
    t.note("starts", " ".join(sorted({(await call).split()[0] for call in starts})))
    await settled(lambda: all(t.harness.sink.events_of("c1").count(f"exit {n}") for n in names))
    events = t.harness.sink.events_of("c1")
    each = [tuple(word for word in events if word.endswith(f" {name}")) for name in names]
    kinds = {tuple(word.split()[0] for word in words) for words in each}
    t.note("events of each", str(sorted(kinds)))
