"""One scenario with one shim: every step has a label and an outcome, both as text.

The next step of a scenario never depends on the result of a call, so the steps are the same with
every shim.
"""

import asyncio
import json
import os
import signal
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from typing import Any, Final

from google.protobuf import any_pb2
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from protos import task_v2_pb2, types_pb2
from shimv2.shimctl import spec
from shimv2.shimctl.container import Container
from shimv2.shimctl.harness import Harness
from shimv2.shimctl.reply import pack
from shimv2.shimctl.streams import Capture
from shimv2.shimctl.task import PROCESS_URL
from shimv2.shimctl.testbed.leaks import alive
from shimv2.shimctl.testbed.until import eventually
from shimv2.values.model import Stdio
from tests.differential.frames import one_call
from tests.differential.words import Words
from tests.support.host import Host
from ttrpc import ConnectionClosed, RemoteProtocolError, StatusError

_REQUESTS: Final = {
    "Create": "CreateTask",
    "Update": "UpdateTask",
    "Exec": "ExecProcess",
    "Checkpoint": "CheckpointTask",
}
_ANSWERS: Final = {"Create": "CreateTask", "State": "", "Start": "", "Delete": "", "Pids": ""}
_WITH_ANSWER: Final = {*_ANSWERS, "Wait", "Stats", "Connect"}
_LIMIT_S: Final = 20.0  # a call that takes longer "does not answer"; a drain at Delete takes 10
_ARRIVED_S: Final = 0.3
_SETTLED_S: Final = 3.0  # for what a shim does after its answer
_TAIL: Final = "sleep 1000"


