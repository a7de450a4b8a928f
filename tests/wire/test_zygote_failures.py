"""A zygote that cannot be made, or must not serve: a cold start, a reason in the log, no
leftovers."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from shimv2.shimctl.testbed import zygotes
from shimv2.shimctl.testbed.leaks import alive
from shimv2.shimctl.testbed.until import until
from shimv2.values.sharing import sharing
from tests.support.boot import Boot, path_of
from tests.support.warm import booted, logged, no_zygote, started, warmed

# Several times the duration of a cold start.
_PATIENCE_S: Final = 5.0
_LIMIT_S: Final = 20.0


@pytest.fixture
def boot() -> Iterator[Boot]:
    with booted() as made:
        yield made


def settings(boot: Boot, text: str) -> dict[str, str]:
    path = boot.folder / "settings.toml"
    path.write_text(text)
    return {"PYRUNC_CONFIG": str(path)}


def sleepers(mark: str) -> list[str]:
    """List the processes that a warm-up started and that have not ended."""
    words = [Path(f"/proc/{name}/cmdline") for name in os.listdir("/proc") if name.isdecimal()]
    found = []
    for path in words:
        with contextlib.suppress(OSError):
            found.append(path.read_bytes().decode(errors="replace"))
    return [line for line in found if f"1000.{mark}" in line]


# --- a warm-up that fails -----------------------------------------------------------------------


def broken(boot: Boot, code: str) -> None:
    """Let the entry point run `code` first, to simulate a fault."""
    entry = boot.shim.with_name(f"{boot.shim.name}.py")
    first, last, rest = entry.read_text().partition("import shimv2.cold_start")
    entry.write_text(f"{first}{code}\n{last}{rest}")


def marker_with(reason: str) -> Path:
    """Return the newest file with this reason of a failed warm-up."""
    found = [path for path in zygotes.sockets_folder().glob("*.warmup") if reason in text_of(path)]
    return max(found, key=lambda path: path.stat().st_mtime)


def text_of(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:  # a file of another test
        return ""


def dead_folders() -> list[Path]:
    """List the folders of warm-ups whose process has ended."""
    folders = zygotes.sockets_folder().glob("warm-*")
    return [path for path in folders if not Path("/proc", path.name.removeprefix("warm-")).exists()]


# A warm-up that fails, as without memory for the image.
_REFUSES: Final = """
import errno, os
import shimv2.zygote.warmup as warmup
def up(place, **_):
    os.mkdir(place)
    if os.fork() == 0:
        os.execv("/bin/sleep", ["sleep", "1000.{mark}"])
    {act}
warmup.up = up
"""
_WAITS: Final = """
import shimv2.zygote.warmup as warmup
up = warmup.up
def wait(place, **how):
    open("{gate}").read()
    return up(place, **how)
warmup.up = wait
"""
FAILURES: Final = {
    "ENOMEM": ('raise OSError(errno.ENOMEM, "memfd_create")', "memfd_create"),
    "killed": ("os.kill(os.getpid(), 9)", "killed by signal 9"),
    "too long": ("import signal; signal.alarm(1); signal.pause()", "killed by signal 14"),
}
_UNSHARED: Final = """
import shimv2.pagesharing.canary as canary
canary._checksum = lambda _functions, seen=[]: seen.append(1) or len(seen)
"""


@pytest.mark.parametrize("failure", FAILURES)
def test_failed_warmup_logs_its_reason_and_leaves_nothing(boot: Boot, failure: str) -> None:
    """The start itself is not affected: it has been answered."""
    act, reason = FAILURES[failure]
    mark = str(time.monotonic_ns())
    broken(boot, (_REFUSES.format(act=act, mark=mark)))

    took_s = no_zygote(boot, "c1")

    line = logged(boot, "c1", "no zygote")
    assert took_s < _PATIENCE_S
    assert reason in line
    assert "level=warning" in line
    until(lambda: not sleepers(mark), "what the warm-up started to end")
    until(lambda: not dead_folders(), "its folder to be removed")
    assert not marker_with(reason).with_suffix(".sock").exists()


def test_failed_warmup_is_not_tried_again_for_a_minute(boot: Boot) -> None:
    """Then it is tried again, because the fault may be repaired."""
    tries = boot.folder / "tries"
    reason = f"OSError: no room {time.monotonic_ns()}"
    act = f'open("{tries}", "a").write("x"); raise OSError("{reason[9:]}")'
    broken(boot, (_REFUSES.format(act=act, mark="0")))
    no_zygote(boot, "c1")
    logged(boot, "c1", f"no zygote: {reason}")
    marker = marker_with(reason)

    no_zygote(boot, "c2")
    logged(boot, "c2", f"not tried again, 60 s after a failure: {reason}")
    assert tries.read_text() == "x"
    long_ago = time.time() - 61
    os.utime(marker, (long_ago, long_ago))
    no_zygote(boot, "c3")
    logged(boot, "c3", f"no zygote: {reason}")

    assert tries.read_text() == "xx"


# A warm-up that gets SIGTERM, once.
_STOPPED: Final = """
import os, signal
import shimv2.zygote.warmup as warmup
def stop(pid):
    if not os.path.exists("{flag}"):
        open("{flag}", "x").close()
        os.kill(pid, signal.SIGTERM)
"""
STOPS: Final = {
    "before it serves": """
real = warmup.up
def up(*args, **options):
    stop(os.getpid())
    return real(*args, **options)
warmup.up = up
""",
    "while it serves": """
real = warmup._call
def call(*args):
    stop(os.getppid())
    return real(*args)
