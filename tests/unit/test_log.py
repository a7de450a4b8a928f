"""The log: lines in the reference's format, without waiting, and with a count of lost lines."""

import asyncio
import fcntl
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shimv2 import log
from shimv2.log import DroppingHandler, LineFormatter
from tests.support.aio import run
from tests.support.boot import RUNTIME

_FULL_PIPE_BYTES = 4096  # one page is the least


class Pipe:
    """A pipe of one page whose reader reads at a call only."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        fcntl.fcntl(self.writer, fcntl.F_SETPIPE_SZ, _FULL_PIPE_BYTES)
        self.handler = DroppingHandler(self.writer, RUNTIME)

    def read(self) -> str:
        data = b""
        while True:
            try:
                data += os.read(self.reader, 65536)
            except BlockingIOError:
                return data.decode()

    def close(self) -> None:
        os.close(self.reader)
        os.close(self.writer)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    made.close()


def record(msg: object, *args: Any, level: int = logging.INFO, **extra: Any) -> logging.LogRecord:
    made = logging.LogRecord("shimv2.x", level, "x.py", 1, msg, args, None)
    vars(made).update(extra)
    made.created = 1_000_000_000.25
    return made


def line(msg: object, *args: Any, **options: Any) -> str:
    return LineFormatter(RUNTIME).format(record(msg, *args, **options))


@pytest.mark.rule("cli.serve.7")
def test_line_has_the_form_of_the_daemon() -> None:
    """Time, level, message, then the fields by name."""
    text = line("exit of %s", "c1", pid=7, container="c1")

    head = 'time="2001-09-09T01:46:40.250000000Z" level=info msg="exit of c1"'
    assert text == f"{head} container=c1 pid=7 runtime={RUNTIME}"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("plain-._/@^+1", "plain-._/@^+1"),
        ("", ""),
        ("two words", '"two words"'),
        ("a=b", '"a=b"'),
        ("a:b", '"a:b"'),
        ('say "x"\n', r'"say \"x\"\n"'),
        ("ä", '"ä"'),
        ("\udcff", r'"\xff"'),
    ],
)
def test_values_are_quoted_as_logrus_quotes_them(value: str, shown: str) -> None:
    assert f" field={shown} runtime=" in line("x", field=value)


@pytest.mark.parametrize(
    ("level", "word"),
    [
        (logging.DEBUG, "debug"),
        (logging.WARNING, "warning"),
        (logging.ERROR, "error"),
        (logging.CRITICAL, "fatal"),
    ],
)
def test_levels_have_the_names_of_logrus(level: int, word: str) -> None:
    assert f" level={word} " in line("x", level=level)


def test_exception_is_a_field_and_stays_on_the_line() -> None:
    try:
        int("no way")
    except ValueError:
        text = line("failed", exc_info=sys.exc_info())

    assert ' error="ValueError: invalid literal for int() ' in text
    assert "test_log.py" in text
    assert "\n" not in text


def test_full_fifo_drops_lines_and_reports_how_many(pipe: Pipe) -> None:
    """The shim does not wait for a reader that does not read; lines are dropped and counted."""
    while not pipe.handler.dropped:
        pipe.handler.emit(record("x" * 200))
    for _ in range(9):
        pipe.handler.emit(record("lost"))
    full = pipe.read()
    pipe.handler.emit(record("after"))

    notice, after = pipe.read().splitlines()
    assert "lost" not in full
    assert 'level=warning msg="log lines were dropped: the log was not read" dropped=10 ' in notice
    assert "msg=after" in after
    assert pipe.handler.dropped == 0


def test_line_longer_than_the_fifo_is_cut_and_the_next_one_is_whole(pipe: Pipe) -> None:
    pipe.handler.emit(record("x" * 3 * _FULL_PIPE_BYTES))
    cut = pipe.read()
    pipe.handler.emit(record("after"))

    rest = pipe.read().splitlines()
    assert not cut.endswith("\n")
    assert rest[0] == ""
    assert "msg=after" in rest[-1]


@pytest.mark.rule("cli.signals.3")
def test_lost_reader_is_no_error(pipe: Pipe) -> None:
    """EPIPE is counted and dropped."""
    reader, pipe.reader = pipe.reader, os.open(os.devnull, os.O_RDONLY)
    os.close(reader)

    pipe.handler.emit(record("x"))

    assert pipe.handler.dropped == 1


def test_unformattable_record_is_reported_and_harms_no_logging(pipe: Pipe) -> None:
    pipe.handler.emit(record("%d of them", "many"))

    assert 'level=error msg="a line of x.py:1 cannot be formatted: TypeError"' in pipe.read()


def test_argument_that_logs_does_not_recurse(pipe: Pipe) -> None:
    """Logging inside of logging is dropped."""

    class Talkative:
        def __str__(self) -> str:
            pipe.handler.emit(record("more"))
            return "talkative"

    pipe.handler.emit(record("%s", Talkative()))

    assert "msg=talkative" in pipe.read()
    pipe.handler.emit(record("next"))
    assert " dropped=1 " in pipe.read()


# --- the FIFO -----------------------------------------------------------------------------------

_CHILD = f"""
import logging, os, sys, warnings
from shimv2 import log
try:
    log.setup("{RUNTIME}", debug=False)