class Tour:
    """The interface of scenarios: a harness with its own namespace, and the records that are
    compared."""

    def __init__(self, harness: Harness, words: Words, host: Host, sockets: set[str]) -> None:
        self.harness = harness
        self.words = words
        self.host = host
        self.steps: dict[str, str] = {}
        self.phase = ""  # put before every label
        self.over = False  # all is removed as by a daemon: nothing may be left on the host
        self.shims: dict[str, Container] = {}  # by the container each was started for
        self.sockets = sockets  # removed at the end if they still exist
        self.streams: list[Capture] = []  # those that `read` opened last
        self._calls: list[asyncio.Task[str]] = []
        self._shim_pids: dict[str, int] = {}

    def note(self, label: str, outcome: str) -> None:
        label = self.words.text(f"{self.phase}: {label}" if self.phase else label)
        again, number = label, 2
        while again in self.steps:
            again, number = f"{label} ({number})", number + 1
        self.steps[again] = self.words.text(outcome)

    async def close(self) -> None:
        """Close the streams, and cancel calls that are never answered."""
        for stream in self.streams:
            stream.close()
        for call in self._calls:
            call.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)

    # --- containers -------------------------------------------------------------------------------

    def path(self, *names: str) -> str:
        return os.path.join(self.host.folder, *names)

    def bundle(
        self,
        id: str = "c1",
        *args: str,
        process: Mapping[str, object] | None = None,
        **wanted: Any,
    ) -> str:
        """Make a bundle for a program (a long sleep) and its FIFOs; return its path.

        `process` replaces members of the process in its configuration.
        """
        asked = spec.Wanted(args or ("/bin/sh", "-c", f"exec {_TAIL}"), **wanted)
        made = self.harness.make_bundle(id, asked)
        made.make_fifos()
        if process is not None:
            with open(os.path.join(made.path, "config.json"), "r+", encoding="utf-8") as file:
                config = json.load(file)
                config["process"].update(process)
                file.seek(0)
                json.dump(config, file)
                file.truncate()
        return made.path

    async def shim(self, id: str = "c1", options: any_pb2.Any | None = None) -> Container:
        """Run `start` in a bundle that was made, and connect; later calls go to this shim."""
        shim = await Container.started(self.harness.bundle(id), self.harness.binary, options)
        self.harness.containers[id] = self.shims[id] = shim
        pid = (await shim.task.connected(id)).shim_pid
        self.words.name(pid, "shim" if id == "c1" else f"shim of {id}")
        self._shim_pids[id] = pid
        self.sockets.add(shim.reply.path)
        return shim

    async def begin(self, id: str = "c1", *args: str, **wanted: Any) -> Container:
        self.bundle(id, *args, **wanted)
        return await self.shim(id)

    def read(self, id: str = "c1", exec_id: str = "", *, stdin: bool = False) -> Stdio:
        """Open a process's output FIFOs for reading; return its stdio."""
        bundle = self.harness.bundle(id)
        if exec_id:
            bundle.make_fifos(exec_id=exec_id)
        names = (bundle.fifo(stream, exec_id=exec_id) for stream in ("stdin", "stdout", "stderr"))
        given, stdout, stderr = names
        for stream in self.streams:
            stream.close()
        self.streams = [Capture(stdout), Capture(stderr)]
        return Stdio(given if stdin else "", stdout, stderr)

    # --- calls ------------------------------------------------------------------------------------

    async def do(
        self,
        method: str,
        exec_id: str = "",
        *,
        id: str = "c1",
        on: str = "c1",
        label: str = "",
        limit_s: float = _LIMIT_S,
        deadline_s: float | None = None,
        **fields: Any,
    ) -> None:
        """Make a call and record its answer."""
        label = label or _label(method, exec_id, id, fields)
        if exec_id:
            fields["exec_id"] = exec_id
        name = _REQUESTS.get(method, method)
        request = getattr(task_v2_pb2, f"{name}Request")(id=id, **fields)
        who = exec_id or id
        self.note(label, await self.ask(method, request, who, on, limit_s, deadline_s))

    async def ask(
        self,
        method: str,
        request: Message,
        who: str,
        on: str = "c1",
        limit_s: float = _LIMIT_S,
        deadline_s: float | None = None,
    ) -> str:
        """Make a call and describe its outcome.  Only the shim checks the deadline."""
        kind: type[Message] = Empty
        if method in _WITH_ANSWER:
            kind = getattr(task_v2_pb2, f"{_ANSWERS.get(method) or method}Response")
        try:
            async with asyncio.timeout(limit_s):
                if deadline_s is not None:
                    shim = self.shims[on]
                    data = request.SerializeToString()
                    return await one_call(
                        shim.reply.path, shim.task.service, method, data, deadline_s
                    )
                answer = await self.shims[on].task.call(method, request, kind)
        except TimeoutError:
            return "no reply"
        except ConnectionClosed:
            return "closed"
        except StatusError as error:
            return f"{int(error.code)} `{error.message}`"
        except RemoteProtocolError as error:
            return f"garbage: {error}"
        text = f"OK {self.words.message(answer, who)}".rstrip()
        if method == "Delete":
            self.words.forget(who)
        return text

    def soon(self, method: str, exec_id: str = "", *, id: str = "c1") -> "asyncio.Task[str]":
        """Begin a call that is answered later; `answer` records its outcome."""
        request = getattr(task_v2_pb2, f"{method}Request")(id=id)
        if exec_id:
            request.exec_id = exec_id
        self._calls.append(asyncio.create_task(self.ask(method, request, exec_id or id)))
        return self._calls[-1]

    async def waiting(self, exec_id: str = "") -> "asyncio.Task[str]":
        """Begin a Wait, and sleep until it has reached its process, which is not observable."""
        call = self.soon("Wait", exec_id)
        await asyncio.wait({call}, timeout=_ARRIVED_S)
        return call

    async def answer(self, call: "asyncio.Task[str]", label: str) -> None:
        await asyncio.wait({call}, timeout=_SETTLED_S)
        self.note(label, call.result() if call.done() else "no reply")

    async def create(
        self,
        id: str = "c1",
        *,
        stdio: Stdio | None = None,
        rootfs: Iterable[types_pb2.Mount] | None = None,
        bundle: str = "",
        **more: Any,
    ) -> None:
        """Create, with the harness's root and no streams unless given."""
        made = self.harness.bundle(id)
        if rootfs is None:
            root = self.harness.root_mount(made)
            rootfs = [types_pb2.Mount(type=root.type, source=root.source, options=root.options)]
        label = more.pop("label", "Create" if id == "c1" else f"Create {id}")
        path = bundle or made.path
        await self.do(
            "Create", id=id, label=label, bundle=path, rootfs=rootfs, **_streams(stdio), **more
        )

    async def run(self, id: str = "c1", **create: Any) -> None:
        await self.create(id, **create)
        await self.do("Start", id=id)

    async def exec(
        self,
        exec_id: str,
        *args: str,
        id: str = "c1",
        stdio: Stdio | None = None,
        process: Mapping[str, object] | None = None,
        label: str = "",
        url: str = PROCESS_URL,
    ) -> None:
        terminal = stdio is not None and stdio.terminal
        wanted = process or spec.process(spec.Wanted(args, terminal=terminal))
        packed = pack(url, json.dumps(wanted).encode())
        label = label or _label("Exec", exec_id, id, {})
        await self.do("Exec", exec_id, id=id, label=label, spec=packed, **_streams(stdio))

    # --- observations ---------------------------------------------------------------------

    async def output(self, wanted: str, label: str = "stdout") -> None:
        """Record the output so far, once it contains `wanted` or has ended."""
        stdout = self.streams[0]
        try:
            await stdout.until(wanted.encode())
        except TimeoutError as error:
            self.note(label, f"not there: {error}")
        else:
            self.note(label, repr(stdout.text))

    async def streams_end(self) -> None:
        """Record the whole output, and whether it ends."""
        for name, stream in zip(("stdout", "stderr"), self.streams, strict=True):
            try:
                async with asyncio.timeout(_SETTLED_S):
                    await stream.ended()
                ended = "ended"
            except TimeoutError:
                ended = "open"
            self.note(name, f"{ended}: {stream.text!r}")

    async def wait_for_event(self, last: str, process_id: str = "c1") -> None:
        """Wait until an event has arrived; if it does not, the list of all events shows that."""
        try:
            await self.harness.sink.wait_for(f"/tasks/{last}", process_id=process_id, timeout_s=5)
        except TimeoutError as error:
            self.note(f"event {last} {process_id}", str(error))

    def events(self, id: str = "c1", *, once: str = "", in_order: bool = True) -> None:
        """Record the events of a container; of the topic `once` only the first."""
        lines: list[str] = []
        for event in self.harness.sink.events:
            if event.container_id != id:
                continue
            topic = event.topic.removeprefix("/tasks/")
            if topic == once and any(line.split()[0] == once for line in lines):
                continue
            fields = self.words.message(event.message, event.process_id)
            lines.append(f"{topic} {fields.removeprefix(f'container_id={id}').strip()}".strip())
        self.note(f"events {id}", "\n".join(lines if in_order else sorted(lines)) or "none")

    async def shim_ends(self, id: str = "c1") -> None:
        """Record whether the shim has exited, and its socket is removed."""
        gone = await settled(lambda: not alive(self._shim_pids[id]))
        self.note(f"shim {id}", "gone" if gone else "alive")
        self.note(f"socket {id}", self.socket(id))

    def socket(self, id: str = "c1") -> str:
        return "left" if os.path.exists(self.shims[id].reply.path) else "removed"

    def kill_shim(self, number: int, id: str = "c1") -> None:
        os.kill(self._shim_pids[id], number)

    def init_pid(self) -> int:
        path = os.path.join(self.harness.bundle("c1").path, "init.pid")
        with open(path, encoding="ascii") as file:
            return int(file.read())

    def shim_pid(self, id: str = "c1") -> int:
        return self._shim_pids[id]

    def files(self, id: str = "c1") -> None:
        """Record the files of a bundle with their modes; files that shims add are separate."""
        folder = self.harness.bundle(id).path
        own = {"address": "none", "exits": "none"}
        rest = []
        for name in sorted(os.listdir(folder)):
            mode = f"{os.lstat(os.path.join(folder, name)).st_mode:o}"
            if name in {"shim-binary-path", "bootstrap.json"}:
                continue  # the harness's
            if name in own:
                own[name] = mode
            else:
                rest.append(f"{name} {mode}")
        for name, mode in own.items():
            self.note(f"file {name} of {id}", mode)
        self.note(f"files of {id}", ", ".join(rest))

    def file(self, *names: str) -> None:
        path = os.path.join(*names)
        try:
            with open(path, encoding="utf-8") as file:
                content = repr(file.read())
        except FileNotFoundError:
            content = "no file"
        self.note(f"content of {os.path.basename(path)}", content)

    # --- the usual end ----------------------------------------------------------------------------

    async def end(self, id: str = "c1", *, on: str = "c1") -> None:
        """Kill, wait, delete and shut down, and record what is left."""
        self.phase = "end"
        await self.do("Kill", id=id, on=on, signal=int(signal.SIGKILL))
        await self.do("Wait", id=id, on=on)
        await self.leave(id, on=on)

    async def leave(self, id: str = "c1", *, on: str = "c1") -> None:
        """Make the calls of a daemon when a task has ended."""
        self.phase = "end"
        await self.do("Delete", id=id, on=on)
        await self.wait_for_event("delete", id)  # Go shims may exit before it is sent
        await self.do("Shutdown", id=id, on=on)
        await self.shim_ends(on)
        self.files(id)
        await self.delete(id)

    async def delete(self, id: str = "c1") -> None:
        """Run the `delete` action, the last step of a daemon."""
        self.over = True
        bundle = self.harness.bundle(id)
        flags = ["-id", id, "-bundle", bundle.path, "delete"]
        status, stdout, stderr = await self.harness.binary.run(
            flags, cwd=bundle.path, stdin=b"", combined=False, limit_s=_LIMIT_S
        )
        answer = task_v2_pb2.DeleteResponse.FromString(stdout)
        self.note(f"delete {id}", f"rc={status} {self.words.message(answer, id)}")
        # In the Go shim the reaper and `Wait` race for a runtime that exits at once; the loser
        # reports 255.
        lines = stderr.decode(errors="replace").splitlines()
        lines = [line for line in lines if 'successfully: exit status 255: "' not in line]
        self.note(f"delete {id}: stderr", "\n".join(lines))


async def settled(met: Callable[[], object]) -> bool:
    """Wait until `met()` is true, for a limited time; return whether it is."""
    try:
        await eventually(met, "it", limit_s=_SETTLED_S)
    except AssertionError:
        return False
    return True


def _streams(stdio: Stdio | None) -> dict[str, Any]:
    return {name: value for name, value in asdict(stdio or Stdio()).items() if value}


def _label(method: str, exec_id: str, id: str, fields: Mapping[str, object]) -> str:
    plain = {k: v for k, v in fields.items() if isinstance(v, bool | int | str)}
    words = [method, *([] if id == "c1" else [id or '""']), *([exec_id] if exec_id else [])]
    words += [f"{name}={value}" for name, value in plain.items()]
    return " ".join(words)
