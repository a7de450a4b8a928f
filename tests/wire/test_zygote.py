"""Shims forked from a zygote: they equal cold ones, and a zygote never blocks a cold start."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from protos.task_v2_pb2 import DeleteResponse
from shimv2.shimctl.testbed import zygotes
from shimv2.shimctl.testbed.leaks import alive
from shimv2.shimctl.testbed.until import until
from shimv2.values.paths import SOCKET_DIR
from tests.support import launched
from tests.support.boot import NAME, RUNTIME, Boot, answers, arguments, fds, path_of
from tests.support.warm import booted, started, warmed

# Many times the duration of a cold start: a faulty zygote may take no longer.
_PATIENCE_S = 10.0


@pytest.fixture
def boot() -> Iterator[Boot]:
    with booted() as made:
        yield made


# --- warm starts -----------------------------------------------------------------------------


def test_start_after_the_first_is_forked_ahead_of_need(boot: Boot) -> None:
    """The waiting child becomes the shim, and another one waits."""
    warmed(boot)
    waiting = zygotes.spare(boot.shim)

    pid = started(boot, "second")

    assert pid == waiting
    assert zygotes.spare(boot.shim) not in (pid, waiting)


def test_zygote_and_waiting_child_hold_nothing(boot: Boot) -> None:
    """No fds except 0 to 2 and their sockets; a shim inherits only from its own caller."""
    pid = warmed(boot)

    for process in (pid, zygotes.spare(boot.shim)):
        found = fds(process)
        assert [found.pop(n) for n in (0, 1, 2)] == ["/dev/null"] * 3
        assert {to.split(":")[0] for to in found.values()} == {"socket"}
        assert os.readlink(f"/proc/{process}/cwd") == "/"
        assert Path(f"/proc/{process}/environ").read_bytes() == b""


def test_zygote_has_loaded_no_library_for_tls(boot: Boot) -> None:
    """Its forks would all have it: asyncio and hashlib load OpenSSL if they find it."""
    maps = Path(f"/proc/{warmed(boot)}/maps").read_text()

    assert "libmemory.so" in maps
    assert "libcrypto" not in maps


def test_many_starts_at_once_all_get_their_shim(boot: Boot) -> None:
    """A zygote has one process ready: other launchers wait, or make a cold start."""
    warmed(boot)
    ids = [f"c{n}" for n in range(12)]
    for id_ in ids:
        boot.bundle(id_)

    running = [
        subprocess.Popen(boot.args(id_, "start"), cwd=boot.state / id_, stdout=subprocess.PIPE)
        for id_ in ids
    ]
    paths = [each.communicate(timeout=60)[0].decode().removeprefix("unix://") for each in running]
    boot.forget_sockets(paths)

    assert [each.returncode for each in running] == [0] * len(ids)
    assert len(set(paths)) == len(ids)
    until(lambda: all(map(answers, paths)), "all servers to answer")


def test_delete_is_done_by_a_warm_process_too(boot: Boot) -> None:
    """Reply and warnings are those of a cold `delete`."""
    warmed(boot)
    bundle = boot.bundle("c1")
    (bundle / "init.pid").write_text("4194999")
    waiting = zygotes.spare(boot.shim)

    done = boot.delete("c1")

    answer = DeleteResponse.FromString(done.stdout)
    assert (done.returncode, done.stderr, answer.pid, answer.exit_status) == (0, b"", 4194999, 137)
    until(lambda: not alive(waiting), "the process that did it to end")


@pytest.mark.parametrize("action", ["start", "delete"])
def test_failures_are_reported_as_in_a_cold_start(boot: Boot, action: str) -> None:
    """Status, text on stderr, nothing on stdout, no leftovers."""
    warmed(boot)
    bundle = boot.bundle("c1", "{bad")
    (bundle / "options.json").write_text("{bad")
    sockets = os.listdir(SOCKET_DIR)

    done = boot.run(boot.args("c1", action), cwd=bundle)

    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.decode().startswith(f"{RUNTIME}: invalid JSON: Expecting property name ")
    assert set(os.listdir(SOCKET_DIR)) <= set(sockets)
    assert not (bundle / "address").exists()
    assert len(boot.servers()) == 1  # that of the first start


# --- launchers that are not served
# --------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o755, 0o707])
def test_folder_that_others_can_enter_is_not_trusted(boot: Boot, mode: int) -> None:
    """A user that can put a socket there could have its own shim run as root."""
    warmed(boot)
    waiting = zygotes.spare(boot.shim)
    folder = zygotes.sockets_folder()
    folder.chmod(mode)
    try:
        assert started(boot, "c1") != waiting
    finally:
        folder.chmod(0o700)


# --- a zygote that does not answer ----------------------------------------------------------------


def _signal_both(boot: Boot, number: int) -> None:
    for pid in zygotes.zygotes(boot.shim):
        os.kill(pid, number)


def test_killed_zygote_costs_nothing(boot: Boot) -> None:
    """Its socket refuses connections: the launcher makes a cold start, which makes another
    zygote."""
    first = warmed(boot)
    _signal_both(boot, signal.SIGKILL)
    until(lambda: not zygotes.zygotes(boot.shim), "both to be gone")

    started(boot, "c1")

    assert zygotes.zygote(boot.shim) != first


def test_stopped_zygote_costs_a_moment_and_does_nothing_later(boot: Boot) -> None:
    """When it continues, the launcher has made a cold start already."""
    warmed(boot)
    _signal_both(boot, signal.SIGSTOP)
    began = time.monotonic()

    pid = started(boot, "c1")

    assert time.monotonic() - began < _PATIENCE_S
    _signal_both(boot, signal.SIGCONT)
    waiting = zygotes.spare(boot.shim)
    assert started(boot, "c2") == waiting  # it serves again
    assert sorted(arguments(p)[4] for p in boot.servers()) == ["c1", "c2", "first"]
    assert pid in boot.servers()


def test_zygote_that_dies_harms_no_shim(boot: Boot) -> None:
    warmed(boot)
    pid = started(boot, "c1")

    _signal_both(boot, signal.SIGKILL)
    until(lambda: not zygotes.zygotes(boot.shim), "both to be gone")

    assert alive(pid)
    assert len(boot.servers()) == 2


def test_waiting_child_ends_with_its_zygote(boot: Boot) -> None:
    """No launcher could find it."""
    zygote = warmed(boot)

    os.kill(zygote, signal.SIGKILL)

    until(lambda: not zygotes.zygotes(boot.shim), "the spare to be gone")


# --- a caller that disconnects
# -----------------------------------------------------------------------


def test_delete_whose_launcher_is_killed_ends_with_its_runtime(boot: Boot) -> None:
    """containerd kills a `delete` after 5 s: the launcher, which it has started."""
    warmed(boot)
    root, gate = boot.folder / "root", boot.folder / "gate"
    (root / boot.namespace / "c1").mkdir(parents=True)
    os.mkfifo(gate)
    runtime = boot.folder / "runtime"
    runtime.write_text(f"#!/bin/sh\necho $$ >{gate}\nexec sleep 1000\n")
    runtime.chmod(0o755)
    bundle = boot.bundle("c1")
    (bundle / "runtime").write_text(str(runtime))
    (bundle / "options.json").write_text(f'{{"root":"{root}"}}')
    waiting = zygotes.spare(boot.shim)
    launcher = subprocess.Popen(boot.args("c1", "delete"), cwd=bundle)
    child = int(gate.read_text())

    launcher.send_signal(signal.SIGTERM)  # ignored, as by a cold `delete`
    assert alive(child)
    launcher.kill()
    launcher.wait()

    until(lambda: not alive(waiting), "the process that did the work to end")
    until(lambda: not alive(child), "its runtime to end")


def test_start_whose_launcher_is_killed_leaves_no_shim(boot: Boot) -> None:
    """The answer is not read, so no client would know the shim."""
    warmed(boot)
    bundle = boot.bundle("c1")
    waiting = zygotes.spare(boot.shim)
    reader, stdin = os.pipe()  # `start` reads its input to the end, which never comes
    launcher = subprocess.Popen(boot.args("c1", "start"), cwd=bundle, stdin=reader)
    os.close(reader)
    until(lambda: len(zygotes.zygotes(boot.shim)) == 3, "the work to begin, and another spare")

    launcher.kill()
    launcher.wait()

    until(lambda: not alive(waiting), "the process that did the work to end")
    os.close(stdin)
    assert len(boot.servers()) == 1
    assert not (bundle / "address").exists()


# --- its end ------------------------------------------------------------------------------------


def _settings(boot: Boot, text: str) -> dict[str, str]:
    path = boot.folder / "settings.toml"
    path.write_text(text)
    return {"PYRUNC_CONFIG": str(path)}


def test_zygote_lingers_and_ends_after_the_last_shim(boot: Boot) -> None:
    """On an idle node the zygote ends after the configured time."""
    env = _settings(boot, "zygote_linger_s = 1.0")
    zygote = warmed(boot, env=env)
    started(boot, "c1", env=env)  # a fork of it, so the zygote stays as long as this shim
    mine = launched.socket_of(zygote)

    assert alive(zygote)
    boot.stop_all()

    until(lambda: not zygotes.zygotes(boot.shim), "the zygote to end")
    assert not mine.exists()


def test_what_a_killed_zygote_left_is_removed_by_the_next(boot: Boot) -> None:
    """It was killed while it warmed up, or has a key that no launcher has any more."""
    folder = zygotes.sockets_folder()
    warmed(boot)
    left = folder / "warm-4194999"  # no such process: pids end below
    left.mkdir()
    (left / "log").touch()
    zygotes.end_zygotes(boot.shim)

    boot.bundle("second")
    path_of(boot.start("second"))
    zygotes.zygote(boot.shim)

    assert not left.exists()


def test_zygote_can_be_switched_off(boot: Boot) -> None:
    boot.bundle("c1")
    path = path_of(boot.start("c1", env=_settings(boot, "zygote = false")))
    until(lambda: answers(path), "the server to answer")

    assert zygotes.zygotes(boot.shim) == []


def test_launcher_without_its_conf_file_reports_it(boot: Boot) -> None:
    """A broken installation is reported at once, with the missing file."""
    conf = boot.shim.with_name(f"{NAME}.conf")
    conf.unlink()
    boot.bundle("c1")

    done = boot.start("c1")

    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.decode() == f"{conf}: No such file or directory"
