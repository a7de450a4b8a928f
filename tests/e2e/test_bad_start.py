"""`start` with bad input: the reference's status and text, and nothing left behind."""

import os
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from shimv2.shimctl import spec
from shimv2.shimctl.harness import Harness, Setup
from shimv2.shimctl.launch import ShimFailed
from shimv2.shimctl.reply import Generation
from tests.support.harnessed import in_harness
from tests.support.host import OTHER_SHIM

pytestmark = pytest.mark.root

NAME = "io.containerd.runc.v2" if OTHER_SHIM else "io.containerd.pyrunc.v2"
TRUE = spec.Wanted(["true"])


@dataclass(frozen=True)
class Outcome:
    status: int
    stdout: str
    stderr: str


async def run_binary(harness: Harness, *flags: str, cwd: str) -> Outcome:
    """Run the binary with containerd's flags before `flags`; return both outputs separately."""
    status, out, err = await harness.binary.run(
        list(flags), cwd=cwd, stdin=b"", combined=False, limit_s=10
    )
    return Outcome(status, out.decode(), err.decode())


def command(*argv: str) -> None:
    subprocess.run(argv, check=True)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (None, "open config.json: no such file or directory"),
        ("{broken", "invalid "),
    ],
    ids=["missing", "broken"],
)
def test_start_without_a_good_config_fails(setup: Setup, text: str | None, error: str) -> None:
    """No config.json, no grouping: exit 1 with the reason on stderr."""

    async def scenario(harness: Harness) -> None:
        bundle = harness.make_bundle("c1", TRUE)
        config = Path(bundle.path, "config.json")
        config.unlink()
        if text is not None:
            config.write_text(text)
        with pytest.raises(ShimFailed) as raised:
            await harness.binary.start(bundle)

        assert raised.value.exit_status == 1
        assert raised.value.output.startswith(f"{NAME}: {error}")
        bundle.remove()

    in_harness(setup, scenario)


def test_unknown_flag_is_refused_with_the_usage(setup: Setup) -> None:
    """Go's flag package: the text and the usage on stderr, exit 2."""

    async def scenario(harness: Harness) -> None:
        bundle = harness.make_bundle("c1", TRUE)
        result = await run_binary(harness, "-id", "c1", "-foo", "start", cwd=bundle.path)

        assert (result.status, result.stdout) == (2, "")
        first, second = result.stderr.splitlines()[:2]
        assert first == "flag provided but not defined: -foo"
        assert second.startswith("Usage of ")
        bundle.remove()

    in_harness(setup, scenario)


@pytest.mark.parametrize("namespace", ["no good!", "a/b", "../up"])
def test_namespace_of_bad_characters_is_refused(setup: Setup, namespace: str) -> None:
    """A namespace becomes part of paths: it is checked first (seen with 1.6.20)."""

    async def scenario(harness: Harness) -> None:
        bundle = harness.make_bundle("c1", TRUE)
        # The last flag counts: containerd's own comes before.
        result = await run_binary(
            harness, "-namespace", namespace, "-id", "c1", "start", cwd=bundle.path
        )

        pattern = "^[A-Za-z0-9]+(?:[._-](?:[A-Za-z0-9]+))*$"
        words = f'namespace validation: identifier "{namespace}" must match {pattern}'
        assert (result.status, result.stdout) == (1, "")
        assert result.stderr == f"{NAME}: {words}: invalid argument"
        bundle.remove()

    in_harness(setup, scenario)


def test_empty_namespace_is_refused(setup: Setup) -> None:
    """Every mode but -v and -info needs one."""

    async def scenario(harness: Harness) -> None:
        bundle = harness.make_bundle("c1", TRUE)
        result = await run_binary(harness, "-namespace", "", "-id", "c1", "start", cwd=bundle.path)

        assert result == Outcome(1, "", f"{NAME}: shim namespace cannot be empty")
        bundle.remove()

    in_harness(setup, scenario)


@pytest.mark.rule("cli.socket.7")
@pytest.mark.ours("the shim of containerd 1.6 has no socket_dir")
def test_socket_folder_that_cannot_be_written_fails_start(setup: Setup) -> None:
    """The reason is reported, and neither a server nor a socket remains."""

    async def scenario(harness: Harness) -> None:
        folder = os.path.join(setup.state, "ro")
        os.mkdir(folder)
        command("mount", "-t", "tmpfs", "-o", "ro", "tmpfs", folder)
        try:
            bundle = harness.make_bundle("c1", TRUE)
            binary = replace(harness.binary, generation=Generation.V2_3, socket_dir=folder)
            with pytest.raises(ShimFailed) as raised:
                await binary.start(bundle)
            assert os.listdir(folder) == []
        finally:
            command("umount", folder)

        assert raised.value.exit_status == 1
        assert raised.value.output.startswith(f"{NAME}: create new shim socket: ")
        assert raised.value.output.endswith("read-only file system")
        bundle.remove()

    in_harness(setup, scenario)
