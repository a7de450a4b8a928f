"""The page of critest: its input, its content, and the failures of a run."""

import pytest

from tests.daemons.critest_page import GO, OURS, REASONS, read, render, verdict

_JUNIT = """<testsuites><testsuite>
<testcase name="[BeforeSuite]" status="passed"/>
<testcase name="[It] [k8s.io] Pods should run" status="passed"/>
<testcase name="[It] [k8s.io] Pods should stop | wait" status="failed"><failure/></testcase>
<testcase name="[It] [k8s.io] AppArmor" status="skipped"/>
<testcase name="[It] [k8s.io] benchmark" status="pending"/>
</testsuite></testsuites>"""
_KNOWN = f"Networking {next(iter(REASONS))}"


def test_specs_are_read_without_the_reporters_own() -> None:
    """A suite's set-up is no spec, and unselected specs do not count."""
    assert read(_JUNIT) == {
        "Pods should run": "passed",
        "Pods should stop | wait": "failed",
        "AppArmor": "skipped",
    }


@pytest.mark.parametrize(
    ("go", "ours", "wrong"),
    [
        ({"a": "passed"}, {"a": "passed"}, False),
        ({"a": "failed"}, {"a": "passed"}, False),
        ({"a": "skipped"}, {"a": "skipped"}, False),
        ({_KNOWN: "failed"}, {_KNOWN: "failed"}, False),
        ({"a": "failed"}, {"a": "failed"}, True),  # without an explanation
        ({"a": "passed"}, {"a": "failed"}, True),
        ({"a": "passed"}, {"a": "skipped"}, True),
        ({_KNOWN: "passed"}, {_KNOWN: "failed"}, True),
        ({"a": "passed"}, {"a": "panicked"}, True),
        ({"a": "passed"}, {}, True),
        ({}, {}, True),
    ],
)
def test_shim_has_to_pass_what_the_other_passes(
    go: dict[str, str], ours: dict[str, str], wrong: bool
) -> None:
    """A spec that passes with containerd's shim must pass, and every other failure needs a
    reason."""
    assert bool(verdict({"1.7.24": {GO: go, OURS: ours}})) is wrong


def test_page_has_each_spec_with_each_shim_and_the_totals() -> None:
    """A name that contains a bar stays in its cell."""
    go = read(_JUNIT)
    ours = {**go, "Pods should stop | wait": "passed", _KNOWN: "failed"}

    page = render({"1.7.24": {GO: go, OURS: ours}})

    assert f"| 1.7.24 | {GO} | 1 | 1 | 1 |" in page
    assert f"| 1.7.24 | {OURS} | 2 | 1 | 1 |" in page
    assert "| Pods should stop \\| wait | failed | passed |" in page
    assert f"| {_KNOWN} | - | failed |" in page
    assert f"* {_KNOWN}: {REASONS[next(iter(REASONS))]}" in page
