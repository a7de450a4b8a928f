"""The annotation `pyrunc.shim/stdin-hangup-s`: stdin ends after its client has disconnected."""

import os

import pytest

from shimv2.shimctl import spec
from shimv2.shimctl.harness import Harness, Setup
from shimv2.shimctl.streams import Capture
from tests.support.harnessed import in_harness
from ttrpc import StatusError

pytestmark = [pytest.mark.root, pytest.mark.ours("the annotation is ours")]


@pytest.mark.parametrize(
    ("terminal", "script", "status"),
    [
        (False, "echo ready; cat; exit 4", 4),
        (True, "trap 'exit 6' HUP; echo ready; while :; do sleep 0.1; done", 6),
    ],
    ids=["pipe", "terminal"],
)
def test_container_reads_the_end_of_its_input_after_its_client_disconnected(
    setup: Setup, terminal: bool, script: str, status: int
) -> None:
    """Without CloseIO, as after a kill of the client; a terminal is hung up (SIGHUP)."""
    annotations = {"pyrunc.shim/stdin-hangup-s": "1"}
    wanted = spec.Wanted(["sh", "-c", script], terminal=terminal, annotations=annotations)

    async def scenario(harness: Harness) -> None:
        container = await harness.run("c1", stdin=True, wanted=wanted)
        screen = container.stdout
        assert isinstance(screen, Capture)
        await screen.until(b"ready")
        client = os.open(container.bundle.fifo("stdin"), os.O_WRONLY)
        os.write(client, b"last words\n")
        os.close(client)
        ended = await container.task.wait("c1", timeout_s=20)
        await screen.ended()
        await container.remove()

        assert ended.status == status
        assert "last words" in screen.text

    in_harness(setup, scenario)


def test_annotation_that_is_no_number_fails_the_create(setup: Setup) -> None:
    """The shim does not guess the intended value."""
    wanted = spec.Wanted(["true"], annotations={"pyrunc.shim/stdin-hangup-s": "soon"})

    async def scenario(harness: Harness) -> None:
        with pytest.raises(StatusError, match=r'stdin-hangup-s="soon": expected 0 to 86400'):
            await harness.create("c1", wanted)

    in_harness(setup, scenario)
