"""The warm-up: before a zygote forks, it runs some fake container lifecycles.

Reason: some work is done at first use, not at import.  CPython specializes the bytecode that it
runs, and completes classes.  The `re` module compiles patterns, and protobuf builds its message
classes.  Without a warm-up each fork does all of that again, in private memory.

So the zygote serves once as a shim.  Its runtime is a script that only makes a process, and its
client is a child of the zygote.  Afterwards nothing of it remains, on disk or in the process: no
fd, no signal handler, no child.
"""

import os
import re
import shutil
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from google.protobuf.any_pb2 import Any
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from protos import runc_pb2
from protos import task_v2_pb2 as pb
from shimv2.actions import bootstrap_params, daemonize, delete, info, running_shim, start
from shimv2.daemon import serve
from shimv2.daemon_config import DaemonConfig
from shimv2.kernel import linux
from shimv2.pagesharing import canary, publish
from shimv2.pagesharing.reclaim import Reclaimer
from shimv2.values.model import Identity
from shimv2.values.settings import Settings
from ttrpc import BlockingClient, StatusError

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

    from shimv2.daemon_config import IdleHook

__all__ = ["SWITCHED_OFF", "up"]

SWITCHED_OFF: Final = "share_memory is off"

_ROUNDS: Final = 10  # CPython 3.11 specializes a function after its eighth call
_CANARY_ROUNDS: Final = 2
_LIMIT_S: Final = 20  # after this time the warm-up has failed
_SERVICE: Final = "containerd.task.v2.Task"
# Imported for the children only.
_USED: Final = (start, delete, daemonize, info, bootstrap_params, running_shim)

_RUNTIME: Final = """#!/bin/sh
# Stands in for an OCI runtime: makes a process that does nothing, and ends it.
while [ $# -gt 0 ]; do
	case $1 in
	--log) bundle=${2%/*} ;;
	--pid-file) pid=$2 ;;
	create | exec | kill) verb=$1 ;;
	esac
	shift
done
case ${verb-} in
create) sleep 20 & printf %s $! >"$pid" ;;
exec) sleep 20 & printf %s $! >"$pid" ;;
kill) kill -9 "$(cat "$bundle/init.pid")" ;;
esac
"""
_CONFIG: Final = '{"annotations":{},"linux":{"namespaces":[{"type":"pid"}]}}'


def up(place: str, *, share_memory: bool, report_successor: Callable[[int], object]) -> str:
    """Run fake container lifecycles in a new folder, `place`; then share memory if possible.

    If memory is shared, the function returns "" in a fork.  This process calls `report_successor`
    with the fork's pid and ends.  Otherwise it returns in this process, with the reason.

    SIGALRM kills a warm-up that takes too long.

    Raises:
        OSError: the warm-up is not possible on this machine.
    """
    signal.alarm(_LIMIT_S)
    publish.prepare()
    answers = _run_lifecycles(place, _ROUNDS)
    signal.alarm(0)
    if not share_memory:
        return SWITCHED_OFF
    try:
        return canary.share(
            lambda: _run_lifecycles(place, _CANARY_ROUNDS, Reclaimer), answers, report_successor
        )
    finally:
        shutil.rmtree(place, ignore_errors=True)  # a canary may have been killed


def _run_lifecycles(
    place: str, rounds: int, idle_hook: "Callable[[AbstractEventLoop], IdleHook] | None" = None
) -> str:
    """Serve once in a new folder; return the answers that the client got."""
    os.mkdir(place, 0o700)
    try:
        return _serve_once(place, rounds, idle_hook)
    finally:
        os.chdir("/")
        shutil.rmtree(place, ignore_errors=True)


def _serve_once(
    place: str, rounds: int, idle_hook: "Callable[[AbstractEventLoop], IdleHook] | None"
) -> str:
    """Serve as a shim.  The client is a child of this process; return the answers that it got."""
    os.chdir(place)
    os.mkfifo("log", 0o700)
    _write("config.json", _CONFIG, 0o600)
    _write("program", _RUNTIME, 0o700)
    path = os.path.join(place, "socket")
    with _as_before(), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(path)
        listener.listen()
        if os.fork() == 0:  # noqa: TID251 - there is no loop yet
            status = 1
            try:
                listener.close()
                _write("answers", _call(place, path, rounds), 0o600)
                status = 0
            finally:
                os._exit(status)
        identity = Identity("io.containerd.pyrunc.v2", "warm", "warm", "", "", debug=False)
        serve(DaemonConfig(identity, listener, None, Settings(), idle_hook=idle_hook))
    with open(os.path.join(place, "answers"), encoding="utf-8") as file:
        return file.read()


