"""Create with bad input: the reference's code and text, nothing left behind, the shim still
runs."""

import os
import shutil
import stat
from pathlib import Path

import pytest

from shimv2.shimctl import spec
from shimv2.shimctl.harness import Harness, Setup
from shimv2.shimctl.reply import runc_options
from shimv2.values.model import Mount, Stdio
from tests.support.harnessed import (
    assert_alive_and_empty,
    give_delete_its_files,
    in_harness,
    refused,
)
from tests.support.host import words

pytestmark = pytest.mark.root

TRUE = spec.Wanted(["true"])


@pytest.mark.rule("task.create.6")
def test_create_with_the_bundle_gone_is_not_found(setup: Setup) -> None:
    """The first file that cannot be written names the path."""

    async def scenario(harness: Harness) -> None:
        container = await harness.start_shim("c1", TRUE)
        gone = os.path.join(setup.state, "nobundle")
        code, text = await refused(container.task.create("c1", gone))

        assert (code, text) == (5, f"open {gone}/options.json: no such file or directory")
        await assert_alive_and_empty(container)
        give_delete_its_files(container)
        await container.remove()

    in_harness(setup, scenario)


def test_shim_outlives_a_bundle_removed_under_it(setup: Setup) -> None:
    """A bundle that vanished is an error of that Create; the shim can still be shut down."""

    async def scenario(harness: Harness) -> None:
        container = await harness.start_shim("c1", TRUE)
        await container.task.connected("c1")  # it answers, so it has opened its files in the bundle
        shutil.rmtree(container.bundle.path)
        code, _ = await refused(container.task.create("c1", container.bundle.path))

        assert code == 5
        await assert_alive_and_empty(container)
        os.makedirs(os.path.join(container.bundle.path, "rootfs"))
        give_delete_its_files(container)
        await container.remove()

    in_harness(setup, scenario)


@pytest.mark.rule("task.words.4")
@pytest.mark.parametrize(
    ("binary", "cause"),
    [
        ("nosuchrunc", 'exec: "nosuchrunc": executable file not found in $PATH'),
        ("/no/such/runc", "fork/exec /no/such/runc: no such file or directory"),
    ],
    ids=["name", "path"],
)
def test_create_with_a_missing_runtime_names_it(setup: Setup, binary: str, cause: str) -> None:
    """Go's error text for a missing program."""

    async def scenario(harness: Harness) -> None:
        container = await harness.start_shim("c1", TRUE)
        code, text = await refused(container.create(options=runc_options(binary_name=binary)))

        log = f"open {container.bundle.path}/log.json: no such file or directory"
        why = f"unable to retrieve OCI runtime error ({log})"
        assert (code, text) == (2, f"OCI runtime create failed: {why}: {cause}")
        await assert_alive_and_empty(container)
        # `delete` would use the same runtime: let it use the real one.
        Path(container.bundle.path, "runtime").write_text("")
        await container.remove()

    in_harness(setup, scenario)


NO_LOG = "unable to retrieve OCI runtime error (open {bundle}/log.json: no such file or directory)"
ERROR_LINE = '{{"level":"{}","msg":"{}","time":"2026-01-01T00:00:00Z"}}'
LOGGED = [("error", "first msg"), ("error", "second msg"), ("info", "no matter")]
LOGGING = "; ".join(f"echo '{ERROR_LINE.format(*entry)}' >>\"$log\"" for entry in LOGGED)