except log.NoLog as error:
    sys.exit(str(error))
logging.getLogger("shimv2.x").info("begun")
logging.getLogger("shimv2.x").debug("not told")
"""


def child(folder: Path, code: str = "") -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(
        [sys.executable, "-c", _CHILD + code],
        cwd=folder,
        capture_output=True,
        check=False,
        timeout=30,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )


@pytest.fixture
def fifo(tmp_path: Path) -> Iterator[int]:
    os.mkfifo(tmp_path / "log")
    fd = os.open(tmp_path / "log", os.O_RDWR | os.O_NONBLOCK)
    yield fd
    os.close(fd)


@pytest.mark.rule("io.open.8")
def test_lines_go_to_the_fifo_from_info_on(tmp_path: Path, fifo: int) -> None:
    done = child(tmp_path)

    lines = os.read(fifo, 65536).decode()
    assert done.returncode == 0
    assert f"msg=begun runtime={RUNTIME}\n" in lines
    assert "not told" not in lines


@pytest.mark.rule("cli.serve.1")
def test_traceback_goes_to_the_fifo_and_not_to_the_outputs(tmp_path: Path, fifo: int) -> None:
    """Fd 2 is the log, so that a crash reaches the daemon."""
    done = child(tmp_path, "raise ValueError('no way')")

    assert (done.returncode, done.stdout, done.stderr) == (1, b"", b"")
    assert "ValueError: no way" in os.read(fifo, 65536).decode()


@pytest.mark.rule("cli.serve.1")
def test_crash_in_c_leaves_a_stack_in_the_fifo(tmp_path: Path, fifo: int) -> None:
    done = child(tmp_path, f"os.kill(os.getpid(), {int(signal.SIGSEGV)})")

    assert done.returncode == -signal.SIGSEGV
    assert "Segmentation fault" in os.read(fifo, 65536).decode()


@pytest.mark.rule("cli.serve.3", "io.open.8")
def test_fifo_that_is_full_or_without_a_reader_blocks_nothing(tmp_path: Path) -> None:
    """1 MiB of lines without a reader."""
    os.mkfifo(tmp_path / "log")

    done = child(tmp_path, "for i in range(10000): logging.info('x' * 100)\nprint('alive')")

    assert (done.returncode, done.stdout) == (0, b"alive\n")


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("none", "fifo error: stat log: no such file or directory"),
        ("file", "fifo error: log is not a fifo"),
        ("link", "fifo error: log is not a fifo"),
    ],
)
def test_other_things_than_a_fifo_are_refused(tmp_path: Path, kind: str, text: str) -> None:
    """Checked with stat, and opened with O_NOFOLLOW."""
    if kind == "file":
        (tmp_path / "log").write_text("")
    elif kind == "link":
        os.mkfifo(tmp_path / "real")
        (tmp_path / "log").symlink_to("real")

    done = child(tmp_path)

    assert (done.returncode, done.stderr.decode().strip()) == (1, text)


# --- SIGUSR1 ------------------------------------------------------------------------------------


@pytest.mark.rule("cli.signals.2")
def test_stacks_of_all_tasks_and_threads_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The frames in which each task waits, at level info."""

    async def innermost() -> None:
        await asyncio.Event().wait()

    async def outermost() -> None:
        await innermost()

    async def main() -> None:
        task = asyncio.create_task(outermost(), name="watch of c1")
        await asyncio.sleep(0)
        log.dump_stacks()
        task.cancel()
        await asyncio.wait([task])

    with caplog.at_level(logging.INFO):
        run(main())

    (task,) = (text for text in caplog.messages if text.startswith("task watch of c1:\n"))
    places = [text.rpartition(".")[2] for text in task.splitlines()[1:]]
    assert places == ["outermost", "innermost", "wait"]
    assert any("thread MainThread:\n" in text and "dump_stacks" in text for text in caplog.messages)