warmup._call = call
""",
    "while its canary serves": """
real = warmup._call
def call(place, path, rounds):
    if rounds == warmup._CANARY_ROUNDS:
        stop(int(place.rpartition("-")[2]))
    return real(place, path, rounds)
warmup._call = call
""",
}


@pytest.mark.parametrize("moment", STOPS)
def test_warmup_that_sigterm_ended_is_no_failure(boot: Boot, moment: str) -> None:
    """It was the end of the machine, or an administrator: the next start makes a zygote."""
    broken(boot, _STOPPED.format(flag=boot.folder / "flag") + STOPS[moment])
    no_zygote(boot, "c1")
    assert "SIGTERM ended the warm-up" in logged(boot, "c1", "no zygote")
    until(lambda: not zygotes.supervisors(boot.shim), "the supervisor to end")
    assert zygotes.zygotes(boot.shim) == []

    no_zygote(boot, "c2")

    assert zygotes.zygote(boot.shim)


def test_supervisor_that_gets_sigterm_ends_the_warmup_which_is_no_failure(boot: Boot) -> None:
    """The supervisor does not wait for the warm-up: a shutdown gives it little time."""
    gate = boot.folder / "gate"
    os.mkfifo(gate)
    broken(boot, _WAITS.format(gate=gate))
    no_zygote(boot, "c1")
    with gate.open("w"):  # the warm-up has begun
        until(lambda: zygotes.supervisors(boot.shim), "the supervisor to have its title")
        (supervisor,) = zygotes.supervisors(boot.shim)
        os.kill(supervisor, signal.SIGTERM)
        assert "SIGTERM ended the warm-up" in logged(boot, "c1", "no zygote")
        until(lambda: not alive(supervisor), "the supervisor to end")
    assert zygotes.zygotes(boot.shim) == []

    no_zygote(boot, "c2")
    with gate.open("w"):  # the next warm-up has begun
        pass

    assert zygotes.zygote(boot.shim)


def test_two_cold_starts_at_once_leave_one_zygote(boot: Boot) -> None:
    """Both find no zygote; the second one finds that one is warming up."""
    ids = [f"c{n}" for n in range(4)]
    for id_ in ids:
        boot.bundle(id_)
    running = [boot.popen_start(id_) for id_ in ids]
    for each in running:
        each.communicate(timeout=_LIMIT_S)

    zygotes.zygote(boot.shim)

    assert len(zygotes.zygotes(boot.shim)) == 2  # with its waiting child


def test_start_does_not_wait_for_a_zygote_that_warms_up(boot: Boot) -> None:
    """It has no socket until it can serve."""
    gate = boot.folder / "gate"
    os.mkfifo(gate)
    broken(boot, _WAITS.format(gate=gate))
    no_zygote(boot, "c1")
    with gate.open("w"):  # the warm-up has begun
        took_s = no_zygote(boot, "c2")

    assert took_s < _PATIENCE_S
    assert zygotes.zygote(boot.shim)


# --- a zygote that must not serve
# --------------------------------------------------------------------


@pytest.mark.parametrize("text", ["zygote = false", "drain_grace_s = 1.0"], ids=["off", "changed"])
def test_changed_settings_end_a_zygote(boot: Boot, text: str) -> None:
    """It does not serve the start, and the next zygote has the new settings."""
    env = settings(boot, "")
    zygote = warmed(boot, env=env)
    waiting = zygotes.spare(boot.shim)
    settings(boot, text)

    pid = started(boot, "c1", env=env)

    assert pid != waiting
    until(lambda: not alive(zygote), "the zygote to end")
    if "false" in text:
        assert zygotes.zygotes(boot.shim) == []
    else:
        zygotes.zygote(boot.shim)
        waiting = zygotes.spare(boot.shim)
        assert started(boot, "c2", env=env) == waiting


def test_settings_beside_the_callers_folder_are_found(boot: Boot) -> None:
    """A relative path is resolved in the folder of the caller, not of the zygote."""
    boot.bundle("c1").joinpath("set.toml").write_text("")
    path_of(boot.start("c1", env={"PYRUNC_CONFIG": "set.toml"}))
    zygotes.zygote(boot.shim)
    waiting = zygotes.spare(boot.shim)
    bundle = boot.bundle("c2")
    bundle.joinpath("set.toml").write_text("")

    path_of(boot.start("c2", env={"PYRUNC_CONFIG": "set.toml"}))

    assert waiting in boot.servers()


def test_replaced_interpreter_gets_a_new_zygote(boot: Boot) -> None:
    """A security update of Python, protobuf or another library under a running zygote."""
    library = boot.folder / "library.so"
    library.write_bytes(b"one")
    conf = boot.shim.with_name(f"{boot.shim.name}.conf")
    conf.write_text(f"{conf.read_text()}{library}\n")
    warmed(boot)
    waiting = zygotes.spare(boot.shim)
    library.write_bytes(b"another")

    pid = started(boot, "c1")

    assert pid != waiting
    zygotes.pairs(boot.shim, 2)


def test_memory_that_cannot_be_shared_is_logged_and_costs_no_zygote(boot: Boot) -> None:
    """The canary finds that something has changed: the zygote serves, and its shims say why."""
    broken(boot, _UNSHARED)
    boot.bundle("c1")
    boot.start("c1")
    line = logged(boot, "c1", "memory is not shared")
    assert "shared memory has changed" in line
    assert "level=warning" in line

    program = Path(boot.shim)
    maps = Path(f"/proc/{zygotes.zygote(program)}/maps").read_text()
    assert sharing(maps) == "not shared: shared memory has changed"