@pytest.mark.rule("task.words.1", "task.words.2")
@pytest.mark.parametrize(
    ("script", "template"),
    [
        ("exit 3", f"{NO_LOG}: {{runtime}} did not terminate successfully: exit status 3"),
        (f"{LOGGING}; exit 1", "second msg"),
        ("kill -9 $$", f"{NO_LOG}: {{runtime}} did not terminate successfully: exit status 137"),
    ],
    ids=["silent", "two-errors", "killed"],
)
def test_create_with_a_failing_runtime_passes_its_error_on(
    setup: Setup, script: str, template: str
) -> None:
    """The last error of its log; without a log the reason and the exit status."""

    async def scenario(harness: Harness) -> None:
        runtime = _scripted_runtime(setup, f'case " $* " in *" create "*) {script};; esac')
        container = await harness.start_shim("c1", TRUE)
        code, text = await refused(container.create(options=runc_options(binary_name=runtime)))

        expected = template.format(bundle=container.bundle.path, runtime=runtime)
        assert (code, text) == (2, f"OCI runtime create failed: {expected}")
        await assert_alive_and_empty(container)
        await container.remove()

    in_harness(setup, scenario)


@pytest.mark.rule("task.words.5", "task.create.8")
@pytest.mark.parametrize(
    ("wanted", "runc", "crun"),
    [
        (
            spec.Wanted(["/bin/nosuch"]),
            'exec: "/bin/nosuch": stat /bin/nosuch: no such file or directory',
            "executable file `/bin/nosuch` not found in $PATH: No such file or directory",
        ),
        (
            spec.Wanted(["nosuch"]),
            'exec: "nosuch": executable file not found in $PATH',
            "executable file `nosuch` not found in $PATH: No such file or directory",
        ),
        (
            spec.Wanted(["/etc"]),
            'exec: "/etc": permission denied',
            "open executable: Operation not permitted",
        ),
    ],
    ids=["absolute", "on-path", "folder"],
)
def test_create_of_a_program_that_cannot_run_leaves_no_mount(
    setup: Setup, wanted: spec.Wanted, runc: str, crun: str
) -> None:
    """The runtime's text, unchanged; the root is unmounted again."""

    async def scenario(harness: Harness) -> None:
        container = await harness.start_shim("c1", wanted)
        mount = harness.root_mount(container.bundle)
        code, text = await refused(container.create(rootfs=[mount]))

        start = "runc create failed: unable to start container process"
        expected = words(runc=f"{start}: {runc}", crun=crun)
        assert (code, text) == (2, f"OCI runtime create failed: {expected}")
        assert not os.path.ismount(os.path.join(container.bundle.path, "rootfs"))
        await assert_alive_and_empty(container)
        await container.remove()

    in_harness(setup, scenario)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (None, "JSON specification file config.json not found"),
        ("{bad", "invalid character 'b' looking for beginning of object key string"),
    ],
    ids=["missing", "broken"],
)
def test_create_without_a_good_config_fails_in_the_runtime(
    setup: Setup, text: str | None, error: str
) -> None:
    """The file is valid at `start`, and missing or broken at Create."""

    async def scenario(harness: Harness) -> None:
        container = await harness.start_shim("c1", TRUE)
        config = Path(container.bundle.path, "config.json")
        config.unlink()
        if text is not None:
            config.write_text(text)
        code, message = await refused(container.create())

        by = words(runc=f"runc create failed: {error}", crun="error loading config.json")
        assert (code, message) == (2, f"OCI runtime create failed: {by}")
        await assert_alive_and_empty(container)
        await container.remove()

    in_harness(setup, scenario)


@pytest.mark.rule("io.pipes.6")
def test_create_with_a_missing_stdio_path_fails(setup: Setup) -> None:
    """The error text of the stream copy."""

    async def scenario(harness: Harness) -> None:
        container = await harness.start_shim("c1", spec.Wanted(["sleep", "1000"]))
        path = os.path.join(setup.state, "nofile")
        mount = harness.root_mount(container.bundle)
        stdio = Stdio(stdout=path, stderr=path)
        code, text = await refused(container.create(rootfs=[mount], stdio=stdio))

        copying = "failed to start io pipe copy: unable to copy pipes: containerd-shim: "
        opening = f'opening file "{path}" failed: open {path}: no such file or directory'
        assert (code, text) == (2, copying + opening)
        await assert_alive_and_empty(container)
        await container.remove()

    in_harness(setup, scenario)


