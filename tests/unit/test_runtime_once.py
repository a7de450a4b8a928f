"""Calls of a runtime without a loop, as in `delete`."""

import os
from pathlib import Path

import pytest

from shimv2.runtime.command import CommandFailed
from shimv2.runtime.once import delete_force_now, features_now
from tests.support.fake_runtime import FakeRuntime, is_alive


@pytest.fixture
def fake(tmp_path: Path) -> FakeRuntime:
    return FakeRuntime(tmp_path)


def delete(fake: FakeRuntime, *, binary: str | None = None, timeout_s: float = 20.0) -> None:
    """Delete container c1, of which the runtime has state."""
    os.makedirs(f"{fake.root}/c1", exist_ok=True)
    delete_force_now(
        binary=fake.binary if binary is None else binary,
        root=fake.root,
        log_path=str(fake.log),
        container_id="c1",
        timeout_s=timeout_s,
    )


def test_forced_delete_has_the_command_line_of_the_reference(fake: FakeRuntime) -> None:
    """Without --systemd-cgroup."""
    fake.script('for ARG; do echo "$ARG"; done >$HERE/argv')
    delete(fake)

    head = ["--root", fake.root, "--log", str(fake.log), "--log-format", "json"]
    assert fake.saw("argv").splitlines() == [*head, "delete", "--force", "c1"]


def test_empty_runtime_file_means_runc(fake: FakeRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file `runtime` is empty when no binary was named."""
    fake.script("touch $HERE/ran")
    os.rename(fake.binary, fake.folder / "runc")
    monkeypatch.setenv("PATH", f"{fake.folder}:{os.environ['PATH']}")
    delete(fake, binary="")

    assert fake.has_seen("ran")


def test_failure_is_reported_with_its_output(fake: FakeRuntime) -> None:
    """`delete` has this text in its warning."""
    fake.script("echo container id cannot be empty >&2; exit 1")
    with pytest.raises(CommandFailed) as caught:
        delete(fake)

    assert str(caught.value) == (
        f"{fake.binary} did not terminate successfully: "
        "exit status 1: container id cannot be empty\n"
    )
    assert caught.value.exit_status == 1


def test_missing_runtime_is_reported(fake: FakeRuntime) -> None:
    with pytest.raises(CommandFailed, match="executable file not found") as caught:
        delete(fake, binary="nosuchrunc")

    assert caught.value.exit_status == -1


@pytest.mark.rule("cli.delete.4")
def test_hanging_runtime_is_killed_with_its_children(fake: FakeRuntime) -> None:
    """containerd kills `delete` after five seconds: there must be time left to unmount."""
    fake.script("trap '' TERM; sleep 1000 & echo $! >$HERE/child; echo $$ >$HERE/pid; wait")
    with pytest.raises(CommandFailed, match="exit status 137"):
        delete(fake, timeout_s=0.3)

    assert not is_alive(int(fake.saw("pid")))


def test_endless_output_blocks_no_writer(fake: FakeRuntime) -> None:
    """The output is cut at a limit, and the program continues."""
    fake.script('head -c 10485760 /dev/zero | tr "\\0" x; exit 1')
    with pytest.raises(CommandFailed) as caught:
        delete(fake)

    assert len(str(caught.value)) < 70_000


def test_features_are_what_the_runtime_prints(fake: FakeRuntime) -> None:
    """The JSON of `runc features`; a runtime without that verb is an error."""
    fake.script("""[ "$1" = features ] && echo '{"ociVersionMin":"1.0.0"}' || exit 1""")

    assert features_now(fake.binary, timeout_s=20.0) == b'{"ociVersionMin":"1.0.0"}\n'
    fake.script("echo unknown command >&2; exit 1")
    with pytest.raises(CommandFailed, match="unknown command"):
        features_now(fake.binary, timeout_s=20.0)
