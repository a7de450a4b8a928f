"""Command lines of checkpoint and restore, and the option for criu."""

import asyncio
from pathlib import Path

import pytest

from shimv2.kernel.reaper import Reaper
from shimv2.runtime.criu import CriuOption, has_criu_option
from shimv2.runtime.runc import Runc
from shimv2.values.model import CheckpointSpec
from tests.support.aio import run
from tests.support.fake_runtime import FakeRuntime, checkpoint, create, restore

ALL = CheckpointSpec(
    path="/i",
    exit=True,
    open_tcp=True,
    external_unix_sockets=True,
    terminal=True,
    file_locks=True,
    empty_namespaces=("network", "ipc"),
    work_path="/not/looked/at",
    parent_path="/p",
)
OLD = "runc version 1.1.5+ds1\ncommit: 1.1.5+ds1-1+deb12u1\nspec: 1.0.2-dev\n"
RECORD = 'echo "$@" >>$HERE/calls\n'


@pytest.fixture
def fake(tmp_path: Path) -> FakeRuntime:
    return FakeRuntime(tmp_path)


def calls(fake: FakeRuntime) -> list[str]:
    """Return the arguments of each call, without the global ones."""
    head = f"--root {fake.root} --log {fake.log} --log-format json "
    return [line.removeprefix(head) for line in fake.saw("calls").splitlines()]


@pytest.mark.rule("task.checkpoint.2")
def test_options_of_a_checkpoint_are_in_the_order_of_the_reference(fake: FakeRuntime) -> None:
    """--leave-running is given unless the container has to end."""
    fake.script(RECORD)
    fake.run(lambda runc: checkpoint(runc, spec=ALL))

    assert calls(fake) == [
        (
            "checkpoint --image-path /i --work-path /w --parent-path /p --tcp-established "
            "--ext-unix-sk --shell-job --file-locks --empty-ns network --empty-ns ipc c1"
        )
    ]


@pytest.mark.rule("task.restore.2")
def test_options_of_a_restore_are_in_the_order_of_the_reference(fake: FakeRuntime) -> None:
    """The single dash of an option is the reference's."""
    fake.script(RECORD)
    fake.run(lambda runc: restore(runc, console_socket="/s", no_pivot=True), systemd_cgroup=True)

    assert calls(fake) == [
        (
            "--systemd-cgroup restore --image-path /i --work-path /w --detach "
            "--pid-file /b/init.pid --console-socket /s --no-pivot -no-subreaper --bundle /b c1"
        )
    ]


@pytest.mark.parametrize(
    ("version", "takes"),
    [
        (OLD, True),
        ("runc version 1.0.0-rc10\nspec: 1.0.1-dev\n", True),
        ("runc version 1.2.0\n", False),
        ("runc version 1.3.6+ds1\n", False),
        ("runc version 2.0\n", False),
        ("crun version 1.8.1\ncommit: x\nrundir: /run/user/0/crun\n", False),
        ("youki version 0.1\n", False),
        ("", False),
    ],
)
def test_runc_before_1_2_takes_the_option(version: str, takes: bool) -> None:
    assert has_criu_option(version) is takes


@pytest.mark.parametrize(
    ("version", "option"), [(OLD, "--criu /my/criu "), ("runc version 1.2.0", "")]
)
def test_criu_path_is_passed_where_it_matters_and_the_version_asked_once(
    fake: FakeRuntime, version: str, option: str
) -> None:
    """To read the version starts a process, so it is read when it is needed."""
    fake.script(f'{RECORD}[ "$*" != --version ] || echo "{version}"')

    async def verbs() -> None:
        reaper = Reaper(asyncio.get_running_loop())
        reaper.start()
        criu_option = CriuOption(reaper)  # the shim has one for all containers

        def runc() -> Runc:
            return fake.runc(reaper, criu_path="/my/criu", criu_option=criu_option)

        try:
            await create(runc())
            await asyncio.gather(checkpoint(runc()), checkpoint(runc()))
            await restore(runc())
        finally:
            reaper.stop()

    run(verbs(), 20)

    commands = [line.partition(" --image-path")[0] for line in calls(fake)]
    assert commands == [
        "create --bundle /b --pid-file /b/init.pid c1",
        "--version",
        *[f"{option}checkpoint"] * 2,
        f"{option}restore",
    ]


def test_runtime_that_reports_no_version_is_asked_again(fake: FakeRuntime) -> None:
    """A failure is not remembered: the next checkpoint may succeed."""
    fake.script(RECORD + '[ "$*" != --version ] || exit 1')

    async def twice(runc: Runc) -> None:
        for _ in range(2):
            await checkpoint(runc)

    async def verbs() -> None:
        reaper = Reaper(asyncio.get_running_loop())
        reaper.start()
        try:
            await twice(fake.runc(reaper, criu_path="/x", criu_option=CriuOption(reaper)))
        finally:
            reaper.stop()

    run(verbs(), 20)

    assert [line.split()[0] for line in calls(fake)] == ["--version", "checkpoint"] * 2


def test_no_criu_path_asks_nothing(fake: FakeRuntime) -> None:
    fake.script(RECORD)

    async def verbs() -> None:
        reaper = Reaper(asyncio.get_running_loop())
        reaper.start()
        try:
            await checkpoint(fake.runc(reaper, criu_option=CriuOption(reaper)))
        finally:
            reaper.stop()

    run(verbs(), 20)

    assert [line.split()[0] for line in calls(fake)] == ["checkpoint"]