@pytest.mark.rule("task.create.10", "io.pipes.6")
@pytest.mark.vm
@pytest.mark.ours("Go leaves the created container to the daemon's `delete`")
def test_create_that_fails_after_runc_removes_the_container(setup: Setup) -> None:
    """The shim deletes a container that no client can name any more."""

    async def scenario(harness: Harness) -> None:
        container = await harness.start_shim("c1", spec.Wanted(["sleep", "1000"]))
        mount = harness.root_mount(container.bundle)
        path = os.path.join(setup.state, "nofile")
        await refused(container.create(rootfs=[mount], stdio=Stdio(stdout=path, stderr=path)))

        assert not os.path.exists(f"/run/containerd/runc/{setup.namespace}/c1")
        assert not os.path.ismount(os.path.join(container.bundle.path, "rootfs"))
        assert await container.create(rootfs=[mount]) > 0  # the id is free again
        await container.remove()

    in_harness(setup, scenario)


PARSE = 'unable to parse stdout uri: parse "%zz:/x":'


@pytest.mark.rule("task.create.9", "io.select.6")
@pytest.mark.parametrize(
    ("stdout", "error"),
    [
        ("foo:///x", "unknown STDIO scheme foo"),
        (
            "%zz:/x",
            f"{PARSE} first path segment in URL cannot contain colon",
        ),
    ],
    ids=["scheme", "url"],
)
def test_create_with_a_bad_stdio_uri_fails(setup: Setup, stdout: str, error: str) -> None:
    """Refused before runc is called."""

    async def scenario(harness: Harness) -> None:
        container = await harness.start_shim("c1", TRUE)
        code, text = await refused(container.create(stdio=Stdio(stdout=stdout)))

        assert (code, text) == (2, f"failed to create init process I/O: {error}")
        await assert_alive_and_empty(container)
        await container.remove()

    in_harness(setup, scenario)


@pytest.mark.rule("task.create.7")
def test_create_with_a_mount_that_fails_undoes_the_mounts_before_it(setup: Setup) -> None:
    """All mounts are made or none; the text begins as that of the reference."""

    async def scenario(harness: Harness) -> None:
        container = await harness.start_shim("c1", TRUE)
        good = harness.root_mount(container.bundle)
        code, text = await refused(container.create(rootfs=[good, Mount("nofs", "nosrc", "")]))

        assert code == 2
        assert text.startswith("failed to mount rootfs component")
        assert text.endswith("no such device")
        assert not os.path.ismount(os.path.join(container.bundle.path, "rootfs"))
        await assert_alive_and_empty(container)
        await container.remove()

    in_harness(setup, scenario)


@pytest.mark.rule("task.create.11")
def test_second_create_of_an_id_harms_nothing(setup: Setup) -> None:
    """runc's error text is passed on; the first container continues."""

    async def scenario(harness: Harness) -> None:
        container = await harness.run("c1", "sleep", "1000")
        pid = (await container.task.state("c1")).pid
        code, text = await refused(container.create())

        why = "runc create failed: container with given ID already exists"
        assert (code, text) == (2, f"OCI runtime create failed: {why}")
        state = await container.task.state("c1")
        assert (state.pid, state.status) == (pid, "RUNNING")
        assert os.path.ismount(os.path.join(container.bundle.path, "rootfs"))
        ended = await container.kill_and_wait()
        removed = await container.remove()
        assert (ended.status, removed.exit.pid) == (137, pid)

    in_harness(setup, scenario)


def _scripted_runtime(setup: Setup, act: str) -> str:
    """Return a runtime that runs `act` and then runc; `$log` is the path of its log."""
    path = os.path.join(setup.state, "fakerunc")
    find = 'prev=; for word; do [ "$prev" = --log ] && log=$word; prev=$word; done'
    Path(path).write_text(f'#!/bin/sh\n{find}\n{act}\nexec runc "$@"\n')
    os.chmod(path, stat.S_IRWXU)
    return path