def _write(path: str, text: str, mode: int) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:
        file.write(text)


@contextmanager
def _as_before() -> Iterator[None]:
    """At the end restore the process attributes that a shim changes."""
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    stderr = os.dup(2)
    try:
        yield
    finally:
        linux.set_child_subreaper(False)
        linux.set_dumpable(True)
        os.dup2(stderr, 2)
        os.close(stderr)
        for number, handler in handlers.items():
            if signal.getsignal(number) is not handler:
                signal.signal(number, handler)
        with suppress(ChildProcessError):
            while True:
                os.waitpid(-1, 0)  # noqa: TID251 - the client, and orphans of the last round


# --- the client ----------------------------------------------------------------------------------


def _call(place: str, path: str, rounds: int) -> str:
    """Call each method; return the answers of the last round, also errors, one in a line."""
    answers: list[str] = []
    with BlockingClient.connect(path, timeout_s=_LIMIT_S) as client:
        options = runc_pb2.Options(
            binary_name=os.path.join(place, "program"), root=os.path.join(place, "state")
        )
        packed = Any(type_url="containerd.runc.v1.Options", value=options.SerializeToString())
        stdin, stdout, stderr = (os.path.join(place, name) for name in ("in", "out", "err"))
        for fifo in (stdin, stdout, stderr):
            os.mkfifo(fifo)
        readers = [os.open(fifo, os.O_RDONLY | os.O_NONBLOCK) for fifo in (stdout, stderr)]
        create = pb.CreateTaskRequest(
            id="warm", bundle=place, options=packed, stdin=stdin, stdout=stdout, stderr=stderr
        )
        spec = Any(type_url="process", value=_PROCESS)
        exec_ = pb.ExecProcessRequest(
            id="warm", exec_id="x", spec=spec, stdin=stdin, stdout=stdout, stderr=stderr
        )
        for _ in range(rounds):
            answers.clear()
            for method, request, response in [
                ("Create", create, pb.CreateTaskResponse),
                *_LIFECYCLE,
            ]:
                sent = exec_ if method == "Exec" else request
                try:
                    answer: Message = client.call(
                        _SERVICE, method, sent, response, timeout_s=_LIMIT_S
                    )
                    answers.append(f"{method}: {_described(answer)}")
                except StatusError as error:
                    answers.append(f"{method}: {_NUMBER.sub('0', str(error))}")
        client.call(_SERVICE, "Shutdown", pb.ShutdownRequest(id="warm"), Empty)
        for fd in readers:
            os.close(fd)
    return "\n".join(answers)


def _described(answer: Message) -> str:
    """Describe an answer: its fields, and the values that are the same in each round."""
    fields = [f"{field.name}={getattr(answer, field.name)}" for field, _ in answer.ListFields()]
    return _NUMBER.sub("0", " ".join(fields)) + f" {getattr(answer, 'exit_status', '')}"


_NUMBER: Final = re.compile(r"\d+")  # a pid or a time

_PROCESS: Final = b'{"args":["true"],"cwd":"/"}'
_LIFECYCLE: Final[Sequence[tuple[str, Message, type[Message]]]] = (
    ("Connect", pb.ConnectRequest(id="warm"), pb.ConnectResponse),
    ("Start", pb.StartRequest(id="warm"), pb.StartResponse),
    ("State", pb.StateRequest(id="warm"), pb.StateResponse),
    ("Exec", pb.ExecProcessRequest(), Empty),  # `_call` sends its own request
    ("Start", pb.StartRequest(id="warm", exec_id="x"), pb.StartResponse),
    ("State", pb.StateRequest(id="warm", exec_id="x"), pb.StateResponse),
    ("Kill", pb.KillRequest(id="warm", exec_id="x", signal=9), Empty),
    ("Wait", pb.WaitRequest(id="warm", exec_id="x"), pb.WaitResponse),
    ("Delete", pb.DeleteRequest(id="warm", exec_id="x"), pb.DeleteResponse),
    ("Pids", pb.PidsRequest(id="warm"), pb.PidsResponse),
    ("Stats", pb.StatsRequest(id="warm"), pb.StatsResponse),
    ("CloseIO", pb.CloseIORequest(id="warm", stdin=True), Empty),
    ("Kill", pb.KillRequest(id="warm", signal=9), Empty),
    ("Wait", pb.WaitRequest(id="warm"), pb.WaitResponse),
    ("Delete", pb.DeleteRequest(id="warm"), pb.DeleteResponse),
)
